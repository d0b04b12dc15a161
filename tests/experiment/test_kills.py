"""Sixty kills with SIGKILL change no bit, no row and no prompt."""

import collections
import json
import random
import signal
import time

import pytest

from dllm_jax.experiment import setup
from tests import tiny_run
from tests.experiment import test_resume

# A checkpoint a step, so that most of the time goes into saving; momentum, a
# reference and a best-so-far as in `test_resume`.
RUN = tiny_run.flags(
  method__policy__beta=0.01,
  base__patience=20,
  base__num_steps=30,
  base__eval_every=10,
  train__num_steps=150,
  train__eval_every=25,
)
KILLS = 60
SCRIPT = '../tests/faulty_train.py'


def consumed(path):
  """The steps that began, attempt by attempt: [(phase, step, ids)]."""
  attempts = collections.defaultdict(list)
  for line in path.read_text().splitlines():
    attempt, phase, step, ids = json.loads(line)
    attempts[attempt].append((phase, step, ids))
  return list(attempts.values())


def that_count(attempts):
  """{(phase, step): ids}: what was done again counts as it was done last."""
  return {(p, step): ids for steps in attempts for p, step, ids in steps}


def multiset(steps):
  return collections.Counter(i for ids in steps.values() for i in ids)


def newest(run, phase):
  return setup.stage_checkpoints(run, phase, 1).latest() or 0


class AtRandom:
  """True some time after the first step began: seconds drawn at random.

  Starting takes longer than a few steps, and a kill in it is of no interest
  more than now and then: one in six comes at any time from the start.
  """

  def __init__(self, log, rng):
    self._log, self._size = log, self._size_of(log)
    self._early = rng.random() < 1 / 6
    self._wait = rng.uniform(0.0, 2.5)
    self._began = time.monotonic() if self._early else None

  @staticmethod
  def _size_of(log):
    return log.stat().st_size if log.exists() else 0

  def __call__(self):
    if self._began is None and self._size_of(self._log) > self._size:
      self._began = time.monotonic()
    late = self._began is not None
    return late and time.monotonic() - self._began > self._wait


@pytest.mark.slow
def test_sixty_kills_change_nothing(commands, tmp_path):
  whole, run = tmp_path / 'whole', tmp_path / 'run'
  whole_log, log = tmp_path / 'whole.jsonl', tmp_path / 'run.jsonl'
  start = lambda log, run: commands.start(
    SCRIPT, f'record:{log}', *RUN, '--workdir', run
  )
  command = start(whole_log, whole)
  assert command.wait() == 0, command.err
  rng = random.Random(0)
  killed, before, in_saves, found = 0, None, 0, []
  began = time.monotonic()
  while killed < KILLS:
    num_attempts = len(consumed(log)) if log.exists() else 0
    command = start(log, run)
    code = command.signal_when(signal.SIGKILL, AtRandom(log, rng))
    assert code == -signal.SIGKILL, command.out + command.err
    killed += 1
    assert command.err == '' and 'damaged' not in command.out
    in_saves += any(run.glob('checkpoints/*/*.partial'))
    attempts = consumed(log) if log.exists() else []
    if len(attempts) > num_attempts and before is not None:
      # It went on at the very step that was saved last.
      phase, step, _ = attempts[-1][0]
      assert step == before[phase], (phase, step, before)
    before = {phase: newest(run, phase) for phase in ('sft', 'rl')}
    found.append(before['rl'])
  command = start(log, run)
  assert command.wait() == 0, command.err
  assert found == sorted(found)
  test_resume.assert_same_run(run, whole)
  want, got = (that_count(consumed(path)) for path in (whole_log, log))
  assert got == want and multiset(got) == multiset(want)
  rows = [(p, step) for p in ('sft', 'rl') for step in range(newest(run, p))]
  assert sorted(got) == sorted(rows)
  print(
    f'{killed} kills in {time.monotonic() - began:.0f} s, {in_saves} of them '
    f'in a save; steps saved when they came: {found}'
  )
