"""What a host offers for confinement, and how a zygote is started there.

Tiers, best first:

  namespaces  bubblewrap: no network, no other processes, an empty file system
              but for /usr and Python, all read-only; then seccomp and landlock
  seccomp     seccomp and landlock alone: nothing can be written, and only
              Python's own files can be read

Without either of them nothing runs.
"""

import contextlib
import functools
import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from dllm_jax import errors
from dllm_jax.tasks.sandbox import confine, filters

TIERS = ('namespaces', 'seccomp')

# Uids that are in no one's use; each worker of a privileged trainer has one.
_FIRST_UID = 62_000
_NUM_UIDS = 2_000
_SECONDS = 60.0
_SLACK_TASKS = 1024


class Refused(errors.UserError):
  """The host lacks what confines programs."""


class Interpreter(NamedTuple):
  """A Python that confined processes can read.

  Attributes:
    path: of the executable.
    folders: that it loads from.
  """

  path: str
  folders: tuple[str, ...]


def identity(number: int) -> dict[str, Any]:
  """How a worker's process is started: for root, as a user of its own."""
  if os.geteuid() != 0:
    return {}
  uid = _FIRST_UID + (os.getpid() * 64 + number) % _NUM_UIDS
  return {'user': uid, 'group': uid, 'extra_groups': []}


def max_tasks(tier: str, num_threads: int) -> int:
  """RLIMIT_NPROC: of a process that may have so many threads.

  The kernel counts a uid's tasks, within a user namespace where there is one.
  Without either it counts the trainer's too, and those of its user.
  """
  if tier == 'namespaces' or os.geteuid() == 0:
    return num_threads + 8  # the zygote, and bubblewrap's own
  own = 0
  for path in glob.glob('/proc/[0-9]*/task/[0-9]*'):
    with contextlib.suppress(OSError):
      own += os.stat(path).st_uid == os.getuid()
  return own + _SLACK_TASKS


def lacks(tier: str) -> str:
  """What this host lacks for a tier, and how to get it; '' for nothing."""
  if sys.platform != 'linux':
    return f'programs are confined on Linux only, this is {sys.platform}'
  try:
    filters.program()
    interpreter()
  except errors.UserError as error:
    return str(error)
  if not confine.landlock_version():
    return 'the kernel has no landlock: boot with lsm=landlock,..., Linux 5.13+'
  if tier == 'namespaces':
    return _lacks_namespaces()
  return ''


@functools.cache
def _lacks_namespaces() -> str:
  if shutil.which('bwrap') is None:
    return 'no bwrap command: install the package bubblewrap'
  done = _run([*bubblewrap(interpreter()), '/usr/bin/env', 'true'])
  if done.returncode == 0:
    return ''
  last = done.stderr.decode(errors='replace').strip().splitlines()[-1:]
  return (
    f'bwrap does not run ({"".join(last)}): allow unprivileged user namespaces '
    '(sysctl kernel.unprivileged_userns_clone, '
    'kernel.apparmor_restrict_unprivileged_userns)'
  )


def available_tiers() -> list[str]:
  """The tiers that this host seems to offer, best first; see `self_test`."""
  return [tier for tier in TIERS if not lacks(tier)]


def candidates(tier: str) -> list[str]:
  """The tiers to try, best first: `tier`, or all of the host's for 'auto'.

  Raises:
    Refused: the host offers none of them.
    ValueError: there is no such tier.
  """
  if tier != 'auto' and tier not in TIERS:
    raise ValueError(f'tier must be auto, {" or ".join(TIERS)}: {tier!r}')
  missing = {t: lacks(t) for t in (TIERS if tier == 'auto' else (tier,))}
  offered = [name for name, what in missing.items() if not what]
  if not offered:
    raise refusal(missing.values())
  return offered


def refusal(reasons: Iterable[str]) -> Refused:
  """The error for a host that does not do."""
  reasons = '; '.join(dict.fromkeys(reasons))
  return Refused(f'model-written programs cannot be confined here: {reasons}')


