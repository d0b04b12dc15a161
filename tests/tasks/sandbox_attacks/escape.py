"""Programs that look, write, call or start something outside the sandbox.

The functions of `LEAKS` return the canary secret if they find it, those of
`ACTS` return 'done' if what they tried was done; the tests want just that, so
a pass is an effect. What the runner also looks for from outside is named after
'@' signs: files with @MARK@ in their name, listening sockets (@PORT@, @UDP@,
@UNIX@, @ABSTRACT@), and the process @PID@, which is to live on untouched.
"""

LEAKS = {
  'environment': """
import os
def f():
  return os.environ.get('DLLM_CANARY', 'none')
""",
  'environment_of_libc': """
import ctypes
def f():
  get = ctypes.CDLL(None).getenv
  get.restype = ctypes.c_char_p
  return (get(b'DLLM_CANARY') or b'none').decode()
""",
  'proc_environ': """
import glob, re
def f():
  paths = glob.glob('/proc/*/environ') + glob.glob('/proc/*/task/*/environ')
  for path in paths:
    try:
      found = re.search('DLLM_CANARY=([^\\0]*)', open(path).read())
      if found:
        return found[1]
    except OSError:
      pass
  return 'none'
""",
  'proc_environ_by_io': """
import io, os, re
def f():
  for pid in {os.getppid(), 1, @TRAINER@, @PID@}:
    try:
      text = io.FileIO(f'/proc/{pid}/environ').read().decode()
      found = re.search('DLLM_CANARY=([^\\0]*)', text)
      if found:
        return found[1]
    except OSError:
      pass
  return 'none'
""",
  'secret_file': """
def f():
  try:
    return open('@SECRET_FILE@').read()
  except OSError as error:
    return str(error)
""",
  'secret_file_by_libc': """
import ctypes
def f():
  libc = ctypes.CDLL(None)
  number = libc.open(b'@SECRET_FILE@', 0)
  buffer = ctypes.create_string_buffer(100)
  size = libc.read(number, buffer, 99)
  return buffer.raw[:max(size, 0)].decode()
""",
  'secret_file_by_openat2': """
import ctypes
def f():
  libc = ctypes.CDLL(None)
  how = (ctypes.c_uint64 * 3)(0, 0, 0)
  number = libc.syscall(437, -100, b'@SECRET_FILE@', how, 24)
  buffer = ctypes.create_string_buffer(100)
  size = libc.read(number, buffer, 99)
  return buffer.raw[:max(size, 0)].decode()
""",
  'secret_file_by_walk': """
import os
def f():
  for top in ('/tmp', '/home', '/root', '/work', '/var', '/mnt', '/run'):
    for folder, _, names in os.walk(top):
      if '@SECRET_NAME@' in names:
        try:
          return open(os.path.join(folder, '@SECRET_NAME@')).read()
        except OSError:
          pass
  return 'none'
""",
  'symlink_to_the_secret': """
import os
def f():
  try:
    os.symlink('@SECRET_FILE@', '/tmp/link')
    return open('/tmp/link').read()
  except OSError as error:
    return str(error)
""",
  'hard_link_to_the_secret': """
import os
def f():
  try:
    os.link('@SECRET_FILE@', '/tmp/hard')
    return open('/tmp/hard').read()
  except OSError as error:
    return str(error)
""",
  'path_with_dots': """
import os
def f():
  for start in ('.', '/tmp', '/usr/lib', '/dev', '/proc/self/cwd'):
    try:
      return open(start + '/..' * 12 + '@SECRET_FILE@').read()
    except OSError:
      pass
  return 'none'
""",
  'root_of_another_process': """
import os
def f():
  for pid in ('self', 1, 2, os.getppid(), @TRAINER@, @PID@):
    for place in ('root', 'cwd'):
      try:
        return open(f'/proc/{pid}/{place}@SECRET_FILE@').read()
      except OSError:
        pass
  return 'none'
""",
  'open_descriptors': """
import os
def f():
  for number in range(256):
    for path in (f'/proc/self/fd/{number}', f'/dev/fd/{number}'):
      try:
        text = os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 4096)
        if text.startswith(b'canary-'):
          return text.decode()
      except OSError:
        pass
    try:
      inner = os.open('..@SECRET_FILE@', os.O_RDONLY, dir_fd=number)
      return os.read(inner, 99).decode()
    except (OSError, ValueError):
      pass
  return 'none'
""",
  'chroot_out': """
import os
def f():
  try:
    top = os.open('/', os.O_RDONLY)
    os.mkdir('/tmp/jail')
    os.chroot('/tmp/jail')
    os.fchdir(top)
    for _ in range(32):
      os.chdir('..')
    os.chroot('.')
    return open('@SECRET_FILE@').read()
  except OSError as error:
    return str(error)
""",
  'file_handle': """
import ctypes
def f():
  libc = ctypes.CDLL(None)
  handle = (ctypes.c_uint32 * 34)(128)
  mount = ctypes.c_int()
  libc.name_to_handle_at(-100, b'@SECRET_FILE@', handle,
                         ctypes.byref(mount), 0)
  number = libc.open_by_handle_at(-100, handle, 0)
  buffer = ctypes.create_string_buffer(100)
  size = libc.read(number, buffer, 99)
  return buffer.raw[:max(size, 0)].decode()
""",
  'memory_of_the_parent': """
import os, re
def f():
  for pid in (os.getppid(), 1, @TRAINER@):
    try:
      for line in open(f'/proc/{pid}/maps'):
        if '[stack]' in line or '[heap]' in line:
          low, high = (int(n, 16) for n in line.split()[0].split('-'))
          with open(f'/proc/{pid}/mem', 'rb', 0) as memory:
            memory.seek(low)
            text = memory.read(min(high - low, 1 << 26))
          found = re.search(rb'DLLM_CANARY=([^\\0]*)', text)
          if found:
            return found[1].decode()
    except (OSError, OverflowError, ValueError):
      pass
  return 'none'
""",
  'own_memory': """
import re
def f():
  for line in open('/proc/self/maps'):
    low, high = (int(n, 16) for n in line.split()[0].split('-'))
    if 'rw' in line and high - low < 1 << 26:
      with open('/proc/self/mem', 'rb', 0) as memory:
        try:
          memory.seek(low)
          text = memory.read(high - low)
        except (OSError, OverflowError, ValueError):
          continue
      found = re.search(rb'DLLM_CANARY=(canary-[0-9a-f]*)', text)
      if found:
        return found[1].decode()
  return 'none'
""",
  'stack_of_the_process': """
import ctypes, re
def f():
  libc = ctypes.CDLL(None)
  environ = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')
  text = b''
  for i in range(200):
    if not environ or not environ[i]:
      break
    text += environ[i]
  found = re.search(rb'DLLM_CANARY=(canary-[0-9a-f]*)', text)
  return found[1].decode() if found else 'none'
""",
}

