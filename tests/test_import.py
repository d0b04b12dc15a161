"""Importing the library costs little and touches no device."""

import os
import pathlib
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[1]


def run(code: str) -> str:
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=os.environ | {'PYTHONPATH': str(REPO)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


def test_importing_dllm_jax_imports_no_jax():
  code = """
import sys, dllm_jax
heavy = ('jax', 'flax', 'numpy', 'rich', 'orbax', 'tensorflow_datasets')
print([name for name in heavy if name in sys.modules])
"""
  assert run(code) == '[]'


def test_importing_every_module_initialises_no_backend():
  code = """
import importlib, pkgutil, dllm_jax
for module in pkgutil.walk_packages(dllm_jax.__path__, 'dllm_jax.'):
  if not module.name.startswith(
    (
      'dllm_jax.bench.torch_reference',
      'dllm_jax.integrations.lm_eval',
      'dllm_jax.tasks.sandbox.',
    )
  ):
    importlib.import_module(module.name)
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized())
"""
  assert run(code) == 'False'
