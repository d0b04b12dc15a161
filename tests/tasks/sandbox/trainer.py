"""A process with a sandbox that is busy, to be killed; says which tier."""

import sys

from dllm_jax.tasks import coding, sandbox

tier = sys.argv[1]
bounds = sandbox.Limits(cpu_seconds=60)
pool = sandbox.Sandbox(bounds, tier=tier, workers=3)
print('busy', flush=True)
test = 'def check(f):\n  for n in (1, 2): assert f() == n'
pool.judge(
  [
    coding.Submission(f'def f():\n  {body}', test, 'f')
    for body in (
      'while True: pass',
      'import time; time.sleep(99)',
      'import signal, time\n'
      '  for n in range(1, 30):\n'
      '    try: signal.signal(n, signal.SIG_IGN)\n'
      '    except OSError: pass\n'
      '  while True: time.sleep(9)',
    )
  ]
)
