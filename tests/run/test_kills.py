"""Sixty kills with SIGKILL change no bit, no row and no prompt."""

import collections
import json
import random
import signal
import time

import pytest

from dllm_jax.run import setup
from tests import tiny_run
from tests.run import test_resume

# A checkpoint a step, so that most of the time goes into saving; momentum, a
# reference and a best-so-far as in `test_resume`.
RUN = tiny_run.flags(
  method__policy__beta=0.01,
  base__patience=9,
  base__num_steps=8,
  base__eval_every=4,
  train__num_steps=40,
  train__eval_every=10,
)
KILLS = 60
SCRIPT = '../tests/faulty_train.py'


def attempts_of(log):
  """What each process began: lists of (time, phase, step, ids)."""
  found = collections.defaultdict(list)
  if log.exists():
    for line in log.read_text().splitlines():
      attempt, *rest = json.loads(line)
      found[attempt].append(rest)
  return list(found.values())


def consumed(log):
  """{(phase, step): ids}: what was done again counts as it was done last."""
  return {
    (phase, step): ids
    for steps in attempts_of(log)
    for _, phase, step, ids in steps
  }


def multiset(steps):
  return collections.Counter(i for ids in steps.values() for i in ids)


def newest(run):
  """The newest checkpoint of each phase."""
  return {
    phase: setup.stage_checkpoints(run, phase, 1).latest() or 0
    for phase in ('sft', 'rl')
  }


class AtRandom:
  """True at a random moment of one of the first four steps of a process.

  A process begins a step as the last is saved. In its first it compiles, which
  takes longer than all the others: a kill there is a kill of nothing.
  """

  def __init__(self, log, rng, pace):
    self._log = log
    self._lines = self._count() + rng.randint(1, 4)
    self._wait = rng.uniform(0.0, pace)
    self._began = None

  def _count(self):
    return self._log.read_bytes().count(b'\n') if self._log.exists() else 0

  def __call__(self):
    if self._began is None and self._count() >= self._lines:
      self._began = time.monotonic()
    late = self._began is not None
    return late and time.monotonic() - self._began > self._wait


@pytest.mark.slow
def test_sixty_kills_change_nothing(commands, tmp_path):
  def start(name):
    log = tmp_path / f'{name}.jsonl'
    run = tmp_path / name
    return commands.start(SCRIPT, f'record:{log}', *RUN, '--workdir', run)

  began = time.monotonic()
  command = start('whole')
  assert command.wait() == 0, command.err
  (steps,) = attempts_of(tmp_path / 'whole.jsonl')
  pace = (steps[-1][0] - steps[0][0]) / (len(steps) - 1)
  rng, kills, saving, runs = random.Random(0), 0, 0, 0
  while kills < KILLS:  # a run that comes to its end is followed by another
    runs += 1
    name, before, ended = f'run{runs}', {'sft': 0, 'rl': 0}, False
    run, log = tmp_path / name, tmp_path / f'{name}.jsonl'
    while not ended:
      known = len(attempts_of(log))
      command = start(name)
      if kills < KILLS:
        command.signal_when(signal.SIGKILL, AtRandom(log, rng, pace))
      code = command.wait()
      assert code in (0, -signal.SIGKILL), command.err
      assert command.err == '' and 'damaged' not in command.out
      ended = code == 0
      kills += not ended
      saving += any(run.glob('checkpoints/*/*.partial'))
      if len(attempts_of(log)) > known:
        # It went on at the very step that was saved last.
        _, phase, step, _ = attempts_of(log)[-1][0]
        assert step == before[phase], (phase, step, before)
      before = newest(run)
    test_resume.assert_same_run(run, tmp_path / 'whole')
    want, got = (consumed(tmp_path / f'{n}.jsonl') for n in ('whole', name))
    assert got == want and multiset(got) == multiset(want)
    assert sorted(got) == [('rl', i) for i in range(40)] + [
      ('sft', i) for i in range(8)
    ]
  print(
    f'{kills} kills, {saving} of them in a save, over {runs} run(s) of '
    f'{len(steps)} steps, {pace:.2f} s each: '
    f'{time.monotonic() - began:.0f} s in all'
  )