ACTS = {
  'passwd': """
def f():
  return 'done' if 'root:' in open('/etc/passwd').read() else 'none'
""",
  'source_of_the_grader': """
def f():
  text = open('@REPO@/dllm_jax/tasks/coding.py').read()
  return 'done' if 'Submission' in text else 'none'
""",
  'gold_answers': """
def f():
  return 'done' if open('@GOLD_FILE@').read() else 'none'
""",
  'writes_to_tmp': """
def f():
  open('/tmp/@MARK@', 'w').write('x')
  return 'unseen'
""",
  'writes_everywhere': """
import os
def f():
  for folder in ('.', '~', '/', '/var/tmp', '/dev/shm', '/run', '/usr', '/etc',
                 '/usr/local/lib', '@REPO@', '@HOME@', '/home', '/mnt'):
    try:
      open(os.path.expanduser(folder) + '/@MARK@', 'w').write('x')
    except OSError:
      pass
  return 'unseen'
""",
  'writes_through_a_link': """
import os
def f():
  os.symlink('@HOME@', '/tmp/away')
  open('/tmp/away/@MARK@', 'w').write('x')
  return 'unseen'
""",
  'writes_to_library': """
import json, os, sys
def f():
  for folder in [*sys.path, os.path.dirname(json.__file__)]:
    try:
      open((folder or '.') + '/@MARK@.py', 'w').write('x')
      return 'done'
    except OSError:
      pass
  return 'none'
""",
  'tcp': """
import socket
def f():
  socket.create_connection(('127.0.0.1', @PORT@), 1).sendall(b'x')
  return 'done'
""",
  'tcp_ipv6': """
import socket
def f():
  socket.create_connection(('::1', @PORT@), 1).sendall(b'x')
  return 'done'
""",
  'udp': """
import socket
def f():
  socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(
    b'x', ('127.0.0.1', @UDP@))
  return 'done'
""",
  'mptcp': """
import socket
def f():
  s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
  s.settimeout(1)
  s.connect(('127.0.0.1', @PORT@))
  return 'done'
""",
  'unix_socket': """
import socket
def f():
  s = socket.socket(socket.AF_UNIX)
  s.connect('@UNIX@')
  return 'done'
""",
  'abstract_socket': """
import socket
def f():
  s = socket.socket(socket.AF_UNIX)
  s.connect('\\0@ABSTRACT@')
  return 'done'
""",
  'listens': """
import socket
def f():
  s = socket.socket()
  s.bind(('0.0.0.0', 0))
  s.listen()
  return 'done'
""",
  'netlink': """
import socket
def f():
  socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).bind((0, 0))
  return 'done'
""",
  'raw_socket': """
import socket
def f():
  socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
  return 'done'
""",
  'vsock': """
import socket
def f():
  socket.socket(40, socket.SOCK_STREAM)
  return 'done'
""",
  'looks_up_a_name': """
import socket
def f():
  socket.setdefaulttimeout(1)
  socket.getaddrinfo('example.invalid', 80)
  return 'done'
""",
  'subprocess': """
import subprocess
def f():
  return subprocess.run(['/bin/echo', 'done'], capture_output=True,
                        text=True).stdout.strip()
""",
  'subprocess_after_reload': """
import importlib, os, subprocess, sys
def f():
  for name in ('os', 'posix', 'subprocess', '_posixsubprocess', 'signal'):
    sys.modules.pop(name, None)
  import os, subprocess
  importlib.reload(subprocess)
  return subprocess.check_output(['/bin/echo', 'done'], text=True).strip()
""",
  'shell': """
import os
def f():
  return 'done' if os.system('true') == 0 else 'none'
""",
  'posix_spawn': """
import os
def f():
  pid = os.posix_spawn('/bin/true', ['true'], {})
  return 'done' if os.waitpid(pid, 0)[1] == 0 else 'none'
""",
  'fork': """
import os
def f():
  pid = os.fork()
  if not pid:
    os._exit(0)
  os.waitpid(pid, 0)
  return 'done'
""",
  'fork_by_libc': """
import ctypes, os
def f():
  pid = ctypes.CDLL(None).fork()
  if pid == 0:
    os._exit(0)
  return 'done' if pid > 0 else 'none'
""",
  'fork_by_syscalls': """
import ctypes, os
def f():
  syscall = ctypes.CDLL(None).syscall
  arguments = (ctypes.c_uint64 * 11)()
  for number, *rest in ((57,), (56, 17, 0, 0, 0, 0), (435, arguments, 88)):
    pid = syscall(number, *rest)
    if pid == 0:
      os._exit(0)
    if pid > 0:
      return 'done'
  return 'none'
""",
  'fork_by_x32': """
import ctypes, os
def f():
  syscall = ctypes.CDLL(None).syscall
  for number in (57, 56, 39):
    pid = syscall(0x40000000 + number, 17, 0, 0, 0, 0)
    if pid == 0:
      os._exit(0)
    if pid > 0:
      return 'done'
  return 'none'
""",
  'fork_by_int80': """
import ctypes, mmap, os
def f():
  page = mmap.mmap(-1, 4096, prot=7)
  page.write(b'\\xb8\\x02\\x00\\x00\\x00\\xcd\\x80\\xc3')
  start = ctypes.addressof(ctypes.c_char.from_buffer(page))
  pid = ctypes.CFUNCTYPE(ctypes.c_int)(start)()
  if pid == 0:
    os._exit(0)
  return 'done' if pid > 0 else 'none'
""",
  'execs': """
import os
def f():
  for path in ('/bin/echo', '/usr/bin/python3', '/bin/sh'):
    try:
      os.execv(path, [path, 'PASS'])
    except OSError as error:
      text = str(error)
  return text
""",
  'execs_a_memory_file': """
import os
def f():
  number = os.memfd_create('x')
  os.write(number, open('/bin/true', 'rb').read())
  os.execve(number, ['x'], {})
""",
  'memory_file': """
import os
def f():
  os.memfd_create('x')
  return 'done'
""",
  'outlives': """
import os, time
def f():
  if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
      time.sleep(30)
    os._exit(0)
  return 'done'
""",
  'process_vm_readv': """
import ctypes, os
def f():
  libc = ctypes.CDLL(None)
  buffer = ctypes.create_string_buffer(8)
  local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
  remote = (ctypes.c_void_p * 2)(id(f), 8)
  for pid in (os.getppid(), @TRAINER@, @PID@):
    if libc.syscall(310, pid, local, 1, remote, 1, 0) > 0:
      return 'done'
  return 'none'
""",
  'traces_its_parent': """
import ctypes, os
def f():
  ptrace = ctypes.CDLL(None).ptrace
  for pid in (os.getppid(), @PID@):
    for request in (16, 0x4206):
      if ptrace(request, pid, None, None) == 0:
        return 'done'
  return 'none'
""",
  'traced_by_its_parent': """
import ctypes
def f():
  return 'done' if ctypes.CDLL(None).ptrace(0, 0, None, None) == 0 else 'none'
""",
  'writes_to_the_memory_of_its_parent': """
import os
def f():
  for pid in (os.getppid(), @TRAINER@, @PID@):
    try:
      os.open(f'/proc/{pid}/mem', os.O_RDWR)
      return 'done'
    except OSError:
      pass
  return 'none'
""",
  'user_namespace': """
import ctypes
def f():
  return 'done' if ctypes.CDLL(None).unshare(0x10000000) == 0 else 'none'
""",
  'other_namespaces': """
import ctypes
def f():
  for flag in (0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000):
    if ctypes.CDLL(None).unshare(flag) == 0:
      return 'done'
  return 'none'
""",
  'enters_a_namespace': """
import ctypes, os
def f():
  for pid in ('self', 1, os.getppid(), @TRAINER@):
    for kind in ('user', 'mnt', 'net', 'pid'):
      try:
        number = os.open(f'/proc/{pid}/ns/{kind}', os.O_RDONLY)
      except OSError:
        continue
      if ctypes.CDLL(None).setns(number, 0) == 0:
        return 'done'
  return 'none'
""",
  'mounts': """
import ctypes
def f():
  libc = ctypes.CDLL(None)
  if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0:
    return 'done'
  if libc.umount2(b'/tmp', 2) == 0:
    return 'done'
  return 'done' if libc.syscall(428, -100, b'/', 1) >= 0 else 'none'
""",
  'pivots': """
import ctypes
def f():
  libc = ctypes.CDLL(None)
  return 'done' if libc.syscall(155, b'/tmp', b'/tmp') == 0 else 'none'
""",
  'io_uring': """
import ctypes
def f():
  space = ctypes.create_string_buffer(200)
  return 'done' if ctypes.CDLL(None).syscall(425, 4, space) >= 0 else 'none'
""",
  'bpf_and_perf': """
import ctypes
def f():
  syscall = ctypes.CDLL(None).syscall
  space = ctypes.create_string_buffer(200)
  space[4] = 112
  for call in ((321, 0, space, 48), (298, space, 0, -1, -1, 0)):
    if syscall(*call) >= 0:
      return 'done'
  return 'none'
""",
  'keys_and_page_faults': """
import ctypes
def f():
  syscall = ctypes.CDLL(None).syscall
  for call in ((248, b'user', b'x', b'y', 1, -3), (250, 0, -3, 1), (323, 1)):
    if syscall(*call) >= 0:
      return 'done'
  return 'none'
""",
  'watches_files': """
import ctypes
def f():
  libc = ctypes.CDLL(None)
  number = libc.syscall(300, 0, 0)
  return 'done' if number >= 0 else 'none'
""",
  'makes_a_device': """
import os, stat
def f():
  os.mknod('/tmp/memory', 0o600 | stat.S_IFCHR, os.makedev(1, 1))
  return 'done'
""",
  'shared_memory_folder': """
def f():
  open('/dev/shm/@MARK@', 'w').write('x')
  return 'unseen'
""",
  'system_v_memory': """
import ctypes
def f():
  libc = ctypes.CDLL(None)
  return 'done' if libc.shmget(0x5ec2e7, 4096, 0o1666) >= 0 else 'none'
""",
  'system_v_queues': """
import ctypes
def f():
  libc = ctypes.CDLL(None)
  if libc.msgget(0x5ec2e7, 0o1666) >= 0:
    return 'done'
  return 'done' if libc.semget(0x5ec2e7, 1, 0o1666) >= 0 else 'none'
""",
  'message_queue': """
import ctypes
def f():
  number = ctypes.CDLL(None).syscall(240, b'@MARK@', 0o102, 0o600, None)
  return 'done' if number >= 0 else 'none'
""",
  'raises_its_limits': """
import resource
def f():
  for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
    hard = resource.getrlimit(kind)[1]
    try:
      if hard == -1:
        return 'done'
      resource.setrlimit(kind, (2 * hard, 2 * hard))
      return 'done'
    except (ValueError, OSError):
      pass
  return 'none'
""",
  'raises_limits_of_others': """
import ctypes, os
def f():
  new = (ctypes.c_uint64 * 2)(1, 1)
  for pid in {os.getppid(), @PID@} - {0}:  # 0 is the process itself
    if ctypes.CDLL(None).prlimit(pid, 7, new, None) == 0:
      return 'done'
  return 'none'
""",
  'signals_a_process': """
import os, signal
def f():
  for number in (signal.SIGTERM, signal.SIGKILL):
    os.kill(@PID@, number)
  return 'done'
""",
  'signals_by_handle': """
import os, signal
def f():
  signal.pidfd_send_signal(os.pidfd_open(@PID@), signal.SIGKILL)
  return 'done'
""",
  'signals_by_thread': """
import ctypes
def f():
  syscall = ctypes.CDLL(None).syscall
  for call in ((234, @PID@, @PID@, 9), (200, @PID@, 9), (129, @PID@, 9, 0)):
    if syscall(*call) == 0:
      return 'done'
  return 'none'
""",
  'signals_by_owner': """
import fcntl, os, signal
def f():
  read, write = os.pipe()
  fcntl.fcntl(read, fcntl.F_SETOWN, @PID@)
  fcntl.fcntl(read, 10, signal.SIGKILL)
  flags = fcntl.fcntl(read, fcntl.F_GETFL)
  fcntl.fcntl(read, fcntl.F_SETFL, flags | os.O_ASYNC)
  os.write(write, b'x')
  return 'unseen'
""",
  'signals_its_group': """
import os, signal
def f():
  os.killpg(0, signal.SIGKILL)
  return 'done'
""",
  'sees_processes': """
import os
def f():
  if str(@PID@) in os.listdir('/proc'):
    return 'done'
  return 'done' if open('/proc/@PID@/stat').read() else 'none'
""",
  'finds_processes': """
import os
def f():
  os.kill(@PID@, 0)
  return 'done'
""",
  'renices_a_process': """
import os
def f():
  os.setpriority(os.PRIO_PROCESS, @PID@, 19)
  return 'done'
""",
  'pins_a_process': """
import os
def f():
  os.sched_setaffinity(@PID@, {0})
  return 'done'
""",
  'pins_itself': """
import os
def f():
  os.sched_setaffinity(0, {0})
  return 'done'
""",
  'becomes_root': """
import os
def f():
  for call in (os.setuid, os.setgid, os.seteuid, os.setegid):
    try:
      call(0)
      return 'done'
    except OSError:
      pass
  try:
    os.setgroups([0])
    return 'done'
  except OSError:
    return 'none'
""",
  'has_capabilities': """
import ctypes
def f():
  head = (ctypes.c_uint32 * 2)(0x20080522, 0)
  data = (ctypes.c_uint32 * 6)()
  if ctypes.CDLL(None).capget(head, data) == 0 and (data[0] or data[1]):
    return 'done'
  return 'none'
""",
  'renames_the_host': """
import ctypes
def f():
  libc = ctypes.CDLL(None)
  return 'done' if libc.sethostname(b'sandbox', 7) == 0 else 'none'
""",
  'drops_no_new_privileges': """
import ctypes
def f():
  prctl = ctypes.CDLL(None).prctl
  return 'done' if prctl(39, 0, 0, 0, 0) == 0 else 'none'
""",
  'writes_to_the_terminal': """
import fcntl
def f():
  try:
    open('/dev/tty', 'w').write('@MARK@')
    return 'done'
  except OSError:
    pass
  for number in range(3):
    try:
      fcntl.ioctl(number, 0x5412, b'x')
      return 'done'
    except OSError:
      pass
  return 'none'
""",
  'changes_times_and_modes': """
import os
def f():
  for call in (lambda p: os.chmod(p, 0o777), lambda p: os.utime(p, (0, 0)),
               lambda p: os.truncate(p, 0), os.unlink,
               lambda p: os.rename(p, p + '@MARK@')):
    try:
      call('@HOST_FILE@')
      return 'done'
    except OSError:
      pass
  return 'none'
""",
}
