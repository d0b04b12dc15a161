"""The process that forks one confined child a program.

It starts Python once, imports what programs usually import, and then waits for
requests on descriptor 0, one at a time. It runs no program itself and reads
nothing that a program wrote; of a child it sees the exit status and the time.

Requests are packets: JSON {'role': ...} with one or two sockets attached, which
the child inherits as descriptors 3 and 4; or b'stop', which ends the child.
"""

import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import time
from typing import Any

from dllm_jax.tasks.sandbox import confine, examine, plain, serve

_PACKET = 2**16
_CPUCLOCK_SCHED = 2
_IGNORED = (
  *(signal.SIGHUP, signal.SIGINT, signal.SIGTERM),
  *(signal.SIGUSR1, signal.SIGUSR2),
)
_ROLES = {'serve': serve.main, 'examine': examine.main}

# A fork inherits them, so that a program's import costs nothing.
_PRELOADED = (
  *('array', 'bisect', 'calendar', 'cmath', 'collections', 'copy', 'datetime'),
  *('decimal', 'enum', 'fractions', 'functools', 'hashlib', 'heapq', 'io'),
  *('itertools', 'math', 'numbers', 'operator', 're', 'statistics', 'string'),
  *('sys', 'textwrap', 'time', 'traceback', 'types', 'typing', 'unicodedata'),
  *('queue', 'dataclasses', 'inspect', 'symtable'),
)


def main() -> None:
  """Serves until the other end of descriptor 0 is closed."""
  control = socket.socket(fileno=0)
  config = json.loads(control.recv(_PACKET))
  confine.end_with_parent()
  # The trainer sees to them; a scheduler may send them to all processes of a
  # job, and a program that one of them ends would look wrong.
  for number in _IGNORED:
    signal.signal(number, signal.SIG_IGN)
  for name in _PRELOADED:
    importlib.import_module(name)
  # What is here is here for good: a collection in a child would copy it.
  gc.collect()
  gc.freeze()
  own = os.pidfd_open(os.getpid())
  control.send(b'ready')
  while True:
    packet, descriptors, _, _ = socket.recv_fds(control, _PACKET, 2)
    if not packet:
      return
    if packet != b'stop':  # one that came after its child had ended
      reply = _run(json.loads(packet), descriptors, config, control, own)
      control.send(json.dumps(reply).encode())


def _run(
  request: dict[str, Any],
  descriptors: list[int],
  config: dict[str, Any],
  control: socket.socket,
  own: int,
) -> dict[str, Any]:
  """Forks, waits, and tells how the child ended."""
  started = time.monotonic()
  try:
    pid = _fork(config['namespaces'], own)
  except (OSError, confine.Failed) as error:
    return {'lost': f'fork: {error}'}
  if pid == 0:
    _child(_ROLES[request['role']], descriptors, config)
  for descriptor in descriptors:
    os.close(descriptor)
  killed = _watch(pid, config, control, started, request['grace'])
  _, status, usage = os.wait4(pid, 0)
  cpu = usage.ru_utime + usage.ru_stime
  if cpu >= config['cpu_seconds'] + request['grace']:
    killed = 'cpu'  # by the kernel, where threads are many and cores too
  return {
    'exit': os.waitstatus_to_exitcode(status),
    'killed': killed,
    'cpu': cpu,
  }


def _fork(namespaces: bool, own: int) -> int:
  """A child, with `namespaces` as the first process of a pid namespace.

  Whatever it might manage to start ends with it.
  """
  if not namespaces:
    return os.fork()
  confine.unshare(confine.CLONE_NEWPID)
  pid = -1
  try:
    pid = os.fork()
  finally:
    if pid:  # a namespace has one first process: back to the own one
      confine.setns(own, confine.CLONE_NEWPID)
  return pid


def _watch(
  pid: int,
  config: dict[str, Any],
  control: socket.socket,
  started: float,
  grace: float,
) -> str:
  """Returns when the child has ended; kills it at a limit, and says which."""
  child = os.pidfd_open(pid)
  poll = select.poll()
  poll.register(child, select.POLLIN)
  poll.register(control, select.POLLIN)
  clock = (~pid << 3) | _CPUCLOCK_SCHED  # the child's own CPU time
  killed = ''
  try:
    while True:
      cpu_left = config['cpu_seconds'] + grace - time.clock_gettime(clock)
      wall_left = config['wall_seconds'] + grace - time.monotonic() + started
      if cpu_left <= 0 or wall_left <= 0:
        killed = 'cpu' if cpu_left <= 0 else 'wall'
        break
      # It cannot use more CPU time than passes: look again no earlier.
      wait = max(0.005, min(cpu_left, wall_left))
      ready = [d for d, _ in poll.poll(1000 * wait)]
      if child in ready:
        return ''
      if ready:
        if not control.recv(_PACKET):
          os._exit(0)  # and the child with it
        killed = 'stop'
        break
  except OSError:  # the clock of a process that has just ended
    return ''
  finally:
    if killed:
      signal.pidfd_send_signal(child, signal.SIGKILL)
    os.close(child)
  return killed


def _child(main, descriptors: list[int], config: dict[str, Any]) -> None:
  """Confines itself, then runs its role. Never returns."""
  try:
    # 0, 1, 2: nothing; 3, 4: the sockets; no other.
    null = os.open('/dev/null', os.O_RDWR)
    for number, descriptor in enumerate([null, null, null, *descriptors]):
      os.dup2(descriptor, number + 64)
    os.closerange(0, 64)
    for number in range(3 + len(descriptors)):
      os.dup2(number + 64, number)
    os.closerange(64, 256)
    confine.confine(config)
    # The same program, the same result. Not earlier: a fork reseeds it.
    random.seed(0)
    # Proof for the host that what goes wrong from here on is the program's.
    plain.write(3, 'ready')
    main()
  except BaseException:
    pass
  finally:
    os._exit(1)
