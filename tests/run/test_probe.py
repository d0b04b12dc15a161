"""What a few updates teach: shares by hand, and a probe of a tiny run."""

import io
import json

import jax
import numpy as np
import pytest

from dllm_jax import errors
from dllm_jax.run import probe, train
from dllm_jax.runtime import console
from tests import tiny_run

SIZES = {'rollout__num_prompts': 4, 'data__num_validation': 4}


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  directory = tmp_path_factory.mktemp('probe') / 'run'
  config = tiny_run.values('sft', train__num_steps=0)
  train.train(config, directory, console.Console(file=io.StringIO()))
  return directory / 'base'


def config_of(base, **changes):
  arms = {'free': {'method': {'guided': {'num_guided': 0}}}}
  own = SIZES | {'arms': arms, 'base__path': str(base)}
  return tiny_run.values(**(own | changes))


def test_a_probe_trains_every_arm_from_the_same_base(base, tmp_path):
  screen = io.StringIO()
  made = probe.ProbeConfig(num_updates=2, num_rounds=2)
  config = config_of(base, train__optim__learning_rate=0.05)
  found = probe.probe(config, made, console.Console(file=screen))
  assert list(found) == ['rl', 'free']
  for arm in found.values():
    for part in ('seen', 'unseen'):
      measured = arm[part]
      assert measured['gain'] == pytest.approx(
        measured['after'] - measured['before']
      )
      assert measured['before'] == found['rl'][part]['before']
      assert 0 <= measured['failed_before'] <= 1
  assert 'guided/correct' in found['rl']['updates']
  assert 'guided/correct' not in found['free']['updates']
  assert found['rl']['updates']['policy/sampler_gap_guided'] > 0
  shown = io.StringIO()
  probe.show(found, console.Console(file=shown))
  assert 'gap, guided' in shown.getvalue()
  probe.save(found, tmp_path / 'probe.json')
  assert json.loads((tmp_path / 'probe.json').read_text()) == found


def test_without_updates_nothing_changes(base):
  """The draws before and after are the same."""
  made = probe.ProbeConfig(num_updates=0, num_rounds=1)
  found = probe.probe(
    config_of(base, arms={}), made, console.Console(file=io.StringIO())
  )
  for part in ('seen', 'unseen'):
    assert found['rl'][part]['gain'] == found['rl'][part]['error'] == 0.0
  assert found['rl']['updates'] == {}


def test_shares_by_hand(monkeypatch):
  """Two prompts of two completions, in two rounds."""
  cfg, ctx = tiny_run.parts(rollout__num_prompts=2, rollout__group_size=2)
  rounds = iter([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, np.nan, 0.0]])
  seen = []

  def verdicts(ctx, rows, rollouts, reward):
    seen.append(np.array(rollouts.trajectory.tokens))
    return np.array(next(rounds))

  monkeypatch.setattr(probe.batch, 'verdicts', verdicts)
  params = jax.jit(ctx.denoiser.init)(jax.random.key(0))
  rows = tiny_run.rows('5+3-1', '3-1+5')
  found = probe.success(ctx, params, rows, cfg.rollout, 2)
  np.testing.assert_allclose(found.share, [0.75, 0.0])
  assert found.failed == 0.5  # the second prompt, in both rounds
  assert not np.array_equal(*seen)  # other draws in the second round


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'base__path': ''}, 'base.path is empty'),
    ({'data__num_validation': 2}, 'num_validation is 2'),
    ({'base__path': '/no/such'}, '/no/such'),
  ],
)
def test_what_cannot_be_probed_is_refused(base, changes, message):
  made = probe.ProbeConfig(num_updates=1, num_rounds=1)
  with pytest.raises(errors.UserError, match=message) as caught:
    probe.probe(
      config_of(base, **changes), made, console.Console(file=io.StringIO())
    )
  assert '\n' not in str(caught.value)


def test_sft_has_no_rollouts(base):
  config = tiny_run.values('sft', base__path=str(base))
  made = probe.ProbeConfig(num_updates=1, num_rounds=1)
  with pytest.raises(errors.UserError, match="'sft', which has no rollouts"):
    probe.probe(config, made, console.Console(file=io.StringIO()))


def test_the_command(base, commands, tmp_path):
  out = tmp_path / 'probe.json'
  flags = [*tiny_run.flags(base__path=base, **SIZES), '--out', out]
  ran = commands.run('probe.py', *flags, '--updates', 1, '--rounds', 1)
  assert ran.code == 0, ran.err
  assert list(json.loads(out.read_text())) == ['rl']
  assert 'gap, guided' in ran.out
  ran = commands.run('probe.py', *flags)
  assert ran.code == 1 and 'already exists' in ran.err
