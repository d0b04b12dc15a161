"""Runs the commands of launch/ as processes of their own, without the imports.

A server imports the library once, touches no JAX backend, and forks a child
for each command; the child is then as `python launch/train.py ...` would be,
with its own backend, exit code and signals.
"""

import contextlib
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time

REPO = pathlib.Path(__file__).resolve().parents[1]
CONFIG = str(REPO / 'tests' / 'tiny_run.py')
SECONDS = 600  # that a command may take, on a machine with much else to do


class Command:
  """One running command."""

  def __init__(self, server: subprocess.Popen, pid: int, log: pathlib.Path):
    self._server, self._log = server, log
    self.pid = pid
    self.code = None

  def wait(self) -> int:
    """The exit code; minus the number of the signal that ended it."""
    if self.code is None:
      self.code = int(self._server.stdout.readline())
    return self.code

  def signal_when(self, number: int, ready) -> int:
    """Sends a signal as soon as `ready()` is true; the exit code.

    The command ends by itself after `SECONDS`.
    """
    try:
      while not ready() and pathlib.Path(f'/proc/{self.pid}').exists():
        time.sleep(0.002)
      with contextlib.suppress(ProcessLookupError):
        os.kill(self.pid, number)
    finally:  # else the next command would read this one's exit code
      self.wait()
    return self.code

  @property
  def out(self) -> str:
    return self._log.with_suffix('.out').read_text()

  @property
  def err(self) -> str:
    return self._log.with_suffix('.err').read_text()


# As in tests, but for the devices, which are those of the config.
XLA_FLAGS = ' '.join(
  flag
  for flag in os.environ.get('XLA_FLAGS', '').split()
  if 'device_count' not in flag
)


class Server:
  """Starts commands, one at a time."""

  def __init__(self, directory: pathlib.Path):
    self._directory, self._count = directory, 0
    env = os.environ | {
      'PYTHONPATH': os.pathsep.join([str(REPO), str(REPO / 'launch')]),
      'OPENBLAS_NUM_THREADS': '1',  # no thread may be there to be forked
    }
    env['XLA_FLAGS'] = XLA_FLAGS
    self._process = subprocess.Popen(
      [sys.executable, __file__],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=env,
      text=True,
    )

  def close(self) -> None:
    self._process.communicate()

  def start(
    self, script: str, *args, config: bool = True, cwd: pathlib.Path = REPO
  ) -> Command:
    """`python launch/SCRIPT --config tests/tiny_run.py ARGS`, running.

    The config is given unless `args` have one, or `config` is false.
    """
    self._count += 1
    log = self._directory / f'command{self._count}'
    args = [str(a) for a in args]
    given = any(a == '--config' or a.startswith('--config=') for a in args)
    if config and not given:
      args = ['--config', CONFIG, *args]
    request = {
      'argv': [str(REPO / 'launch' / script), *args],
      'log': str(log),
      'cwd': str(cwd),
    }
    self._process.stdin.write(json.dumps(request) + '\n')
    self._process.stdin.flush()
    pid = int(self._process.stdout.readline())
    if pid < 2:
      raise RuntimeError(f'{pid} is no process; the answers are out of step')
    return Command(self._process, pid, log)

  def run(
    self, script: str, *args, config: bool = True, cwd: pathlib.Path = REPO
  ) -> Command:
    """The same, when it has ended."""
    command = self.start(script, *args, config=config, cwd=cwd)
    command.wait()
    return command


def serve() -> None:
  """A request a line; answers with the child's id, then its exit code."""
  answers = os.fdopen(os.dup(1), 'w')
  for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if not pid:
      answers.close()
      os.chdir(request['cwd'])
      become(request['argv'], pathlib.Path(request['log']))
      return
    print(pid, file=answers, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def become(argv: list[str], log: pathlib.Path) -> None:
  """Turns this process into the command."""
  for number, name, flags in (
    (0, os.devnull, os.O_RDONLY),
    (1, log.with_suffix('.out'), os.O_WRONLY | os.O_CREAT),
    (2, log.with_suffix('.err'), os.O_WRONLY | os.O_CREAT),
  ):
    opened = os.open(name, flags)
    os.dup2(opened, number)
    os.close(opened)
  signal.alarm(SECONDS)
  sys.argv = argv
  runpy.run_path(argv[0], run_name='__main__')


if __name__ == '__main__':
  # A background job of a script starts with SIGINT ignored, and so would the
  # commands: one that a test interrupts would run to its end.
  signal.signal(signal.SIGINT, signal.default_int_handler)

  import cli  # noqa: F401
  import dllm_jax.run.train  # noqa: F401

  serve()
