"""A zygote as the trainer sees it: started, asked, killed."""

import contextlib
import json
import os
import pathlib
import select
import socket
import subprocess
import time
from typing import Any, NamedTuple

from dllm_jax.tasks.sandbox import filters, hosts, limits, plain

_START_SECONDS = 60.0
_END_SECONDS = 2.0
_MAX_RECEIVED = 2**22  # bytes from one child
_GRACE_SECONDS = 5.0  # beyond the zygote's own limit
_FOLDER = pathlib.Path(__file__).parent
_PACKAGE = 'dllm_jax.tasks.sandbox'
# In the order in which they import each other.
_MODULES = (
  *('library', 'plain', 'confine', 'serve', 'pytest_subset', 'statements'),
  *('examine', 'zygote'),
)
_BOOT = """
import sys, types
package = {package!r}
parts = package.split('.')
names = ['.'.join(parts[:n + 1]) for n in range(len(parts))]
for name in names:
  sys.modules[name] = types.ModuleType(name)
for name, text in {modules!r}:
  module = types.ModuleType(package + '.' + name)
  setattr(sys.modules[package], name, module)
  sys.modules[module.__name__] = module
  names.append(module.__name__)
  exec(compile(text, name + '.py', 'exec'), module.__dict__)
for name in names:
  del sys.modules[name]
module.main()
"""


class Lost(Exception):
  """The machinery failed, and says nothing about the program."""


class Ending(NamedTuple):
  """How a child ended.

  Attributes:
    exit: its exit code, or minus the signal.
    killed: by which limit of the zygote's: 'cpu', 'wall', 'stop'; or ''.
    cpu: seconds it used.
  """

  exit: int
  killed: str
  cpu: float


def program() -> str:
  """The zygote's source, in one text.

  Handed over as an argument: a confined user may not be able to read the
  folder of this package.
  """
  texts = [(n, (_FOLDER / f'{n}.py').read_text('utf-8')) for n in _MODULES]
  return _BOOT.format(package=_PACKAGE, modules=texts)


def config(tier: str, bounds: limits.Limits) -> dict[str, Any]:
  """What a zygote is told."""
  namespaces = tier == 'namespaces'
  return {
    'namespaces': namespaces,
    'seccomp': filters.program().hex(),
    'readable': hosts.readable(tier),
    'writable': ['/dev/null', *['/tmp'] * namespaces],
    'cpu_seconds': bounds.cpu_seconds,
    'wall_seconds': bounds.wall,
    'memory_bytes': bounds.memory_bytes,
    'file_bytes': bounds.file_bytes,
    'num_files': bounds.num_files,
    'num_tasks': hosts.max_tasks(tier, bounds.num_threads),
  }


class Worker:
  """One zygote process, for one program at a time.

  Started by the first `begin`, in the thread that then has to outlive it: the
  kernel ends a zygote with the thread that started it.
  """

  def __init__(
    self,
    tier: str,
    bounds: limits.Limits,
    number: int,
    settings: dict[str, Any],
  ):
    self._tier = tier
    self._bounds = bounds
    self._number = number
    self._settings = settings
    self._process: subprocess.Popen | None = None
    self._control: socket.socket | None = None
    self.num_begun = 0

  @property
  def pid(self) -> int | None:
    """Of the process that runs now."""
    return self._process.pid if self._process else None

  def begin(self, role: str, *sockets: socket.socket, grace: float = 0) -> None:
    """Starts a child in a role, with these sockets.

    Raises:
      Lost: the zygote is gone, or does not start.
    """
    if self._process is None:
      self._start()
    self.num_begun += 1
    request = json.dumps({'role': role, 'grace': grace}).encode()
    try:
      socket.send_fds(self._control, [request], [s.fileno() for s in sockets])
    except OSError as error:
      raise self._lost(f'the zygote does not take requests: {error}') from None

  def ending(self, *, stop_after: float | None = None) -> Ending:
    """Waits for the child.

    Args:
      stop_after: seconds after which it is killed; None leaves it its limits.

    Raises:
      Lost: the zygote is gone, or could not start the child.
    """
    wait = self._bounds.wall + 2 * _GRACE_SECONDS
    if stop_after is not None and not self._readable(stop_after):
      with contextlib.suppress(OSError):
        self._control.send(b'stop')
    if not self._readable(wait):
      raise self._lost('the zygote does not answer')
    try:
      packet = self._control.recv(2**16)
    except OSError:
      packet = b''
    if not packet:
      raise self._lost('the zygote ended')
    reply = json.loads(packet)
    if 'lost' in reply:
      raise Lost(reply['lost'])
    return Ending(**reply)

  def end(self, *, kill: bool = False) -> None:
    """Ends the zygote and all that it started; at once if `kill`."""
    process, self._process = self._process, None
    if process is None:
      return
    self._control.close()  # an idle zygote ends with it
    try:
      process.wait(0 if kill else _END_SECONDS)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
    self.num_begun = 0

  def _readable(self, seconds: float) -> bool:
    waiting = select.poll()  # `select` refuses descriptors from 1024 on
    waiting.register(self._control, select.POLLIN)
    return bool(waiting.poll(1000 * seconds))

  def _lost(self, reason: str) -> Lost:
    self.end(kill=True)
    return Lost(reason)

  def _start(self) -> None:
    try:
      ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
      raise Lost(f'the zygote cannot be started: {error}') from None
    self._control = ours
    with theirs:
      self._process = self._spawn(theirs)
    with contextlib.suppress(OSError):  # the first to go if memory runs out
      adjust = pathlib.Path(f'/proc/{self._process.pid}/oom_score_adj')
      adjust.write_text('1000')
    try:
      ours.send(json.dumps(self._settings).encode())
      ready = self._readable(_START_SECONDS) and ours.recv(16)
    except OSError:
      ready = b''
    if ready != b'ready':
      raise self._lost('the zygote does not start')

  def _spawn(self, control: socket.socket) -> subprocess.Popen:
    try:
      return subprocess.Popen(
        hosts.command(self._tier, program()),
        stdin=control,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={'PYTHONHASHSEED': '0', 'PATH': os.defpath},
        cwd='/',
        start_new_session=True,  # Ctrl-C is for the trainer
        **hosts.identity(self._number),
      )
    except OSError as error:  # no processes, memory or descriptors are left
      self._control.close()
      raise Lost(f'the zygote cannot be started: {error}') from None


class Stream:
  """Frames to and from a child, none of which is trusted."""

  def __init__(self, end: socket.socket, seconds: float | int):
    self._end = end
    self._deadline = time.monotonic() + seconds
    self._left = _MAX_RECEIVED

  def send(self, code: Any) -> None:
    """Nothing happens where the child has gone."""
    self._end.settimeout(max(0.01, self._deadline - time.monotonic()))
    with contextlib.suppress(OSError):
      self._end.sendall(plain.frame(code))

  def receive(self) -> Any:
    """The next frame.

    Raises:
      EOFError: the child has gone, or the deadline has passed.
      plain.NotPlain: it is not a frame, or there have been too many.
    """
    length = plain.body_length(self._read(4))
    self._left -= length
    if self._left < 0:
      raise plain.NotPlain(f'more than {_MAX_RECEIVED} bytes')
    return plain.parse(self._read(length))

  def _read(self, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
      left = self._deadline - time.monotonic()
      if left <= 0:
        raise EOFError
      self._end.settimeout(left)
      try:
        part = self._end.recv(length - len(data))
      except OSError:
        part = b''
      if not part:
        raise EOFError
      data += part
    return bytes(data)
