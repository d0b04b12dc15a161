"""Ctrl-C is one line and exit code 130, wherever the program is."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]

CHILD = """
  import gc, importlib.abc, runpy, signal, sys

  # A job in the background of a script starts with SIGINT ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  moment, *sys.argv = sys.argv[1:]
  come = lambda: signal.raise_signal(signal.SIGINT)

  class InAnImport(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
      if name == moment:
        come()

  def in_a_callback(phase, info):
    gc.callbacks.remove(in_a_callback)
    come()

  def as_another_error(*args):
    try:
      come()
    except KeyboardInterrupt:
      raise RuntimeError('INTERNAL: KeyboardInterrupt')

  sys.path.insert(0, sys.argv[0].rpartition('/')[0])
  sys.meta_path.insert(0, InAnImport())
  if moment == 'callback':
    import cli
    gc.callbacks.append(in_a_callback)
  elif moment == 'error':
    import cli
    cli.setup_jax = as_another_error
  runpy.run_path(sys.argv[0], run_name='__main__')
"""


def interrupted(tmp_path, moment):
  command = [REPO / 'launch' / 'train.py', '--config', 'configs/ag_grpo.py']
  done = subprocess.run(
    [
      *(sys.executable, '-c', textwrap.dedent(CHILD), moment),
      *map(str, command),
      *('--workdir', tmp_path / 'run'),
    ],
    cwd=REPO,
    env=os.environ | {'PYTHONPATH': str(REPO)},
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
  'moment',
  [
    'ml_collections',  # before there is anything to catch it
    'jax',
    'orbax.checkpoint',  # of the last imports
    'callback',  # where the interpreter reports it, and would go on
    'error',  # where something between has made another error of it
  ],
)
def test_an_interrupt_is_one_line_and_never_swallowed(tmp_path, moment):
  assert interrupted(tmp_path, moment) == (130, '', 'interrupted\n')
  assert not (tmp_path / 'run').exists()
