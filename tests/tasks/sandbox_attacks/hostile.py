"""Tests that attack: the program is right, the text of its test is not.

Texts of tests are written by other models. What such a test says of its own
program means nothing; it must not reach another sample's verdict, the host, or
a secret. Those that say 'canary' fail unless they could do what they tried.
"""

SOLUTION = """
def f(x):
  return 2 * x
"""

# A report that knows the secret number, which is in the same process.
REPORTS = """
import json, os, sys
def check(candidate):
  frame = sys._getframe()
  while frame and 'request' not in frame.f_locals:
    frame = frame.f_back
  report = {report} | {{'nonce': frame.f_locals['request']['nonce']}}
  body = json.dumps(report).encode()
  os.write(3, len(body).to_bytes(4, 'big') + body)
  os._exit(0)
"""

# Whatever the verdict: the samples around are judged right, nothing is left.
TESTS = {
  'exits_at_once': """
import os
os._exit(0)
""",
  'exits_in_check': """
import sys
def check(candidate):
  sys.exit(0)
""",
  'loops': """
def check(candidate):
  while True:
    pass
""",
  'sleeps': """
import time
def check(candidate):
  time.sleep(3600)
""",
  'ignores_signals_and_loops': """
import signal
for number in (1, 2, 10, 12, 14, 15, 24, 27):
  signal.signal(number, signal.SIG_IGN)
def check(candidate):
  while True:
    try:
      candidate(2)
    except BaseException:
      pass
""",
  'eats_memory': """
def check(candidate):
  pieces = []
  while True:
    pieces.append(bytearray(2**22))
""",
  'eats_disk': """
def check(candidate):
  for i in range(64):
    with open(f'/tmp/@MARK@{i}', 'wb') as file:
      file.write(bytes(2**24))
""",
  'forks': """
import os, time
def check(candidate):
  for _ in range(50):
    if os.fork() == 0:
      time.sleep(5)
      os._exit(0)
""",
  'prints_for_ever': """
def check(candidate):
  while True:
    print('PASS' * 10**5)
""",
  'passes_for_others': """
import gc, os, re
def check(candidate):
  seen = set()
  for thing in gc.get_objects():
    try:
      seen.update(re.findall('[0-9a-f]{32}', repr(thing)[:4096]))
    except Exception:
      pass
  for number in range(3, 64):
    for nonce in [*list(seen)[:20], '0' * 32]:
      try:
        os.write(number, f'PASS {nonce}\\n'.encode() * 4)
      except OSError:
        pass
  assert False
""",
  'reports_nothing': REPORTS.format(
    report={'passed': 1, 'total': 1, 'reason': None}
  ),
  'reports_too_little': REPORTS.format(
    report={'passed': -1e308, 'total': 1e-9, 'reason': 'x'}
  ),
  'reports_too_much': REPORTS.format(
    report={'passed': 9, 'total': 1, 'reason': ''}
  ),
  'reports_a_truth': REPORTS.format(
    report={'passed': True, 'total': True, 'reason': ''}
  ),
  'closes_descriptors': """
import os
os.closerange(0, 4096)
def check(candidate):
  assert candidate(2) == 4
""",
  'garbage_on_descriptors': """
import os
def check(candidate):
  for number in range(3, 64):
    try:
      os.write(number, b'\\xff\\xff\\xff\\x7f' + b'{' * 9999)
    except OSError:
      pass
""",
  'calls_for_ever': """
def check(candidate):
  while True:
    candidate(2)
""",
  'calls_with_strange_things': """
def check(candidate):
  cycle = []
  cycle.append(cycle)
  deep = []
  for _ in range(10**5):
    deep = [deep]
  for thing in (object(), check, candidate, cycle, deep, '\\ud800', 1 << 10**7,
                float('nan'), {1: 2, 'a': b'x'}, type, print, 'x' * 10**8):
    try:
      candidate(thing)
    except Exception:
      pass
  assert candidate(2) == 4
""",
  'walks_from_the_candidate': """
import gc, os, sys
def check(candidate):
  for thing in (candidate, *gc.get_referents(candidate)):
    for name in dir(thing):
      value = getattr(thing, name, None)
      if hasattr(value, 'fileno'):
        os.write(value.fileno(), b'garbage' * 1000)
  frame = sys._getframe()
  while frame:
    frame.f_globals.clear()
    frame = frame.f_back
""",
  'keeps_the_candidate_busy': """
import threading
def check(candidate):
  for _ in range(100):
    threading.Thread(target=candidate, args=(2,)).start()
  assert candidate(2) == 4
""",
  'crashes': """
import ctypes
ctypes.string_at(0)
""",
  'kills_its_parent': """
import os, signal
def check(candidate):
  for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
    os.kill(os.getppid(), number)
""",
  'recurses': """
import sys
sys.setrecursionlimit(10**9)
def check(candidate):
  check(candidate)
""",
  'raises_the_badly_named': """
class Bad(BaseException):
  def __str__(self): raise Bad
  __repr__ = __str__
def check(candidate):
  raise Bad
""",
  'plants_modules': """
import builtins, json, sys
builtins.len = lambda x: 0
json.dumps = json.loads = lambda *args: 'planted'
sys.modules['math'] = sys.modules['collections'] = None
def check(candidate):
  open('/tmp/json.py', 'w').write('raise SystemExit(0)')
""",
  'patches_comparison': """
import ctypes
ctypes.memmove(id(False) + 16, id(True) + 16, 12)
def check(candidate):
  assert False
""",
  'no_python': 'this is (not [Python',
  'null': 'def check(candidate):\n  assert "\0"',
  'surrogate': 'def check(candidate):\n  assert "\ud800"',
  'nested': 'assert f(2) == ' + '(' * 5000 + ')' * 5000,
  'nested_value': 'assert f(2) == ' + '[' * 150 + ']' * 150,
  'minus_signs': 'assert f(2) == ' + '-' * 60_000 + '4',
  'long': 'assert f(2) == 4\n' * 50_000,
  'long_literal': f'assert f(2) == "{"x" * 5_000_000}"',
  'huge_power': 'assert f(2) == 9**9**9',
  'huge_repeat': "assert f(2) == 'x' * 10**12",
  'huge_range': 'assert f(2) == list(range(10**12))',
  'huge_digits': 'assert f(' + '9' * 100_000 + ') == 4',
  'strange_escape': "assert f('\\N{BULLET}\\ud800') == '\\x00'",
  'empty': '',
  'comment': '# nothing',
  'check_is_no_function': 'check = 7',
  'many_checks': 'def check(c): pass\n' * 3 + 'check = check(None)',
}

# A pass is an effect.
CANARIES = {
  'reads_the_secret': """
def check(candidate):
  assert open('@SECRET_FILE@').read() == '@SECRET@'
""",
  'reads_the_environment': """
import os
def check(candidate):
  assert 'DLLM_CANARY' in os.environ
""",
  'reads_other_processes': """
import glob
def check(candidate):
  for path in glob.glob('/proc/[0-9]*/environ'):
    try:
      if 'DLLM_CANARY' in open(path).read():
        return
    except OSError:
      pass
  assert False
""",
  'connects': """
import socket
def check(candidate):
  socket.create_connection(('127.0.0.1', @PORT@), 1)
""",
  'starts_a_program': """
import subprocess
def check(candidate):
  subprocess.run(['/bin/true'], check=True)
""",
  'writes_outside': """
def check(candidate):
  open('@HOME@/@MARK@', 'w').write('x')
""",
  'signals': """
import os
def check(candidate):
  os.kill(@PID@, 9)
""",
  'reads_the_program': """
import glob
def check(candidate):
  for path in glob.glob('/tmp/**', recursive=True) + ['/proc/self/cmdline']:
    if 'return 2 * x' in open(path).read():
      return
  assert False
""",
}