@functools.cache
def interpreter() -> Interpreter:
  """This Python, or the system's, where its files are another user's secret.

  Raises:
    Refused: no Python that confined processes can read.
  """
  tried = []
  for path in (
    getattr(sys, '_base_executable', sys.executable),
    '/usr/local/bin/python3',
    '/usr/bin/python3',
  ):
    real = os.path.realpath(path)
    if real in tried or not os.path.exists(real):
      continue
    tried.append(real)
    try:
      done = _run([real, '-s', '-S', '-c', _FOLDERS])
    except OSError:
      continue
    if done.returncode == 0:
      return Interpreter(real, tuple(done.stdout.decode().splitlines()))
  raise Refused(
    f'no Python 3.11 or later that an unprivileged user can run: '
    f'{", ".join(tried)} cannot be; install one under /usr'
  )


# Of an interpreter: where its library lies. Fails for one that is too old.
_FOLDERS = """
import sys, sysconfig
assert sys.version_info >= (3, 11)
import ctypes, json, decimal, hashlib
print(sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib'), sep='\\n')
print(sysconfig.get_config_var('LIBDIR') or '/usr/lib')
"""


def _run(command: list[str]) -> subprocess.CompletedProcess:
  """As an unprivileged user, with nothing in the environment."""
  return subprocess.run(
    command,
    **identity(0),
    env={},
    cwd='/',
    stdin=subprocess.DEVNULL,
    capture_output=True,
    timeout=_SECONDS,
  )


def bubblewrap(python: Interpreter) -> list[str]:
  """The command before the interpreter's, for the first tier."""
  binds = []
  for path in ('/usr', '/lib', '/lib32', '/lib64', '/bin'):
    if os.path.islink(path):
      binds += ['--symlink', os.readlink(path), path]
    elif os.path.isdir(path):
      binds += ['--ro-bind', path, path]
  for path in (python.path, *python.folders):
    if not path.startswith(('/usr/', '/lib')) and os.path.exists(path):
      binds += ['--ro-bind', path, path]
  return [
    *('bwrap', '--die-with-parent', '--unshare-all', '--unshare-user'),
    *('--uid', '65534', '--gid', '65534', '--hostname', 'sandbox'),
    # Each child takes namespaces of its own, and then drops this.
    *('--cap-add', 'CAP_SYS_ADMIN'),
    *binds,
    *('--ro-bind-try', '/etc/ld.so.cache', '/etc/ld.so.cache'),
    *('--dir', '/tmp', '--dir', '/dev'),
    *('--dev-bind', '/dev/null', '/dev/null'),
    *('--dev-bind', '/dev/urandom', '/dev/urandom'),
    *('--remount-ro', '/', '--chdir', '/', '--clearenv'),
    *('--setenv', 'PYTHONHASHSEED', '0', '--'),
  ]


def command(tier: str, program: str) -> list[str]:
  """What starts a zygote.

  -s -S: no site-packages. -P: no folder of the caller's on the path. Not -I,
  which would ignore the fixed hash seed, and with it make the order of sets,
  and verdicts, a matter of luck; the environment is otherwise empty.

  Signals by which a scheduler warns all processes of a job are ignored.
  """
  python = interpreter()
  start = [python.path, '-P', '-s', '-S', '-c', program]
  if tier == 'namespaces':
    start = [*bubblewrap(python), *start]
  # From the first moment, and for bubblewrap, which knows no such option.
  ignore = 'trap \'\' HUP INT TERM USR1 USR2; exec "$@"'
  return ['/bin/sh', '-c', ignore, 'sh', *start]


def readable(tier: str) -> list[str]:
  """What landlock lets a program read."""
  folders = [*interpreter().folders, '/dev/urandom']
  if tier == 'namespaces':
    return ['/usr', '/lib', '/lib64', '/etc/ld.so.cache', *folders]
  return [*folders, '/usr/share/zoneinfo']
