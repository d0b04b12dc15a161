"""A run that is stopped at any point ends as if nothing had happened."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import time

import pytest

from dllm_jax import metric_names
from dllm_jax.run import setup
from dllm_jax.state import metrics
from tests import tiny_run

NAMES = ('base', 'final')
# Momentum, a reference and a best-so-far: all that an update can depend on.
RUN = tiny_run.flags(method__policy__beta=0.01, base__patience=3)


def measured(directory):
  """Rows of metrics.jsonl without the times, and eval.json likewise."""
  rows = [
    {k: v for k, v in row.items() if not k.startswith('time/')}
    for row in metrics.read(directory)
  ]
  found = json.loads((directory / 'eval.json').read_text())
  assert set(found.pop('seconds')) == {'base', 'rl', 'eval'}
  for name in NAMES:
    for summary in (found[name], *found[name]['sweep'].values()):
      assert summary.pop('tokens_per_second') > 0
  return rows, found


def assert_same_run(got, want):
  for name in NAMES:
    tiny_run.assert_same(tiny_run.kept(got / name), tiny_run.kept(want / name))
  assert measured(got) == measured(want)


@pytest.fixture(scope='module')
def whole(commands, tmp_path_factory):
  """The directory of a run that nothing disturbed."""
  directory = tmp_path_factory.mktemp('whole') / 'run'
  command = commands.run('train.py', *RUN, '--workdir', directory)
  assert (command.code, command.err) == (0, '')
  return directory


def test_an_uninterrupted_run_is_complete(whole):
  rows = [(row['phase'], row['step']) for row in metrics.read(whole)]
  assert rows == (
    [('sft', i) for i in range(1, 5)]
    + [('rl', i) for i in range(1, 7)]
    + [('eval', 0), ('eval', 6)]
  )
  base, final = (tiny_run.kept(whole / name) for name in NAMES)
  assert any((base[k] != final[k]).any() for k in base)
  evaluated = {
    (row['phase'], row['step'])
    for row in metrics.read(whole)
    if 'eval/accuracy' in row
  }
  assert evaluated == {('sft', 2), ('sft', 4), ('rl', 3), ('rl', 6)}


def test_a_run_logs_the_table_except_path_credit_and_control(whole):
  logged = {name for row in metrics.read(whole) for name in row}
  of_conversations = {'eval/loss', 'base/loss', 'final/loss'}
  unlogged = metric_names.METRICS.keys() - logged - of_conversations
  groups = {name.partition('/')[0] for name in unlogged}
  assert groups == {'credit', 'control', 'consensus'}
  charts = (*metric_names.LEARNING, *metric_names.GUIDED)
  drawn = {name for chart in charts for name in chart.names}
  # The run has one inner step, so no last one of several.
  credit = {name for name in drawn if name.startswith('credit/')}
  assert drawn - logged == credit | {'policy/last_clip_fraction'}
  solution = [row['terms/solution'] for row in metrics.read(whole)[4:10]]
  assert all(0 <= value <= 1 for value in solution)


class Changes:
  """True once the files of a run have changed so many times, and a moment on.

  Saving changes them most, so that most kills fall into a save.
  """

  def __init__(self, run, rng, most):
    self._run, self._left = run, rng.randint(1, most)
    self._moment, self._end = rng.uniform(0.0, 0.05), None
    self._paths = self._look()

  def _look(self):
    """Paths below the run; `os.walk` passes over what has just gone."""
    return {
      os.path.join(folder, name)
      for folder, folders, files in os.walk(self._run)
      for name in folders + files
    }

  def __call__(self):
    if self._end is not None:
      return time.monotonic() > self._end
    paths = self._look()
    self._left -= paths != self._paths
    self._paths = paths
    if self._left <= 0:
      self._end = time.monotonic() + self._moment
    return False


def kill(commands, run, ready):
  """Starts the run and kills it when it is time; whether it ran still."""
  command = commands.start('train.py', *RUN, '--workdir', run)
  code = command.signal_when(signal.SIGKILL, ready)
  assert code in (0, -signal.SIGKILL), command.err
  return code != 0


def finish(commands, run, whole):
  """Lets the run end, and compares it with the one that nothing disturbed."""
  command = commands.run('train.py', *RUN, '--workdir', run)
  assert (command.code, command.err) == (0, '')
  assert_same_run(run, whole)
  return command


def newest(run):
  """The newest RL checkpoint; 0 where there is none."""
  return setup.stage_checkpoints(run, 'rl', 1).latest() or 0


def test_two_kills_change_nothing(commands, whole, tmp_path):
  run = tmp_path / 'run'
  assert kill(commands, run, Changes(run, random.Random(0), 40))
  before = newest(run)
  assert kill(commands, run, lambda: newest(run) > before)
  command = finish(commands, run, whole)
  assert 'resuming' in command.out and 'base model from' in command.out


def assert_only_the_notice(text):
  """Of the first signal, as it arrives."""
  (line,) = text.strip().splitlines()
  assert ': stopping once all is saved' in line


def test_sigterm_saves_and_the_same_command_goes_on(commands, whole, tmp_path):
  run = tmp_path / 'run'
  command = commands.start('train.py', *RUN, '--workdir', run)
  code = command.signal_when(signal.SIGTERM, lambda: newest(run) > 0)
  assert code == 3, command.err
  assert_only_the_notice(command.err)
  assert 'stopped and saved; rerun to resume' in command.out
  rows = [row['step'] for row in metrics.read(run) if row['phase'] == 'rl']
  assert rows == list(range(1, newest(run) + 1)) and len(rows) < 6
  assert not (run / 'final').exists()
  finish(commands, run, whole)


def test_a_second_signal_during_the_save_does_not_break_it(
  commands, whole, tmp_path
):
  """Ctrl-C at once after SIGUSR1, and again, while the save goes on."""
  run = tmp_path / 'run'
  command = commands.start('train.py', *RUN, '--workdir', run)

  def ready():
    if not newest(run):
      return False
    for number in (signal.SIGUSR1, signal.SIGINT):
      os.kill(command.pid, number)
    while not any(run.glob('checkpoints/rl/*.partial')):
      if not os.path.exists(f'/proc/{command.pid}'):
        break
    return True

  assert command.signal_when(signal.SIGTERM, ready) == 3, command.err
  assert_only_the_notice(command.err)
  assert not any(run.glob('checkpoints/rl/*.partial'))
  finish(commands, run, whole)


def test_a_hang_ends_the_run_and_the_same_command_goes_on(
  commands, whole, tmp_path
):
  run = tmp_path / 'run'
  seconds = '--config.train.watchdog_seconds=15.0'
  command = commands.run(
    '../tests/faulty_train.py', 'hang:3', *RUN, seconds, '--workdir', run
  )
  assert command.code == 4, command.err
  line = command.err.splitlines()[-1]
  assert 'in rl collecting of step 4; stacks are in' in line
  assert 'wrapped' in (run / 'watchdog.txt').read_text()  # in faulty_train.py
  assert newest(run) == 3
  finish(commands, run, whole)


def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(
  commands, whole, mounted
):
  place = mounted('size=16m')
  run, ballast = place / 'run', place / 'ballast'
  command = commands.start('train.py', *RUN, '--workdir', run)

  def ready():
    if newest(run) < 2:
      return False
    with contextlib.suppress(OSError), ballast.open('wb', buffering=0) as file:
      while True:
        file.write(bytes(4096))
    return True

  assert command.signal_when(0, ready) == 1, command.err
  assert command.err.count('\n') == 1 and command.err.startswith('train.py: ')
  assert 'room' in command.err or 'No space left on device' in command.err
  stopped = newest(run)
  assert 2 <= stopped <= 3
  ballast.unlink()
  command = finish(commands, run, whole)
  assert 'damaged' not in command.out


def test_sigterm_before_the_first_step_saves_that_step(commands, tmp_path):
  run = tmp_path / 'run'
  every = '--config.checkpoint.every=100'
  command = commands.start('train.py', *RUN, every, '--workdir', run)
  started = run / 'metrics.jsonl'
  assert command.signal_when(signal.SIGTERM, started.exists) == 3, command.err
  assert [row['step'] for row in metrics.read(run)] == [1]
  assert (run / 'checkpoints' / 'sft' / '1' / 'manifest.json').exists()


def digests(directory):
  """Bytes of every file by its path."""
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file()
  }


def test_a_finished_run_shows_its_table_and_changes_nothing(commands, whole):
  before = digests(whole)
  command = commands.run('train.py', *RUN, '--workdir', whole)
  assert (command.code, command.err) == (0, '')
  assert 'holds a finished run' in command.out
  assert f'report: {whole / "report.html"}' in ''.join(command.out.split('\n'))
  assert '6 steps' in command.out and 'base' in command.out
  after = digests(whole)
  assert {k for k in before | after if before.get(k) != after.get(k)} <= {
    'config.json',
    '.lock',
  }


def test_more_steps_of_a_finished_run_are_a_run_of_their_own(
  commands, whole, tmp_path
):
  longer = (*RUN, '--config.train.num_steps=9')
  refused = commands.run('train.py', *longer, '--workdir', whole)
  assert refused.code == 1 and refused.err.count('\n') == 1
  (advice,) = re.findall(r'--config\.base\.path=[^\s)]*', refused.err)
  assert advice == f'--config.base.path={whole / "final"}'
  run = commands.run('train.py', *longer, advice, '--workdir', tmp_path / 'new')
  assert (run.code, run.err) == (0, '')
  other = commands.run(
    'train.py', *longer, '--config.model.num_layers=3', '--workdir', whole
  )
  assert other.code == 1 and 'base.path' not in other.err


def test_a_kill_before_the_results_are_written(commands, whole, tmp_path):
  """Everything but eval.json is there; the evaluation is not logged twice."""
  run = tmp_path / 'run'
  shutil.copytree(whole, run)
  (run / 'eval.json').unlink()
  finish(commands, run, whole)
