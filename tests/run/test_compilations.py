"""How many programs a run compiles: each costs time at the start."""

import collections
import os
import pathlib
import re
import subprocess
import sys

from tests import commands

REPO = pathlib.Path(__file__).resolve().parents[2]


def test_a_run_compiles_each_large_program_once(tmp_path):
  """Base, AG-GRPO, control and evaluation."""
  done = subprocess.run(
    [sys.executable, REPO / 'launch' / 'train.py']
    + ['--config', commands.CONFIG, '--config.train.control=True']
    + ['--workdir', tmp_path / 'run'],
    cwd=REPO,
    env=os.environ
    | {
      'JAX_LOG_COMPILES': '1',
      'PYTHONPATH': str(REPO),
      'XLA_FLAGS': commands.XLA_FLAGS,
    },
    capture_output=True,
    text=True,
    timeout=commands.SECONDS,
  )
  assert done.returncode == 0, done.stderr[-1000:]
  compiled = collections.Counter(
    re.findall(r'Finished XLA compilation of jit\((\S+)\)', done.stderr)
  )
  # Rollouts and evaluations differ in their rows; both are sampled.
  assert compiled['sample'] == 2
  for name in ('init', 'inner_step', '_update', 'assemble'):
    assert compiled[name] == 1
  # 55 at the time of writing, most of them JAX's own small ones.
  assert compiled.total() <= 80, compiled
