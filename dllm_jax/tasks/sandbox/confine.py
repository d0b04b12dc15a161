"""How a process gives up its rights, for good, before it runs a program.

Runs in the forked child, in plain Python and ctypes: there is no site-packages
there. The kernel enforces all of it, so nothing that the program does to the
interpreter afterwards takes a step back.
"""

import ctypes
import os
import resource
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_SIGKILL = 9

_CLONE_NEWNS = 0x00020000
_CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8

# The same numbers on every architecture, as for all newer system calls.
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
# Rights over files by the version of landlock that brought them: all but the
# last are also those that a rule may grant.
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_OF_FILES = 1 << 1 | _READ_FILE | 1 << 14  # write, read, truncate
_NOT_IN_TMP = 1 | 1 << 6 | 1 << 11 | 1 << 15  # execute, devices, ioctl


class Failed(Exception):
  """A step that the host does not allow: infrastructure, not the program."""


def _call(name: str, *arguments: Any) -> int:
  result = getattr(_libc, name)(*arguments)
  if result < 0:
    raise Failed(f'{name}: {os.strerror(ctypes.get_errno())}')
  return result


def end_with_parent() -> None:
  """SIGKILL for this process when the thread that started it ends."""
  _call('prctl', _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def unshare(flags: int) -> None:
  """New namespaces for this process, or for its children."""
  _call('unshare', flags)


def setns(descriptor: int, flags: int) -> None:
  """The namespaces of another process."""
  _call('setns', descriptor, flags)


def private_tmp(file_bytes: int, num_files: int) -> None:
  """An empty /tmp of limited size that ends with this process."""
  unshare(_CLONE_NEWNS | _CLONE_NEWIPC)
  options = f'size={2 * file_bytes},nr_inodes={8 * num_files},mode=700'
  flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
  _call('mount', b'tmpfs', b'/tmp', b'tmpfs', flags, options.encode())


def drop_capabilities() -> None:
  """None effective, permitted or inheritable."""
  header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
  _call('capset', header, (ctypes.c_uint32 * 6)())


def limit_resources(config: dict[str, Any]) -> None:
  """Limits for good; the CPU's is a backstop, the zygote is exact."""
  seconds = int(config['cpu_seconds']) + 2
  # SIGXCPU first: a child that SIGKILL ends was killed by somebody.
  resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))
  for name, value in (
    ('RLIMIT_AS', config['memory_bytes']),
    ('RLIMIT_FSIZE', config['file_bytes']),
    ('RLIMIT_NOFILE', config['num_files']),
    ('RLIMIT_NPROC', config['num_tasks']),
    ('RLIMIT_CORE', 0),
    ('RLIMIT_MEMLOCK', 0),
    ('RLIMIT_MSGQUEUE', 0),
  ):
    resource.setrlimit(getattr(resource, name), (value, value))


def landlock_version() -> int:
  """What the kernel offers; 0 for nothing."""
  return max(
    0,
    _libc.syscall(
      _LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION
    ),
  )


def landlock(readable: list[str], writable: list[str]) -> None:
  """Files beneath these paths alone; no TCP, no signals to the outside."""
  version = landlock_version()
  if not version:
    raise Failed('no landlock')
  rights = (1 << max(n for v, n in _FS_RIGHTS.items() if v <= version)) - 1
  handled = (ctypes.c_uint64 * 3)(
    rights,
    3 if version >= 4 else 0,  # bind and connect
    3 if version >= 6 else 0,  # abstract sockets, signals
  )
  size = 24 if version >= 6 else 16 if version >= 4 else 8
  rules = _call(
    'syscall', _LANDLOCK_CREATE_RULESET, ctypes.byref(handled), size, 0
  )
  for paths, given in (
    (readable, _READ_FILE | _READ_DIR),
    (writable, rights & ~_NOT_IN_TMP),
  ):
    for path in paths:
      try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
      except FileNotFoundError:
        continue
      granted = given if os.path.isdir(path) else given & _OF_FILES
      # Packed: eight bytes of rights, then a descriptor of four.
      rule = granted.to_bytes(8, 'little') + descriptor.to_bytes(4, 'little')
      _call(
        *('syscall', _LANDLOCK_ADD_RULE, rules, _LANDLOCK_RULE_PATH_BENEATH),
        *(rule, 0),
      )
      os.close(descriptor)
  _call('syscall', _LANDLOCK_RESTRICT_SELF, rules, 0)
  os.close(rules)


def seccomp(program: bytes) -> None:
  """Only the system calls of this BPF program, from here on."""

  class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_char_p)]

  loaded = Program(len(program) // 8, program)
  _call('prctl', _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded))


def confine(config: dict[str, Any]) -> None:
  """All of it, in the order in which each step is still allowed.

  Args:
    config: as `worker.config` writes it.

  Raises:
    Failed, OSError: a step was refused. The program must not run then.
  """
  end_with_parent()
  if config['namespaces']:
    private_tmp(config['file_bytes'], config['num_files'])
    os.chdir('/tmp')
  drop_capabilities()
  limit_resources(config)
  # Not dumpable: others of the same uid may neither trace it nor read its
  # memory. After exec it would be again, and exec is denied.
  _call('prctl', _PR_SET_DUMPABLE, 0, 0, 0, 0)
  _call('prctl', _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
  landlock(config['readable'], config['writable'])
  seccomp(bytes.fromhex(config['seccomp']))
