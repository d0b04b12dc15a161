"""Programs that hang, crash, or eat processor time, memory, disk or replies.

f(x) should be 2 x. Whatever they do, the verdict is "wrong" within the limits,
and the next sample is judged right.
"""

PROGRAMS = {
  'forks_200': """
import os, time
def f(x):
  for _ in range(200):
    if os.fork() == 0:
      time.sleep(5)
      os._exit(0)
  return 0
""",
  'fork_bomb_at_import': """
import os, time
for _ in range(6):
  os.fork()
time.sleep(3)
def f(x):
  return 0
""",
  'threads_300': """
import threading, time
def f(x):
  for _ in range(300):
    threading.Thread(target=time.sleep, args=(60,)).start()
  return 0
""",
  'thread_never_ends': """
import threading
def spin():
  while True:
    pass
def f(x):
  threading.Thread(target=spin).start()
  return 0
""",
  'memory_2_gib': """
def f(x):
  return len(bytearray(2**31)) * 0
""",
  'memory_in_pieces': """
def f(x):
  pieces = []
  while True:
    pieces.append(bytearray(2**22))
""",
  'memory_by_mmap': """
import mmap
def f(x):
  pieces = []
  while True:
    piece = mmap.mmap(-1, 2**26)
    piece[::4096] = b'x' * (2**26 // 4096)
    pieces.append(piece)
""",
  'memory_error_swallowed': """
def f(x):
  pieces = []
  while True:
    try:
      pieces.append(bytearray(2**20))
    except MemoryError:
      pass
""",
  'disk_256_mb': """
def f(x):
  for i in range(16):
    with open(f'/tmp/@MARK@{i}', 'wb') as file:
      for _ in range(16):
        file.write(bytes(2**20))
  return 0
""",
  'sparse_file': """
import os
def f(x):
  with open('/tmp/@MARK@', 'wb') as file:
    os.truncate(file.fileno(), 2**40)
    os.posix_fallocate(file.fileno(), 0, 2**30)
  return 0
""",
  'files_5000': """
def f(x):
  for i in range(5000):
    open(f'/tmp/@MARK@{i}', 'w').close()
  return 0
""",
  'deep_folders': """
import os
def f(x):
  os.chdir('/tmp')
  for _ in range(3000):
    os.mkdir('d' * 200)
    os.chdir('d' * 200)
  return 0
""",
  'zlib_bomb': """
import zlib
bomb = zlib.compress(zlib.compress(bytes(2**26), 9), 9)
def f(x):
  data = bomb
  while True:
    data = zlib.decompress(data) * 64
""",
  'while_true': """
def f(x):
  while True:
    pass
""",
  'while_true_at_import': """
while True:
  pass
""",
  'catches_everything': """
def f(x):
  while True:
    try:
      while True:
        pass
    except BaseException:
      pass
""",
  'loop_in_c': """
from itertools import repeat
def f(x):
  return all(repeat(True))
""",
  'sleeps': """
import time
def f(x):
  time.sleep(3600)
""",
  'sleeps_at_import': """
import time
time.sleep(3600)
""",
  'waits_for_input': """
import sys
def f(x):
  input()
  return sys.stdin.read()
""",
  'waits_for_itself': """
import threading
lock = threading.Lock()
def f(x):
  lock.acquire()
  lock.acquire()
""",
  'ignores_signals': """
import signal, time
for number in range(1, 65):
  try:
    signal.signal(number, signal.SIG_IGN)
  except (OSError, ValueError):
    pass
def f(x):
  while True:
    pass
""",
  'blocks_signals': """
import signal, time
signal.pthread_sigmask(signal.SIG_SETMASK, range(1, 65))
def f(x):
  time.sleep(3600)
""",
  'cancels_timers': """
import signal, time
def f(x):
  for kind in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
    signal.setitimer(kind, 0)
  signal.alarm(0)
  while True:
    pass
""",
  'endless_output': """
def f(x):
  while True:
    print('x' * 10**6)
""",
  'endless_errors': """
import os
def f(x):
  while True:
    os.write(2, b'x' * 65536)
""",
  'power_tower': """
def f(x):
  return 9**9**9
""",
  'factorial': """
import math
def f(x):
  return math.factorial(10**8)
""",
  'endless_generator': """
def f(x):
  while True:
    yield x
""",
  'endless_iterator_of_itself': """
class Me:
  def __iter__(self): return self
  def __next__(self): return self
def f(x):
  return Me()
""",
  'backtracking': """
import re
def f(x):
  return re.match('(a+)+$', 'a' * 64 + 'b')
""",
  'segfault': """
import ctypes
def f(x):
  ctypes.string_at(0)
""",
  'segfault_at_import': """
import ctypes
ctypes.memset(0, 0, 1)
""",
  'abort': """
import os
def f(x):
  os.abort()
""",
  'bad_bytecode': """
def f(x):
  pass
f.__code__ = f.__code__.replace(co_code=b'd\\xff' * 40, co_stacksize=0)
""",
  'endless_recursion': """
import sys
sys.setrecursionlimit(10**9)
def f(x):
  return f(x)
""",
  'recursion_in_repr': """
class Deep:
  def __init__(self, inner): self.inner = inner
  def __repr__(self): return repr(self.inner)
import sys
sys.setrecursionlimit(10**9)
def f(x):
  deep = 0
  for _ in range(10**6):
    deep = Deep(deep)
  return repr(deep)
""",
  'returns_200_mb': """
def f(x):
  return 'x' * (200 * 2**20)
""",
  'returns_many_items': """
def f(x):
  return [0] * 10**7
""",
  'returns_depth_100000': """
def f(x):
  deep = []
  for _ in range(100_000):
    deep = [deep]
  return deep
""",
  'returns_a_cycle': """
def f(x):
  cycle = []
  cycle.append(cycle)
  return cycle
""",
  'returns_a_blow_up': """
def f(x):
  wide = [0]
  for _ in range(60):
    wide = [wide, wide]
  return wide
""",
  'returns_80_million_bits': """
def f(x):
  return 1 << 80_000_000
""",
  'returns_a_million_digits': """
import sys
sys.set_int_max_str_digits(0)
def f(x):
  return 10**1_000_000
""",
  'digit_limit_off': """
import sys
sys.set_int_max_str_digits(0)
def f(x):
  return int(str(7**2_000_000))
""",
  'returns_half_a_surrogate': """
def f(x):
  return '\\ud800' * 10
""",
  'returns_strange_numbers': """
def f(x):
  return [float('inf'), -float('inf'), float('nan'), -0.0, 1e400, 5e-324]
""",
  'returns_bytes_and_memory': """
def f(x):
  return {'a': b'\\xff' * 100, 1: memoryview(b'abc'), None: bytearray(9)}
""",
  'null_in_the_source': 'def f(x):\n  return "\0"\n',
  'surrogate_in_the_source': 'def f(x):\n  return "\ud800"\n',
  'bom_and_coding': '\ufeff# coding: utf-7\ndef f(x):\n  return +AD0-\n',
  'nested_parentheses': 'def f(x):\n  return ' + '(' * 5000 + ')' * 5000,
  'nested_lists': 'f = ' + '[' * 90 + ']' * 90 + '\n' + 'x = ' + '-' * 50_000,
  'megabytes_of_source': 'def f(x):\n  return 0\n' + '#' * 5_000_000,
  'slow_to_compile': 'def f(x):\n  return (1,)' + '+(1,)' * 20_000,
  'constant_folding': """
def f(x):
  return ((((1 << 100) ** 99) ** 99) ** 99) ** 99, 'x' * 4000 * 4000 * 4000
""",
  'closes_all_descriptors': """
import os
def f(x):
  os.closerange(0, 4096)
  return 0
""",
  'closes_all_at_import': """
import os
os.closerange(0, 4096)
def f(x):
  return 4
""",
  'fills_descriptors': """
import os
def f(x):
  held = []
  try:
    while True:
      held.append(os.pipe())
  except OSError:
    return 0
""",
  'error_without_text': """
class Bad(Exception):
  def __str__(self): raise Bad
  __repr__ = __str__
  def __reduce__(self): raise Bad
def f(x):
  raise Bad
""",
  'error_of_100_mb': """
def f(x):
  raise ValueError('x' * 10**8)
""",
  'error_group_of_depth': """
def f(x):
  error = ValueError()
  for _ in range(50_000):
    error = ExceptionGroup('', [error])
  raise error
""",
  'error_named_badly': """
Bad = type('os.system("x")\\n\\0', (Exception,), {'__module__': 'builtins'})
def f(x):
  raise Bad
""",
  'error_chain_in_a_cycle': """
def f(x):
  a, b = ValueError(), ValueError()
  a.__context__, b.__context__ = b, a
  raise a
""",
  'audit_hook_raises': """
import sys
def hook(*args):
  raise RuntimeError
sys.addaudithook(hook)
def f(x):
  return 0
""",
  'garbage_on_descriptors': """
import os
def f(x):
  for number in range(3, 64):
    try:
      os.write(number, b'\\xff' * 4096)
    except OSError:
      pass
  return 0
""",
  'huge_length_on_descriptors': """
import os
def f(x):
  for number in range(3, 64):
    for head in (b'\\xff\\xff\\xff\\x7f', b'\\x7f\\xff\\xff\\xff'):
      try:
        os.write(number, head)
      except OSError:
        pass
  while True:
    pass
""",
  'half_a_reply': """
import os, time
def f(x):
  for number in range(3, 64):
    try:
      os.write(number, b'\\x00')
    except OSError:
      pass
  time.sleep(3600)
""",
  'drips_output': """
import os, time
def f(x):
  while True:
    os.write(1, b'x')
    time.sleep(0.01)
""",
  'stops_itself': """
import os, signal
def f(x):
  os.kill(os.getpid(), signal.SIGSTOP)
  return 0
""",
  'frozen_garbage': """
import gc
class Bomb:
  def __del__(self):
    while True:
      pass
def f(x):
  gc.freeze()
  gc.disable()
  keep = Bomb()
  keep.me = keep
  return 0
""",
  'finaliser_loops': """
class Bomb:
  def __del__(self):
    while True:
      pass
f = lambda x: 0
f.keep = Bomb()
bomb = Bomb()
""",
  'finaliser_breeds': """
class Hydra:
  def __del__(self):
    self.heads = [Hydra(), Hydra()]
    globals()['keep'] = self.heads
def f(x):
  Hydra()
  return 0
""",
  'atexit_loops': """
import atexit
def forever():
  while True:
    pass
atexit.register(forever)
def f(x):
  return 0
""",
  'zip_bomb': """
import io, zipfile
def f(x):
  data = io.BytesIO()
  with zipfile.ZipFile(data, 'w', zipfile.ZIP_DEFLATED) as file:
    for i in range(8):
      file.writestr(f'@MARK@{i}', bytes(2**26))
  zipfile.ZipFile(data).extractall('/tmp')
  return 0
""",
  'tar_bomb': """
import io, tarfile
def f(x):
  data = io.BytesIO()
  with tarfile.open(fileobj=data, mode='w:gz') as file:
    for i in range(8):
      info = tarfile.TarInfo(f'../../../../tmp/@MARK@{i}')
      info.size = 2**26
      file.addfile(info, io.BytesIO(bytes(2**26)))
  data.seek(0)
  tarfile.open(fileobj=data).extractall('/tmp')
  return 0
""",
  'hash_collisions': """
class Same:
  def __hash__(self): return 0
  def __eq__(self, other): return False
def f(x):
  return len({Same() for _ in range(10**5)}) * 0
""",
  'sorts_for_ever': """
class Slow:
  def __lt__(self, other): return True
def f(x):
  while True:
    sorted(Slow() for _ in range(10**4))
""",
  'imports_slowly': """
import ast, asyncio, concurrent.futures, decimal, email, http.client, sqlite3
import unittest, xml.dom.minidom, tkinter
def f(x):
  return 0
""",
  'sqlite_memory': """
import sqlite3
def f(x):
  db = sqlite3.connect('/tmp/@MARK@')
  db.execute('create table t(x)')
  while True:
    db.execute('insert into t values (zeroblob(1000000))')
""",
}
