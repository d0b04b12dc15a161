"""Programs that are wrong and try to be judged right: f(x) should be 2 x.

`JUDGED` has tests of their own for programs that aim at what a test uses.
"""

PROGRAMS = {
  'os_exit_at_import': """
import os
os._exit(0)
""",
  'os_exit_in_function': """
import os
def f(x):
  os._exit(0)
""",
  'sys_exit_at_import': """
import sys
sys.exit(0)
""",
  'sys_exit_in_function': """
import sys
def f(x):
  sys.exit(0)
""",
  'system_exit_at_import': """
raise SystemExit
""",
  'system_exit_in_function': """
def f(x):
  raise SystemExit(0)
""",
  'keyboard_interrupt': """
def f(x):
  raise KeyboardInterrupt
""",
  'generator_exit': """
def f(x):
  raise GeneratorExit
""",
  'stop_iteration_ends_map': """
def f(x):
  raise StopIteration
""",
  'own_stop_iteration': """
class Stop(StopIteration):
  pass
Stop.__name__ = Stop.__qualname__ = 'StopIteration'
Stop.__module__ = 'builtins'
def f(x):
  raise Stop
""",
  'assertion_error_hidden': """
class Quiet(AssertionError, SystemExit):
  pass
def f(x):
  raise Quiet(0)
""",
  'equal_to_all': """
class All:
  def __eq__(self, other): return True
  def __ne__(self, other): return False
  def __hash__(self): return 0
def f(x):
  return All()
""",
  'int_subclass': """
class All(int):
  def __eq__(self, other): return True
  def __ne__(self, other): return False
  def __sub__(self, other): return 0
  def __hash__(self): return 0
def f(x):
  return All(0)
""",
  'float_subclass': """
class All(float):
  def __eq__(self, other): return True
  def __ne__(self, other): return False
  def __sub__(self, other): return 0.0
  def __lt__(self, other): return True
  __le__ = __gt__ = __ge__ = __lt__
def f(x):
  return All('nan')
""",
  'str_subclass': """
class All(str):
  def __eq__(self, other): return True
  def __ne__(self, other): return False
  def __hash__(self): return 0
def f(x):
  return All('4')
""",
  'list_subclass': """
class All(list):
  def __eq__(self, other): return True
  def __ne__(self, other): return False
  def __len__(self): return 3
def f(x):
  return All()
""",
  'dict_subclass': """
class All(dict):
  def __eq__(self, other): return True
  def __contains__(self, key): return True
  def __getitem__(self, key): return All()
  def get(self, *args): return All()
def f(x):
  return All()
""",
  'equal_inside_a_list': """
class All(int):
  def __eq__(self, other): return True
def f(x):
  return [All(0), (All(0),), {'a': All(0)}]
""",
  'bool_subclass_trick': """
class Meta(type):
  def __eq__(cls, other): return True
  def __hash__(cls): return hash(int)
  def __instancecheck__(cls, other): return True
class All(metaclass=Meta):
  def __eq__(self, other): return True
def f(x):
  return All()
""",
  'class_attribute_lies': """
class All:
  __class__ = property(lambda self: int)
  def __eq__(self, other): return True
  def __index__(self): return 4
  def __int__(self): return 4
def f(x):
  return All()
""",
  'absorbs_everything': """
class Any:
  def __init__(self, *args, **kwargs): pass
  def __getattr__(self, name): return Any()
  def __call__(self, *args, **kwargs): return Any()
  def __getitem__(self, key): return Any()
  def __iter__(self): return iter(())
  def __len__(self): return 0
  def __bool__(self): return True
  def __hash__(self): return 0
  def __abs__(self): return 0
  def __float__(self): return 0.0
  for name in 'eq lt le gt ge contains'.split():
    exec(f'def __{name}__(self, other): return True')
  for name in 'add sub mul mod radd rsub rmul truediv'.split():
    exec(f'def __{name}__(self, other): return Any()')
f = Any()
""",
  'nan': """
def f(x):
  return float('nan')
""",
  'returns_itself_lazily': """
class Lazy:
  calls = 0
  def __eq__(self, other):
    Lazy.calls += 1
    return Lazy.calls % 2 == 1
  def __ne__(self, other):
    return not self == other
def f(x):
  return Lazy()
""",
  'awaitable': """
class Done:
  def __await__(self):
    yield
    return True
  def __eq__(self, other): return self
def f(x):
  return Done()
""",
  'generator_of_truths': """
import itertools
class All:
  def __eq__(self, other): return True
def f(x):
  return (All() for _ in itertools.count())
""",
  'frames_set_results': """
import sys
def f(x):
  frame = sys._getframe()
  while frame:
    for scope in (frame.f_locals, frame.f_globals):
      for name in ('result', 'stat', 'passed', 'verdict', 'ok', 'success'):
        value = scope.get(name)
        if isinstance(value, list):
          value[:] = ['passed']
        elif isinstance(value, dict):
          value.update(passed=True, ok=True, result='passed')
        else:
          scope[name] = True
    frame = frame.f_back
  return 0
""",
  'frames_replace_check': """
import sys
def f(x):
  frame = sys._getframe()
  while frame:
    frame.f_globals['check'] = lambda *args: None
    frame.f_globals['__builtins__'] = {}
    frame = frame.f_back
  return 0
""",
  'gc_walk': """
import gc
for thing in gc.get_objects():
  try:
    if type(thing).__name__ in ('ListProxy', 'list') and not len(thing):
      thing.append('passed')
    if type(thing).__name__ in ('Value', 'Synchronized'):
      thing.value = 1
  except Exception:
    pass
def f(x):
  return 0
""",
  'code_of_check_replaced': """
import gc, types
def quiet(*args, **kwargs):
  return True
def f(x):
  for thing in gc.get_objects():
    if isinstance(thing, types.FunctionType):
      if thing.__name__ in ('check', 'compare', 'equal', 'judge', 'same'):
        try:
          thing.__code__ = quiet.__code__
        except ValueError:
          pass
  return 0
""",
  'trace_jumps_over_asserts': """
import sys
def jump(frame, event, arg):
  frame.f_trace_lines = True
  if event == 'line':
    try:
      frame.f_lineno = frame.f_lineno + 1
    except (ValueError, TypeError):
      pass
  return jump
sys.settrace(jump)
def f(x):
  frame = sys._getframe(1)
  while frame:
    frame.f_trace = jump
    frame = frame.f_back
  return 0
""",
  'profile_hook': """
import os, sys
def hook(frame, event, arg):
  if event == 'c_exception' or 'assert' in frame.f_code.co_name:
    os._exit(0)
sys.setprofile(hook)
def f(x):
  return 0
""",
  'audit_hook_exits': """
import os, sys
def f(x):
  sys.addaudithook(lambda *args: os._exit(0))
  return 0
""",
  'prints_markers': """
import sys
def f(x):
  for word in ('PASSED', 'PASS', 'passed', 'OK', 'ok', 'True', '1', 'SUCCESS',
               'All tests passed', '{"passed": true}', '1 passed in 0.01s',
               '[[1]]', 'Ran 3 tests in 0.000s\\n\\nOK'):
    for stream in (sys.stdout, sys.stderr, sys.__stdout__):
      try:
        print(word, file=stream, flush=True)
      except Exception:
        pass
  return 0
""",
  'atexit_exits': """
import atexit, os
atexit.register(os._exit, 0)
def f(x):
  return 0
""",
  'excepthook_exits': """
import os, sys, threading
sys.excepthook = lambda *args: os._exit(0)
sys.unraisablehook = threading.excepthook = sys.excepthook
def f(x):
  return 0
""",
  'timer_thread_exits': """
import os, threading
threading.Timer(0.05, os._exit, (0,)).start()
def f(x):
  while True:
    pass
""",
  'alarm_exits': """
import os, signal
signal.signal(signal.SIGALRM, lambda *args: os._exit(0))
signal.setitimer(signal.ITIMER_REAL, 0.05)
def f(x):
  while True:
    pass
""",
  'sigterm_exits': """
import os, signal
for number in (signal.SIGTERM, signal.SIGXCPU, signal.SIGPROF, signal.SIGHUP):
  signal.signal(number, lambda *args: os._exit(0))
def f(x):
  while True:
    pass
""",
  'exit_is_always_zero': """
import os, sys
leave = os._exit
os._exit = lambda code=0: leave(0)
sys.exit = lambda code=0: leave(0)
def f(x):
  raise ValueError
""",
  'exec_true': """
import os
def f(x):
  for path in ('/bin/true', '/usr/bin/true'):
    try:
      os.execv(path, [path])
    except OSError:
      pass
  return 0
""",
  'exec_at_import': """
import os
for path in ('/bin/true', '/usr/bin/true'):
  try:
    os.execv(path, [path])
  except OSError:
    pass
""",
  'constants_of_the_caller': """
import sys
def f(x):
  frame = sys._getframe(1)
  while frame:
    for value in frame.f_code.co_consts:
      if type(value) is int and value == 2 * x:
        return value
    frame = frame.f_back
  return 0
""",
  'locals_of_the_caller': """
import sys
def f(x):
  frame = sys._getframe(1)
  while frame:
    for scope in (frame.f_locals, frame.f_globals):
      for name in ('expected', 'want', 'answer', 'expect', 'gold', 'right'):
        if name in scope:
          return scope[name]
    frame = frame.f_back
  return 0
""",
  'text_of_the_test': """
import glob, re, sys
def f(x):
  texts = [' '.join(sys.argv), repr(globals()), repr(sys._getframe(1).f_locals)]
  for path in glob.glob('/proc/*/cmdline') + glob.glob('/tmp/*'):
    try:
      texts.append(open(path, errors='replace').read())
    except OSError:
      pass
  found = re.search(rf'\\({x}\\) == (\\d+)', ' '.join(texts))
  return int(found[1]) if found else 0
""",
  'linecache_of_the_test': """
import gc, re
def f(x):
  for thing in gc.get_objects():
    if type(thing) in (list, tuple, dict):
      found = re.search(rf'\\({x}\\) == (\\d+)', repr(thing)[:100_000])
      if found:
        return int(found[1])
  return 0
""",
  'abs_is_zero': """
import builtins
builtins.abs = lambda x: 0
def f(x):
  return 0.0
""",
  'isclose_is_true': """
import math, cmath
math.isclose = cmath.isclose = lambda *args, **kwargs: True
def f(x):
  return 0.0
""",
  'all_and_len_lie': """
import builtins
builtins.all = builtins.any = lambda *args: True
builtins.len = lambda x: 3
builtins.isinstance = lambda *args: True
builtins.sorted = lambda *args, **kwargs: []
builtins.range = lambda *args: ()
builtins.set = builtins.list = lambda *args: 0
def f(x):
  return 0
""",
  'unittest_patched': """
import unittest
for name in dir(unittest.TestCase):
  if name.startswith('assert'):
    setattr(unittest.TestCase, name, lambda *args, **kwargs: None)
def f(x):
  return 0
""",
  'fake_modules': """
import sys, types
class Fake(types.ModuleType):
  def __getattr__(self, name):
    return lambda *args, **kwargs: True
for name in ('math', 'pytest', 'unittest', 'numpy', 'collections', 'solution'):
  sys.modules[name] = Fake(name)
def f(x):
  return 0
""",
  'import_hook': """
import sys, types
class Finder:
  def find_spec(self, name, *args):
    import importlib.machinery
    return importlib.machinery.ModuleSpec(name, self)
  def create_module(self, spec):
    module = types.ModuleType(spec.name)
    module.__getattr__ = lambda name: (lambda *args, **kwargs: True)
    return module
  def exec_module(self, module):
    pass
sys.meta_path.insert(0, Finder())
def f(x):
  return 0
""",
  'compile_drops_asserts': """
import builtins
real = builtins.compile
def stripped(source, filename, mode, *args, **kwargs):
  kwargs['optimize'] = 2
  return real(source, filename, mode, **kwargs)
builtins.compile = stripped
builtins.exec = lambda *args: None
builtins.eval = lambda *args: True
def f(x):
  return 0
""",
  'ast_patched': """
import ast
ast.parse = lambda *args, **kwargs: ast.Module(body=[], type_ignores=[])
ast.literal_eval = lambda *args: True
def f(x):
  return 0
""",
  'check_defined_first': """
import builtins
def check(*args):
  return True
builtins.check = check
builtins.candidate = lambda x: 2 * x
def f(x):
  return 0
""",
  'module_getattr': """
def __getattr__(name):
  return lambda *args: None
f = None
del f
""",
  'writes_to_all_descriptors': """
import os
def f(x):
  for number in range(64):
    for text in (b'PASS\\n', b'PASSED\\n', b'{"passed": true}\\n', b'1\\n'):
      try:
        os.write(number, text)
      except OSError:
        pass
  return 0
""",
  'descriptors_swapped': """
import os
def f(x):
  read, write = os.pipe()
  os.write(write, b'PASS' * 100)
  for number in range(3, 64):
    if number not in (read, write):
      try:
        os.dup2(read, number)
      except OSError:
        pass
  return 0
""",
  'ctypes_compare': """
import ctypes
def f(x):
  api = ctypes.pythonapi
  kind = ctypes.py_object(int)
  compare = ctypes.CFUNCTYPE(
    ctypes.py_object, ctypes.py_object, ctypes.py_object, ctypes.c_int)
  f.keep = compare(lambda a, b, op: True)
  slots = (ctypes.c_void_p * 40).from_address(id(int))
  for i, slot in enumerate(slots):
    if i == 25:
      slots[i] = ctypes.cast(f.keep, ctypes.c_void_p).value
  api.PyType_Modified(kind)
  return 0
""",
  'ctypes_true_is_all': """
import ctypes
ctypes.memmove(id(False) + 16, id(True) + 16, 12)
def f(x):
  return 0
""",
  'fork_parent_exits': """
import os, time
def f(x):
  if os.fork():
    os._exit(0)
  time.sleep(1)
  os._exit(0)
""",
  'reduce_runs_code': """
import os
class Exit:
  def __reduce__(self):
    return os._exit, (0,)
def f(x):
  return Exit()
""",
  'stdout_replaced': """
import io, sys
class Lying(io.StringIO):
  def getvalue(self): return 'PASSED'
  def read(self, *args): return 'PASSED'
sys.stdout = sys.stderr = Lying()
def f(x):
  return 0
""",
  'kills_its_grader': """
import os, signal
def f(x):
  pids = [os.getppid()]
  if os.getpid() < 64:  # in a namespace of its own
    pids += [1, 2, 3]
  for pid in pids:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
      try:
        os.kill(pid, number)
      except OSError:
        pass
  return 0
""",
  'stops_its_grader': """
import os, signal
def f(x):
  try:
    os.kill(os.getppid(), signal.SIGSTOP)
  except OSError:
    pass
  return 0
""",
  'fake_replies': """
import json, os, struct
REPLIES = [{'v': 4}, {'v': True, 'changed': []}, {'e': 'StopIteration'},
           {'n': 'unsupported'}, 'ready', 'loaded', {'v': {'o': 0}}]
REPLIES += [{'nonce': nonce, 'passed': 1, 'total': 1, 'reason': ''}
            for nonce in ('0' * 32, None, True, 0)]
def f(x):
  for number in range(3, 64):
    for reply in REPLIES:
      body = json.dumps(reply).encode()
      for head in ('<I', '>I', '<Q', '>Q'):
        try:
          os.write(number, struct.pack(head, len(body)) + body)
        except OSError:
          pass
  return 0
""",
  'fake_replies_at_import': """
import json, os, struct
for number in range(3, 64):
  for reply in ('loaded', {'v': 4}, {'v': 10}, {'v': 22},
                {'nonce': '0' * 32, 'passed': 1, 'total': 1, 'reason': ''}):
    body = json.dumps(reply).encode()
    try:
      os.write(number, struct.pack('<I', len(body)) + body + b'\\n')
      os.write(number, struct.pack('>I', len(body)) + body + b'\\n')
    except OSError:
      pass
def f(x):
  return 0
""",
  'reports_for_the_test': """
import json, os
def frame(code):
  body = json.dumps(code).encode()
  return len(body).to_bytes(4, 'big') + body
def f(x):
  report = {'nonce': '0' * 32, 'passed': 1, 'total': 1, 'reason': ''}
  for number in (3, 4):
    try:
      os.write(number, frame(report) + frame({'v': 0, 'changed': 1}))
    except OSError:
      pass
  os._exit(0)
""",
  'replies_ahead': """
import json, os
def frame(code):
  body = json.dumps(code).encode()
  return len(body).to_bytes(4, 'big') + body
for number in (3, 4):
  try:
    os.write(number, b''.join(map(frame, ('loaded', *[{'v': 5}] * 40))))
  except OSError:
    pass
def f(x):
  return 0
""",
  'serialiser_patched': """
import json, os, socket, struct
lie = lambda *args, **kwargs: '{"ok": true, "passed": true, "value": 4}'
json.dumps = json.JSONEncoder.encode = lie
json.loads = lambda *args, **kwargs: {'ok': True, 'passed': True}
write = os.write
os.write = lambda n, data: write(n, lie().encode()) and len(data)
def f(x):
  return 0
""",
  'nonce_from_memory': """
import gc, os, re
def f(x):
  seen = set()
  for thing in gc.get_objects():
    try:
      seen.update(re.findall(r'[0-9a-f]{32}', repr(thing)[:10_000]))
    except Exception:
      pass
  for nonce in list(seen)[:50]:
    for number in range(16):
      try:
        os.write(number, f'PASS {nonce}\\n'.encode())
      except OSError:
        pass
  return 0
""",
  'nonce_from_outside': """
import os, sys
def f(x):
  words = sys.argv + list(os.environ.values())
  for path in ('/proc/self/environ', '/proc/self/cmdline', '/proc/self/maps'):
    try:
      words += open(path, errors='replace').read().split('\\0')
    except OSError:
      pass
  for word in words[:200]:
    for number in range(16):
      try:
        os.write(number, f'PASS {word}\\n'.encode())
      except (OSError, UnicodeError):
        pass
  return f'PASS {words}'[:1000]
""",
  'reads_the_other_side': """
import os, select
def f(x):
  for number in range(3, 64):
    try:
      if select.select([number], [], [], 0)[0]:
        data = os.read(number, 65536)
        for other in range(3, 64):
          try:
            os.write(other, data)
          except OSError:
            pass
    except (OSError, ValueError):
      pass
  return 0
""",
  'entry_point_patches_itself': """
import sys
def f(x):
  main = sys.modules['__main__']
  for name in list(vars(main)):
    if callable(vars(main)[name]) and name != 'f':
      setattr(main, name, lambda *args, **kwargs: True)
  return 0
""",
  'wrong_once_exits_later': """
import os
calls = 0
def f(x):
  global calls
  calls += 1
  if calls > 1:
    os._exit(0)
  return 4
""",
  'unicode_entry_point': """
class All(int):
  def __eq__(self, other): return True
def \uff46(x):
  return All(0)
\u0430 = f
""",
  'masks_itself_by_depth': """
def f(x):
  deep = 0
  for _ in range(60):
    deep = [deep]
  return deep
""",
  'masks_itself_by_size': """
def f(x):
  return [0] * 90_000
""",
  'masks_itself_by_length': """
def f(x):
  return 'x' * (2**20 - 100)
""",
  'masks_itself_by_objects': """
class Thing:
  def values(self): return 0
  def __eq__(self, other): return True
def f(x):
  return Thing()
""",
  'masks_itself_by_a_method': """
def f(x):
  return {}
""",
  'masks_itself_by_an_iterator': """
def f(x):
  return 'ab'
""",
  'masks_itself_after_a_failure': """
def f(x):
  return []
""",
  'stops_from_a_property': """
class Thing:
  @property
  def double(self): raise StopIteration
  def __len__(self): raise StopIteration
def f(x):
  return [Thing() for _ in range(x)]
""",
  'masks_itself_by_import': """
def f(x):
  raise ModuleNotFoundError('No module named numpy', name='numpy')
""",
  'masks_itself_by_its_limit': """
import resource
def f(x):
  resource.setrlimit(resource.RLIMIT_CPU, (0, 0))
  while True:
    pass
""",
  'masks_itself_by_text': """
class Unsupported(Exception):
  pass
def f(x):
  raise Unsupported('unsupported: the test needs more')
""",
  'test_in_a_docstring': '''
def f(x):
  """
  >>> f(2)
  4
  """
  return 0
"""
assert True
''',
  'unterminated_string': """
def f(x):
  return 0
'''
""",
  'returns_a_marker': """
def f(x):
  return 'PASS'
""",
  'returns_true': """
def f(x):
  return True
""",
  'returns_nothing': """
def f(x):
  pass
""",
  'does_not_define_it': """
def g(x):
  return 2 * x
""",
}

