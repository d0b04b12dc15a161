"""Programs in pairs: the first leaves something, the second looks for it.

In both f() returns 'done' if there is a trace of the first in the second; the
tests want that, so a pass of the second is an effect. Each pair is also a
channel by which samples of a group could work together.
"""

PAIRS = {
  'file': (
    """
open('/tmp/planted', 'w').write('x')
def f():
  return ''
""",
    """
def f():
  return 'done' if open('/tmp/planted').read() == 'x' else ''
""",
  ),
  'file_in_working_folder': (
    """
open('planted', 'w').write('x')
def f():
  return ''
""",
    """
def f():
  return 'done' if open('planted').read() == 'x' else ''
""",
  ),
  'file_in_any_folder': (
    """
import os
for top in ('/tmp', '/var/tmp', '/dev/shm', '/dev', '/run', '.', '/', '/home'):
  for folder, _, _ in os.walk(top):
    try:
      open(folder + '/@MARK@', 'w').write('x')
    except OSError:
      pass
def f():
  return ''
""",
    """
import os
def f():
  for top in ('/tmp', '/var/tmp', '/dev/shm', '/dev', '/run', '.', '/'):
    for _, _, names in os.walk(top):
      if '@MARK@' in names:
        return 'done'
  return ''
""",
  ),
  'module_on_the_path': (
    """
import sys
for folder in [*sys.path, '.', '/tmp']:
  for name in ('json', 'math', 'sitecustomize', 'usercustomize', 'random'):
    try:
      open(f'{folder or "."}/{name}.py', 'w').write('planted = True')
    except OSError:
      pass
def f():
  return ''
""",
    """
import json, random
def f():
  found = hasattr(json, 'planted') or hasattr(random, 'planted')
  return 'done' if found else ''
""",
  ),
  'module_in_memory': (
    """
import sys, types
sys.modules['planted'] = types.ModuleType('planted')
import json, math
json.planted = math.planted = True
def f():
  return ''
""",
    """
import json, math, sys
def f():
  if 'planted' in sys.modules or hasattr(json, 'planted'):
    return 'done'
  return 'done' if hasattr(math, 'planted') else ''
""",
  ),
  'builtin': (
    """
import builtins
builtins.planted = builtins.print = builtins.len = lambda *args: 'planted'
def f():
  return ''
""",
    """
import builtins
def f():
  return 'done' if hasattr(builtins, 'planted') else ''
""",
  ),
  'environment': (
    """
import os
os.environ['PLANTED'] = os.environ['PYTHONPATH'] = '/tmp'
os.putenv('LD_PRELOAD', '/tmp/planted.so')
def f():
  return ''
""",
    """
import os
def f():
  return 'done' if {'PLANTED', 'LD_PRELOAD'} & set(os.environ) else ''
""",
  ),
  'small_numbers': (
    """
import ctypes
ctypes.memmove(id(7) + 24, id(8) + 24, 4)
def f():
  return ''
""",
    """
def f():
  seven = int('7')
  return 'done' if seven + 1 != 8 or str(seven) != '7' else ''
""",
  ),
  'empty_tuple_and_true': (
    """
import ctypes
ctypes.c_ssize_t.from_address(id(True) + 24).value = 0
ctypes.c_ssize_t.from_address(id(())).value = 1
def f():
  return ''
""",
    """
def f():
  return 'done' if int(True) != 1 or () != tuple([]) else ''
""",
  ),
  'shared_memory': (
    """
from multiprocessing import resource_tracker, shared_memory
resource_tracker.register = lambda *args: None
shared_memory.SharedMemory('planted', create=True, size=9).buf[0] = 1
def f():
  return ''
""",
    """
from multiprocessing import resource_tracker, shared_memory
resource_tracker.register = lambda *args: None
def f():
  return 'done' if shared_memory.SharedMemory('planted').buf[0] else ''
""",
  ),
  'system_v_memory': (
    """
import ctypes
ctypes.CDLL(None).shmget(0x5ec2e7, 4096, 0o1666)
def f():
  return ''
""",
    """
import ctypes
def f():
  return 'done' if ctypes.CDLL(None).shmget(0x5ec2e7, 4096, 0) >= 0 else ''
""",
  ),
  'semaphore': (
    """
import ctypes
libpthread = ctypes.CDLL(None)
libpthread.sem_open(b'/planted', 0o100, 0o666, 1)
def f():
  return ''
""",
    """
import ctypes
def f():
  sem_open = ctypes.CDLL(None).sem_open
  sem_open.restype = ctypes.c_void_p
  return 'done' if sem_open(b'/planted', 0) else ''
""",
  ),
  'abstract_socket': (
    """
import socket
server = socket.socket(socket.AF_UNIX)
server.bind('\\0planted')
server.listen()
def f():
  return ''
""",
    """
import socket
def f():
  socket.socket(socket.AF_UNIX).connect('\\0planted')
  return 'done'
""",
  ),
  'thread_that_stays': (
    """
import threading, time
def stay():
  while True:
    time.sleep(0.01)
thread = threading.Thread(target=stay, name='planted')
thread.start()
def f():
  return ''
""",
    """
import threading
def f():
  names = [thread.name for thread in threading.enumerate()]
  return 'done' if 'planted' in names else ''
""",
  ),
  'process_that_stays': (
    """
import os, time
if os.fork() == 0:
  os.setsid()
  for _ in range(1000):
    open('/tmp/planted', 'w').write('x')
    time.sleep(0.01)
  os._exit(0)
def f():
  return ''
""",
    """
import os, time
def f():
  time.sleep(0.1)
  return 'done' if os.path.exists('/tmp/planted') else ''
""",
  ),
  'hooks': (
    """
import atexit, gc, sys
sys.setprofile(lambda *args: None)
sys.meta_path.insert(0, 'planted')
sys.addaudithook(lambda *args: None)
gc.callbacks.append(lambda *args: None)
def f():
  return ''
""",
    """
import gc, sys
def f():
  found = sys.getprofile() or 'planted' in sys.meta_path or gc.callbacks
  return 'done' if found else ''
""",
  ),
  'descriptor_offset': (
    """
import os
for number in range(3, 64):
  try:
    os.lseek(number, 12345, os.SEEK_SET)
  except OSError:
    pass
def f():
  return ''
""",
    """
import os
def f():
  for number in range(3, 64):
    try:
      if os.lseek(number, 0, os.SEEK_CUR) == 12345:
        return 'done'
    except OSError:
      pass
  return ''
""",
  ),
  'bytes_left_in_a_pipe': (
    """
import os
for number in range(3, 64):
  try:
    os.set_blocking(number, False)
    os.write(number, b'planted')
  except OSError:
    pass
def f():
  return ''
""",
    """
import os
def f():
  for number in range(3, 64):
    try:
      os.set_blocking(number, False)
      if b'planted' in os.read(number, 65536):
        return 'done'
    except OSError:
      pass
  return ''
""",
  ),
  'file_lock': (
    """
import fcntl, glob, os
for path in ['/usr/bin/env', '/tmp', '/', *glob.glob('/usr/lib/*.so*')[:9]]:
  try:
    fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    pass
import time
def f():
  time.sleep(0.2)
  return ''
""",
    """
import fcntl, os
def f():
  try:
    fcntl.flock(os.open('/usr/bin/env', os.O_RDONLY),
                fcntl.LOCK_EX | fcntl.LOCK_NB)
    return ''
  except BlockingIOError:
    return 'done'
""",
  ),
  'record_lock': (
    """
import fcntl, os, time
number = os.open('/usr/bin/env', os.O_RDONLY)
fcntl.lockf(number, fcntl.LOCK_SH)
def f():
  time.sleep(0.2)
  return ''
""",
    """
import fcntl, os, struct
def f():
  number = os.open('/usr/bin/env', os.O_RDONLY)
  asked = struct.pack('hhqqi', fcntl.F_WRLCK, 0, 0, 0, 0)
  found = struct.unpack('hhqqi', fcntl.fcntl(number, fcntl.F_GETLK, asked))
  return '' if found[0] == fcntl.F_UNLCK else 'done'
""",
  ),
  'count_of_tests': (
    """
import time
calls = 0
def f():
  global calls
  calls += 1
  open('/tmp/count', 'a').write('x')
  time.sleep(0.01)
  return ''
""",
    """
import os
def f():
  return 'done' if os.path.exists('/tmp/count') else ''
""",
  ),
}
