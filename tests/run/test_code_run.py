"""RL on programs: rewards come through the sandbox; kills change nothing."""

import contextlib
import ctypes
import json
import os
import signal
import time

import pytest

from dllm_jax import errors
from dllm_jax.run import settings, setup
from dllm_jax.run import train as run_lib
from dllm_jax.runtime import console
from dllm_jax.state import metrics
from dllm_jax.tasks.sandbox import hosts
from tests import commands as commands_lib
from tests import tiny_code, tiny_run
from tests.tasks.sandbox_attacks import trial

pytestmark = pytest.mark.skipif(
  not hosts.available_tiers(), reason='no program can be confined'
)
CONFIG = '--config=tests/tiny_code.py'
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return tiny_code.write(tmp_path_factory.mktemp('data'))


def args(run, data_dir, **changes):
  config = {'data_dir': data_dir, 'data__cache_dir': data_dir / 'cache'}
  return (CONFIG, *tiny_run.flags(**(config | changes)), '--workdir', run)


def test_a_run_on_code(commands, data_dir, tmp_path):
  run = tmp_path / 'run'
  few = {'train__num_steps': 2, 'train__eval_every': 0, 'eval__num_steps': (6,)}
  command = commands.run('train.py', *args(run, data_dir, **few))
  assert (command.code, command.err) == (0, '')
  rows = [row for row in metrics.read(run) if row['phase'] == 'rl']
  assert len(rows) == 2
  for row in rows:
    assert {'terms/tests', 'terms/passed', 'task/has_program'} <= set(row)
    assert row['reward/not_finite'] == 0
  found = json.loads((run / 'eval.json').read_text())
  assert (found['task'], found['num']) == ('kodcode', 8)
  assert found['final']['unjudged'] == 0


@pytest.mark.parametrize(
  ('name', 'value', 'line'),
  [
    ('sandbox_tier', 'none', 'sandbox_tier must be auto'),
    ('sandbox_cpu_seconds', 0.0, 'cpu_seconds must be in'),
    ('sandbox_memory_mib', 1, 'memory_bytes must be'),
    ('sandbox_workers', -1, 'sandbox_workers must not'),
    ('prompt_style', 'd2', 'prompt_style must be'),
  ],
)
def test_a_wrong_key_is_one_line(name, value, line):
  values = tiny_code.get_config().to_dict()
  values['task'][name] = value
  with pytest.raises(errors.UserError) as caught:
    settings.from_config(values)
  assert f"config group 'task': {line}" in str(caught.value)
  assert '\n' not in str(caught.value)


def test_a_host_without_a_sandbox_is_refused_before_any_work(
  data_dir, tmp_path, monkeypatch
):
  monkeypatch.setattr(hosts, 'lacks', lambda tier: f'no {tier}')
  values = tiny_code.get_config().to_dict() | {'data_dir': str(data_dir)}
  values['data']['cache_dir'] = str(data_dir / 'cache')
  values['task']['sandbox_workers'] = 3  # none that is open
  run = tmp_path / 'run'
  with pytest.raises(errors.UserError, match='no namespaces'):
    run_lib.train(values, run, console.Console())
  assert not run.exists()


@contextlib.contextmanager
def adopting():
  """Orphans of this process's descendants become its children."""
  prctl = ctypes.CDLL(None).prctl
  assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
  try:
    yield
  finally:
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def newest(run):
  return setup.stage_checkpoints(run, 'rl', 1).latest() or 0


@pytest.mark.slow
def test_a_killed_run_ends_as_if_nothing_had_happened(
  data_dir, tmp_path, monkeypatch
):
  """Nor is anything left of it: no process, no temporary file."""
  temporary = tmp_path / 'temporary'
  temporary.mkdir()
  monkeypatch.setenv('TMPDIR', str(temporary))
  server = commands_lib.Server(tmp_path)
  # Enough supervised training that some of the programs are right.
  longer = {
    'base__num_steps': 200,
    'base__eval_every': 100,
    'base__optim__learning_rate': 1e-2,
    'checkpoint__every': 2,
    'train__num_steps': 8,
  }
  try:
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    command = server.run('train.py', *args(whole, data_dir, **longer))
    assert (command.code, command.err) == (0, '')
    with adopting():
      before = set(trial.descendants(os.getpid()))
      command = server.start('train.py', *args(broken, data_dir, **longer))
      ready = lambda: newest(broken) >= 2
      assert command.signal_when(signal.SIGKILL, ready) == -signal.SIGKILL
      time.sleep(trial.REST)
      left = set(trial.descendants(os.getpid())) - before
      assert {pid: trial.command(pid) for pid in left} == {}
    assert 2 <= newest(broken) < 8 and not (broken / 'final').exists()
    command = server.run('train.py', *args(broken, data_dir, **longer))
    assert (command.code, command.err) == (0, '')
    assert 'resuming' in command.out
  finally:
    server.close()
  for name in ('base', 'final'):
    tiny_run.assert_same(
      tiny_run.kept(broken / name), tiny_run.kept(whole / name)
    )
  rows, again = (
    [
      {k: v for k, v in row.items() if not k.startswith('time/')}
      for row in metrics.read(run)
    ]
    for run in (whole, broken)
  )
  assert rows == again
  tests = [row['terms/tests'] for row in rows if row['phase'] == 'rl']
  assert len(tests) == 8 and 0 < max(tests) < 1 and len(set(tests)) > 2
  # TFDS leaves an empty folder when it builds a data set.
  left = [x for x in os.listdir(temporary) if not x.endswith('tfds')]
  assert left == []