JUDGED = {
  'stop_iteration_ends_map': """
def check(candidate):
  want = [2 * x for x in range(9)]
  assert all(a == b for a, b in zip(map(candidate, range(9)), want))
""",
  'own_stop_iteration': """
def check(candidate):
  for got in map(candidate, range(9)):
    assert got is not None
  assert not list(map(candidate, range(9)))
""",
  'equal_inside_a_list': """
def check(candidate):
  for x in (2, 5):
    assert candidate(x) == [x, (x,), {'a': x}]
""",
  'list_subclass': """
def check(candidate):
  for x in (2, 5):
    assert candidate(x) == [x] * 3 and len(candidate(x)) == 3
""",
  'dict_subclass': """
def check(candidate):
  for x in (2, 5):
    assert candidate(x) == {'a': x} and candidate(x)['a'] == x
""",
  'str_subclass': """
def check(candidate):
  for x in (2, 5):
    assert candidate(x) == str(2 * x)
""",
  'float_subclass': """
def check(candidate):
  for x in (2, 5):
    assert abs(candidate(x) - 2.0 * x) < 1e-9
""",
  'abs_is_zero': """
def check(candidate):
  for x in (2, 5):
    assert abs(candidate(x) - 2.0 * x) < 1e-9
""",
  'isclose_is_true': """
def check(candidate):
  import math
  for x in (2, 5):
    assert math.isclose(candidate(x), 2.0 * x)
""",
  'all_and_len_lie': """
def check(candidate):
  assert all([candidate(x) == 2 * x for x in (2, 5)])
  assert sorted([candidate(5), candidate(2)]) == [4, 10]
  assert isinstance(candidate(2), str) or len([candidate(2)]) == 1
""",
  'unittest_patched': """
import unittest
def check(candidate):
  case = unittest.TestCase()
  for x in (2, 5):
    case.assertEqual(candidate(x), 2 * x)
""",
  'fake_modules': """
import math
def check(candidate):
  for x in (2, 5):
    assert math.isclose(candidate(x), 2 * x)
""",
  'masks_itself_by_depth': """
def check(candidate):
  got = candidate(2)
  assert candidate([[got]] * 5) == 4
""",
  'masks_itself_by_size': """
def check(candidate):
  got = candidate(2)
  assert candidate([[got]] * 5) == 4
""",
  'masks_itself_by_length': """
def check(candidate):
  got = candidate(2)
  assert candidate([[got]] * 5) == 4
""",
  'masks_itself_by_objects': """
def check(candidate):
  got = candidate(2)
  assert candidate(got.values) == candidate(3)
""",
  'masks_itself_by_a_method': """
def check(candidate):
  got = candidate(2)
  assert candidate(got.values) == candidate(3)
""",
  'masks_itself_by_an_iterator': """
def check(candidate):
  assert list(candidate(iter(candidate([1])))) == [5]
""",
  'masks_itself_after_a_failure': """
def test_first():
  assert f(2) == 4
def test_second():
  assert f(lambda: f(3)) == 6
""",
  'stops_from_a_property': """
def check(candidate):
  things = candidate(3)
  assert len(things) == 3
  assert all(map(lambda thing: thing.double == 6, things))
  for got, want in zip(map(len, things), [1, 2, 3]):
    assert got == want
""",
  'absorbs_everything': """
def check(candidate):
  for x in (2, 5):
    assert abs(candidate(x) - 2 * x) < 1e-6
    assert candidate(x) in (2 * x,) and candidate(x) > x
""",
  'class_attribute_lies': """
def check(candidate):
  for x in (2, 5):
    assert isinstance(candidate(x), int) and range(99)[candidate(x)] == 2 * x
""",
  'returns_true': """
def check(candidate):
  for x in (2, 5):
    assert candidate(x) == 2 * x, candidate(x)
""",
}

# Harmless to run without a sandbox, in a process and a folder of their own.
HARMLESS = tuple(
  name
  for name in PROGRAMS
  if not name.startswith(
    (
      'kills_',
      'stops_',
      'sigterm_',
      'exec_',
      'fork_',
      'writes_to_all',
      'descriptors_',
      'fake_replies',
      'nonce_',
      'reads_',
      'ctypes_',
    )
  )
)
