"""Which system calls a confined process may make.

A list of what is allowed, so that a call that a later kernel brings is denied.
libseccomp knows the numbers and writes the program for the kernel.
"""

import errno
import functools
import importlib
import os
import tempfile
from types import ModuleType

from dllm_jax import errors

# Of memory, files that are open or that landlock lets open, time, and threads.
# Not here, so denied: sockets, fork, exec, kill, tracing, namespaces, mounts,
# bpf, perf, io_uring, keys, System V and POSIX queues, shared memory, memfd,
# device nodes, priorities, processor masks; what changes a file by its path and
# landlock does not see, whole or in old kernels: its size, times and modes; and
# locks of files, by which programs that run side by side could talk.
_ALLOWED = (
  *('brk', 'mmap', 'mprotect', 'munmap', 'mremap', 'madvise', 'msync'),
  *('read', 'write', 'readv', 'writev', 'pread64', 'pwrite64', 'lseek'),
  *('close', 'close_range', 'dup', 'dup2', 'dup3', 'pipe'),
  *('pipe2', 'stat', 'fstat', 'lstat', 'newfstatat', 'statx', 'access'),
  *('faccessat', 'faccessat2', 'readlink', 'readlinkat', 'getdents64'),
  *('getcwd', 'chdir', 'fchdir', 'mkdir', 'mkdirat', 'rmdir', 'unlink'),
  *('unlinkat', 'rename', 'renameat', 'renameat2', 'ftruncate'),
  *('fsync', 'fdatasync', 'umask', 'copy_file_range'),
  *('sendfile', 'poll', 'ppoll', 'select', 'pselect6', 'epoll_create1'),
  *('epoll_ctl', 'epoll_wait', 'epoll_pwait', 'eventfd2', 'futex'),
  *('set_robust_list', 'get_robust_list', 'rseq', 'set_tid_address'),
  *('membarrier', 'gettid', 'getpid', 'getppid', 'getuid', 'geteuid'),
  *('getgid', 'getegid', 'getgroups', 'getpgrp', 'uname', 'sysinfo'),
  *('getrusage', 'times', 'getrlimit', 'sched_yield', 'sched_getaffinity'),
  *('getrandom', 'time', 'gettimeofday', 'clock_gettime', 'clock_getres'),
  *('clock_nanosleep', 'nanosleep', 'getitimer', 'setitimer', 'alarm'),
  *('pause', 'rt_sigaction', 'rt_sigprocmask', 'rt_sigreturn', 'rt_sigpending'),
  *('rt_sigtimedwait', 'sigaltstack', 'restart_syscall', 'exit', 'exit_group'),
  *('arch_prctl', 'fadvise64', 'statfs', 'fstatfs'),
)
_CLONE_THREAD = 0x00010000
_FIOCLEX, _FIONCLEX, _FIONBIO = 0x5451, 0x5450, 0x5421
_OWN_FCNTL = (0, 1, 2, 3, 4, 1030)  # dup, flags, dup_cloexec


def _library() -> ModuleType:
  """pyseccomp.

  Raises:
    errors.UserError: it, or the libseccomp that it loads, is missing.
  """
  try:
    return importlib.import_module('pyseccomp')
  except (ImportError, RuntimeError, OSError, AttributeError) as error:
    raise errors.UserError(
      'the sandbox needs libseccomp: install the packages libseccomp2 '
      f'(Debian) or libseccomp (others), and pyseccomp from pip ({error})'
    ) from error


@functools.cache
def program() -> bytes:
  """The BPF program, for this machine's architecture.

  A denied call fails with EPERM; the program that made it goes on.

  Raises:
    errors.UserError: libseccomp is missing.
  """
  library = _library()
  # Another architecture's calls (int 0x80, x32) have other numbers: EPERM too.
  bpf = library.SyscallFilter(library.ERRNO(errno.EPERM))
  bpf.set_attr(library.Attr.ACT_BADARCH, library.ERRNO(errno.EPERM))
  for name in _ALLOWED:
    _allow(library, bpf, name)
  thread = library.Arg(0, library.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD)
  bpf.add_rule(library.ALLOW, 'clone', thread)
  # Its flags are in memory, which a filter does not see; libc falls back.
  bpf.add_rule(library.ERRNO(errno.ENOSYS), 'clone3')
  for request in (_FIOCLEX, _FIONCLEX, _FIONBIO):
    only = library.Arg(1, library.EQ, request)
    bpf.add_rule(library.ALLOW, 'ioctl', only)
  for command in _OWN_FCNTL:
    only = library.Arg(1, library.EQ, command)
    bpf.add_rule(library.ALLOW, 'fcntl', only)
  # To empty a file one must open it for writing, which landlock sees; before
  # its version 3 it lets O_RDONLY | O_TRUNC pass.
  for name, flags in (('open', 1), ('openat', 2)):
    for mask, value in (
      (os.O_TRUNC, 0),
      (os.O_ACCMODE, os.O_WRONLY),
      (os.O_ACCMODE, os.O_RDWR),
    ):
      only = library.Arg(flags, library.MASKED_EQ, mask, value)
      _allow(library, bpf, name, only)
  # It may read its limits and set none: one that is passed ends in SIGKILL,
  # which looks as if somebody else had sent it.
  own = library.Arg(0, library.EQ, 0)
  no_new_limit = library.Arg(2, library.EQ, 0)
  bpf.add_rule(library.ALLOW, 'prlimit64', own, no_new_limit)
  with tempfile.TemporaryFile() as file:
    bpf.export_bpf(file)
    file.seek(0)
    return file.read()


def _allow(library: ModuleType, bpf, name: str, *only) -> None:
  """Skips a call that this architecture, or an old libseccomp, has not."""
  try:
    number = library.resolve_syscall(library.system_arch(), name)
  except (OSError, ValueError):
    return
  if number >= 0:
    bpf.add_rule(library.ALLOW, name, *only)
