"""launch/train.py with a fault put into it, for tests of whole runs.

tests/faulty_train.py FAULT ... --config ... --workdir ...

  record:FILE   appends each step that begins, its time and its rows' ids
  hang:STEP     a rollout of that step never ends
"""

import json
import os
import pathlib
import runpy
import sys
import threading
import time

from dllm_jax.train.methods import ag_grpo, sft

TRAIN = pathlib.Path(__file__).resolve().parents[1] / 'launch' / 'train.py'


def before_collect(method, act) -> None:
  """Calls `act(phase, rows, step)` before each `collect` of a method."""
  collect = method.collect

  def wrapped(self, state, rows, step):
    act(self.phase, rows, step)
    return collect(self, state, rows, step)

  method.collect = wrapped


def record(path: str) -> None:
  file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

  def act(phase, rows, step):
    ids = [row['id'] for row in rows]
    line = json.dumps([os.getpid(), time.monotonic(), phase, step, ids])
    os.write(file, f'{line}\n'.encode())  # all of it, or nothing

  before_collect(sft.Sft, act)
  before_collect(ag_grpo.AgGrpo, act)


def hang(at: str) -> None:
  def act(phase, rows, step):
    del rows
    if (phase, step) == ('rl', int(at)):
      threading.Event().wait()

  before_collect(ag_grpo.AgGrpo, act)


FAULTS = {'record': record, 'hang': hang}

if __name__ == '__main__':
  # The config, put first by `commands`, may stand before the fault.
  index = next(
    i for i, a in enumerate(sys.argv) if a.partition(':')[0] in FAULTS
  )
  name, _, value = sys.argv.pop(index).partition(':')
  FAULTS[name](value)
  sys.argv[0] = str(TRAIN)
  runpy.run_path(str(TRAIN), run_name='__main__')
