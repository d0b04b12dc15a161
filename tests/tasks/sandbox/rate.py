"""Evaluations a CPU-second of all processes: rate.py TIER values|judge."""

import resource
import sys

from dllm_jax.tasks import coding, sandbox
from tests.tasks.sandbox import processes

_ROWS = '([1, 2], 3, [1, 2, 3]), ([], 0, [0]), ([5], 6, [5, 6])'
_TESTS = {
  'values': 'assert f([1, 2], 3) == [1, 2, 3]\nassert f([], 0) == [0]\n'
  'assert f([5], 6) == [5, 6]',
  'judge': f'def check(f):\n  for a, b, c in ({_ROWS}): assert f(a, b) == c',
}


def _cpu_seconds(pool):
  own = resource.getrusage(resource.RUSAGE_SELF)
  return own.ru_utime + own.ru_stime + processes.cpu_seconds(*pool.pids())


tier, mode = sys.argv[1:]
batch = [
  coding.Submission(f'def f(xs, x): return [*xs, x]  # {n}', _TESTS[mode], 'f')
  for n in range(400)
]
with sandbox.Sandbox(tier=tier, workers=1) as pool:
  assert all(v.passed for v in pool.judge(batch[:20]))
  before = _cpu_seconds(pool)
  assert all(v.passed for v in pool.judge(batch[20:]))
  used = _cpu_seconds(pool) - before
print(tier, mode, f'{380 / used:.0f} a CPU-second')
