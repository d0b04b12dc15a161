"""A run of TA-GRPO-d: its results, its sweep, and its continuation."""

import json
import signal

import pytest

from dllm_jax import metric_names
from dllm_jax.state import metrics
from tests import tiny_run

GATED = ('--config', 'tests/tiny_run.py:ta_grpo_d')
PNG = b'\x89PNG'


@pytest.fixture(scope='module')
def whole(commands, tmp_path_factory):
  """The directory of a finished run with a control, and what it printed."""
  directory = tmp_path_factory.mktemp('gated') / 'run'
  flags = tiny_run.flags(train__control=True)
  command = commands.run('train.py', *GATED, *flags, '--workdir', directory)
  assert (command.code, command.err) == (0, '')
  return directory, command.out


def results(directory):
  return json.loads((directory / 'eval.json').read_text())


def timeless(found):
  """Results without speeds and seconds."""
  if isinstance(found, dict):
    return {
      k: timeless(v)
      for k, v in found.items()
      if k not in ('tokens_per_second', 'seconds')
    }
  return [timeless(v) for v in found] if isinstance(found, list) else found


def test_results_and_picture(whole):
  directory, said = whole
  found = results(directory)
  for name in ('base', 'control', 'final'):
    assert list(found[name]['sweep']) == ['6', '3']
    assert list(found[name]['thresholds']) == ['0.2', '0.05']
  chosen = found['final']['at_threshold']
  same = found['final']['thresholds'][chosen['threshold']]
  assert chosen == {'threshold': chosen['threshold']} | same
  assert found['final']['trained_steps'] == found['final']['kept_step'] == 6
  assert set(found['frontier']) == {'control', 'final'}
  for row in found['frontier']['final']:
    own = found['final']['thresholds'][row['threshold']]
    assert row['accuracy'] == own['accuracy']
    assert row['mean_steps'] == pytest.approx(own['mean_steps'])
  assert (directory / 'frontier.png').read_bytes().startswith(PNG)
  assert 'accuracy (%) in mean steps, by threshold' in said
  assert 'chosen on validation rows' in said


def test_path_credit_and_the_control_are_logged(whole):
  logged = {name for row in metrics.read(whole[0]) for name in row}
  ours = {
    name
    for name in metric_names.METRICS
    if name.startswith(('credit/', 'control/'))
  }
  assert ours <= logged


def test_what_is_watched_is_logged(whole):
  rows = [r for r in metrics.read(whole[0]) if r['phase'] == 'rl']
  assert len(rows) == 6
  for row in rows:
    assert {
      'rollout/confidence',
      'rollout/tokens_per_step',
      'rollout/num_steps',
      'policy/entropy',
      'credit/z',
      'credit/flipped',
      'credit/push',
      'group/zero_variance',
    } <= set(row)
    assert ('eval/mean_steps' in row) == (row['step'] in (3, 6))


def test_the_sweep_says_what_the_run_said(commands, whole, tmp_path):
  out = tmp_path / 'frontier.json'
  command = commands.run(
    'eval.py', *GATED, '--model', whole[0], '--sweep', '--out', out
  )
  assert (command.code, command.err) == (0, '')
  swept, found = json.loads(out.read_text()), results(whole[0])
  assert timeless(swept['frontier']) == timeless(found['frontier'])
  for name in ('base', 'control', 'final'):
    for kind in ('sweep', 'thresholds'):
      assert timeless(swept[name][kind]) == timeless(found[name][kind])
  assert out.with_suffix('.png').read_bytes().startswith(PNG)


@pytest.mark.parametrize(
  'flags, kind, setting',
  [
    (['--threshold=0.05'], 'thresholds', '0.05'),
    # Without --threshold, that of the test gate, not of the training gate.
    (['--config.eval.threshold=0.2'], 'thresholds', '0.2'),
    (['--decode=fixed', '--steps=3'], 'sweep', '3'),
  ],
)
def test_one_decoding(commands, whole, tmp_path, flags, kind, setting):
  out = tmp_path / 'out.json'
  command = commands.run(
    'eval.py', *GATED, '--model', whole[0], '--out', out, *flags
  )
  assert (command.code, command.err) == (0, '')
  got = timeless(json.loads(out.read_text()))
  want = timeless(results(whole[0])['final'][kind][setting])
  assert {k: got[k] for k in want} == want


def test_a_config_of_another_model_is_refused(commands, whole):
  for flags in (
    ['--config.task.max_number=8'],
    ['--config.model.rope_theta=500.0'],
  ):
    command = commands.run('eval.py', *GATED, '--model', whole[0], *flags)
    assert command.code == 1 and command.err.count('\n') == 1
    assert f'{whole[0]} was trained with' in command.err


def test_a_base_of_another_run_is_found(commands, whole, tmp_path):
  """The sweep of a run whose base.path names another run's base."""
  run, out = tmp_path / 'run', tmp_path / 'out' / 'frontier.json'
  flags = tiny_run.flags(base__path=whole[0] / 'base')
  command = commands.run('train.py', *GATED, *flags, '--workdir', run)
  assert (command.code, command.err) == (0, '')
  assert not (run / 'base').exists()
  args = ('--model', run, '--sweep', '--out', out)
  command = commands.run('eval.py', *GATED, *args)
  assert (command.code, command.err) == (0, '')
  swept = json.loads(out.read_text())
  assert timeless(swept['base']) == {
    k: timeless(results(whole[0])['base'][k]) for k in swept['base']
  }
  assert swept['frontier']['final']


def test_a_stopped_run_goes_on_to_the_same_results(commands, whole, tmp_path):
  run = tmp_path / 'run'
  args = ('train.py', *GATED, '--workdir', run)
  command = commands.start(*args)
  saved = run / 'checkpoints' / 'rl' / '2' / 'manifest.json'
  assert command.signal_when(signal.SIGTERM, saved.exists) == 3, command.err
  command = commands.run(*args)
  assert (command.code, command.err) == (0, '')
  tiny_run.assert_same(
    tiny_run.kept(run / 'final'), tiny_run.kept(whole[0] / 'final')
  )
  got, want = timeless(results(run)), timeless(results(whole[0]))
  assert got['final'] == want['final'] and got['base'] == want['base']
