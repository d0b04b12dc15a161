"""What programs get, in each tier."""

import time

import pytest

from dllm_jax.tasks import coding, sandbox

VALUES = 'assert f(1) == 2\nassert f(5) == 6\n'
CHECK = (
  'def check(candidate):\n  for x in range(3): assert candidate(x) == x + 1'
)
GOOD = 'def f(x): return x + 1'


def _judge(pool, code, test, entry='f'):
  return pool.judge([coding.Submission(code, test, entry)])[0]


@pytest.mark.parametrize('test', [VALUES, CHECK])
def test_a_right_program_passes(pool, test):
  assert _judge(pool, GOOD, test) == (True, 1.0, '')


@pytest.mark.parametrize(
  'code, share, reason',
  [
    ('def f(x): return None', 0.0, 'wrong'),
    ('def f(x): return 2', 0.5, 'wrong'),
    ('def f(x): return 2 if x == 1 else 1 / 0', 0.5, 'error ZeroDivisionError'),
    ('def g(x): return x + 1', 0.0, 'error NameError'),
    ('def f(x): return object()', 0.0, 'not plain'),
    ('def f(x):\n  while x: pass', 0.0, 'timeout'),
    ('import os\ndef f(x): os._exit(0)', 0.0, 'exit'),
    ('def f(x): raise SystemExit', 0.0, 'error SystemExit'),
    ('def f(x: return', 0.0, 'load SyntaxError'),
    ('import numpy\ndef f(x): return 2', 0.0, 'load ModuleNotFoundError'),
    ('a\x00b', 0.0, 'load'),
    ('\ud800', 0.0, 'load'),
    ('(' * 5000, 0.0, 'load'),
    ('x' * 2**18, 0.0, 'too long'),
    ('import ctypes\ndef f(x): ctypes.string_at(0)', 0.0, 'crash'),
  ],
  ids=range(15),
)
def test_a_wrong_program_fails_with_a_reason(pool, code, share, reason):
  verdict = _judge(pool, code, VALUES)
  assert verdict[:2] == (False, share) and verdict.reason.startswith(reason)


def test_the_modes_agree_on_reasons(pool):
  for code, reason in (
    ('def f(x): return 1', 'wrong'),
    ('def f(x): raise KeyError(x)', 'error KeyError'),
    ('def f(x): raise ImportError(x)', 'error ImportError'),
    ('class E(Exception): pass\ndef f(x): raise E', 'error E'),
    ('import os\ndef f(x): os._exit(0)', 'exit'),
    ('def f(x: return', 'load SyntaxError'),
  ):
    verdicts = [_judge(pool, code, test) for test in (VALUES, CHECK)]
    assert [v.reason for v in verdicts] == [reason] * 2, code
    assert [v.passed for v in verdicts] == [False] * 2


@pytest.mark.parametrize(
  'body, entry',
  [
    ('while True: pass', VALUES),
    ('while True: pass', CHECK),
    ('all(__import__("itertools").repeat(True))', VALUES),
    ('9 ** 9 ** 9', VALUES),
    ('import re; re.match("(a+)+$", "a" * 40 + "b")', VALUES),
    (
      'while True:\n    try:\n      while True: pass\n'
      '    except BaseException: pass',
      VALUES,
    ),
  ],
  ids=range(6),
)
def test_a_hang_ends_at_the_cpu_limit(pool, body, entry):
  started = time.process_time()
  verdict = _judge(pool, f'def f(x):\n  {body}', entry)
  assert verdict == (False, 0.0, 'timeout')
  assert time.process_time() - started < 0.5  # nobody waits busily here
  assert _judge(pool, GOOD, entry).passed


def test_a_sleeper_ends_at_the_wall_limit(pool):
  verdict = _judge(pool, 'import time\ndef f(x): time.sleep(100)', VALUES)
  assert verdict == (False, 0.0, 'timeout')
  assert _judge(pool, GOOD, VALUES).passed


@pytest.mark.parametrize(
  'code, reason',
  [
    ('def f(x): return bytes(2**30)', 'error MemoryError'),
    ('def f(x): return "x" * 2**21', 'not plain'),
    ('def f(x):\n  y = []\n  y.append(y)\n  return y', 'not plain'),
    ('def f(x): return f(x)', 'error RecursionError'),
    (
      'import threading, time\ndef f(x):\n  for _ in range(1000):\n'
      '    threading.Thread(target=time.sleep, args=(9,)).start()',
      'error RuntimeError',
    ),
    ('import os\ndef f(x): os.write(3, b"garbage" * 100)', 'protocol'),
    (
      'import os\ndef f(x):\n  while True: os.write(3, b"\\0\\0\\0\\2[]")',
      'error Exception',
    ),
    ('import os\nfor d in range(64):\n  try: os.close(d)\n'
     '  except OSError: pass', 'exit'),
    (
      'class E(Exception):\n  def __str__(self): raise self\n'
      'def f(x): raise E',
      'error E',
    ),
    ('import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)', ''),
    ('import signal, os\nfor n in range(1, 30):\n'
     '  try: signal.signal(n, signal.SIG_IGN)\n  except OSError: pass\n'
     'while True: pass', 'timeout'),
  ],
  ids=range(11),
)  # fmt: skip
def test_excess_ends_and_the_next_program_is_right(pool, code, reason):
  verdict = _judge(pool, code, VALUES)
  assert verdict.passed is False and verdict.reason.startswith(reason), verdict
  assert _judge(pool, GOOD, VALUES).passed


def test_shares_of_test_functions(pool):
  test = (
    'import pytest\nfrom solution import f\n\n'
    'def test_one():\n  assert f(1) == 2\n\n'
    'def test_two():\n  with pytest.raises(ValueError):\n    f(-1)\n\n'
    '@pytest.mark.parametrize("x, y", [(3, 4), (4, 9)])\n'
    'def test_more(x, y):\n  assert f(x) == pytest.approx(y)\n'
  )
  code = GOOD + ' if x >= 0 else int("x")'
  assert _judge(pool, code, test, '') == (False, 0.75, 'wrong')
  assert _judge(pool, code, test.replace('9', '5'), '').passed


@pytest.mark.parametrize(
  'test',
  [
    'tests = [(1, 2), (5, 6)]\nfor x, y in tests:\n  assert f(x) == y',
    'if True:\n  y = f(1)\n  assert y == 2',
    'import pytest\nwith pytest.raises(TypeError):\n  f(None)\n'
    'for x in (1, 2):\n  assert f(x) == x + 1',
    'def run():\n  assert f(1) == 2\nrun()',
    'import unittest\nclass FTest(unittest.TestCase):\n'
    '  @classmethod\n  def setUpClass(cls): cls.y = 2\n'
    '  def test_f(self): self.assertEqual(f(1), self.y)\n'
    'if __name__ == "__main__": unittest.main()',
    'class Base:\n  def test_f(self): assert f(1) == 2\n'
    'class TestF(Base): pass',
  ],
  ids=range(6),
)
def test_what_asserts_is_a_test(pool, test):
  assert _judge(pool, GOOD, test, '') == (True, 1.0, '')
  for wrong in ('def f(x): return x + 3', 'import os\nos._exit(0)'):
    assert _judge(pool, wrong, test, '').passed is False


def test_what_is_not_run_is_no_test(pool):
  for test in (
    'if __name__ == "__main__":\n  assert f(1) == 2',
    'for x in []:\n  assert f(x) == 2',
    'f(1)',
  ):
    verdict = _judge(pool, 'def f(x): return 0', test, '')
    assert verdict.passed is None and 'tests nothing' in verdict.reason


def test_a_long_program_in_other_letters_fails(pool):
  code = 'def f(x): return 0  # ' + '\U0001f600' * 95_000
  for test in (VALUES, CHECK):
    assert _judge(pool, code, test) == (False, 0.0, 'too long')


def test_reasons_are_ascii(pool):
  name = 'é' * 40
  code = f'class {name}(Exception): pass\ndef f(x): raise {name}'
  for test in (VALUES, CHECK):
    assert _judge(pool, code, test) == (False, 0.0, 'error Exception')


def test_a_long_range_is_not_searched(pool):
  verdict = _judge(pool, 'def f(x): return range(10**12)', 'assert "a" in f(1)')
  assert verdict == (False, 0.0, 'not plain')


def test_arguments_are_changed_in_place(pool):
  test = (
    'def check(g):\n'
    '  a, b, c = [3, 1], {"x": 1}, {1}\n'
    '  assert g(a, b, c) is None\n'
    '  assert (a, b, c) == ([3, 1, 0], {}, {1, 2})\n'
  )
  code = 'def f(a, b, c):\n  a.append(0)\n  b.clear()\n  c.add(2)'
  assert _judge(pool, code, test).passed


def test_objects_of_the_program_stay_there(pool):
  code = (
    'class Stack:\n  def __init__(self, items): self.items = list(items)\n'
    '  def push(self, x): self.items.append(x)\n'
    '  def __len__(self): return len(self.items)\n'
    '  def __eq__(self, other): return True\n'
    'def top(stack): return stack.items[-1]'
  )
  test = (
    'def test_it():\n  s = Stack([1])\n  s.push(5)\n  s.limit = 3\n'
    '  assert len(s) == 2 and top(s) == 5 and s.items == [1, 5]\n'
    '  assert s.limit == 3 and s == s\n'
    'def test_equality_is_not_asked():\n'
    '  assert Stack([]) != 5 and Stack([]) != Stack([])\n'
    '  assert 5 not in [Stack([])]'
  )
  assert _judge(pool, code, test, '') == (True, 1.0, '')


def test_an_object_that_equals_everything_equals_nothing(pool):
  code = (
    'class E:\n  def __getattr__(self, name): return E()\n'
    '  def __call__(self, *a): return E()\n'
    '  def __eq__(self, other): return True\n'
    '  def __iter__(self): return iter([E()])\n'
    'def f(x): return E()'
  )
  for test in (VALUES, CHECK, 'y = f(1)\nassert y.z == 2'):
    assert not _judge(pool, code, test).passed
  # Nor may a judgement be avoided so.
  assert _judge(pool, code, 'y = f(1)\nassert y == f(2)').passed is False


@pytest.mark.parametrize(
  'test, why',
  [
    ('import numpy\nassert f(numpy.zeros(1)) == 1', 'needs numpy'),
    ('def g(x): return x\nassert f(g) == 1', 'passes a value of type function'),
    ('import pytest\n@pytest.fixture\ndef n(): return 2\n'
     'def test_f(n): assert f(n) == 3', 'needs pytest.fixture'),
    ('from collections import ChainMap\nassert f(ChainMap())', 'type ChainMap'),
    ('assert f(len) == 1', 'type builtin_function'),
    ('x = 1', 'tests nothing'),
    ('assert f( == 1', 'not Python'),
  ],
  ids=range(7),
)  # fmt: skip
def test_what_cannot_be_judged_is_not_a_failure(pool, test, why):
  verdict = _judge(pool, GOOD, test, '')
  assert verdict.passed is None and verdict.share != verdict.share
  assert verdict.reason.startswith('unsupported') and why in verdict.reason


def test_verdicts_come_in_order_and_repeat(pool):
  programs = [f'def f(x): return x + {n % 3}' for n in range(30)]
  batch = [coding.Submission(p, VALUES, '') for p in programs]
  expected = [n % 3 == 1 for n in range(30)]
  for _ in range(2):
    assert [v.passed for v in pool.judge(batch)] == expected


def test_a_program_sees_nothing_of_the_one_before(pool):
  spoil = (
    'import builtins, random, sys\nbuiltins.abs = lambda x: 0\n'
    'sys.modules["math"] = None\nrandom.seed(9)\n' + GOOD
  )
  clean = (
    'import math, random\n'
    'def f(x): return [abs(-3), math.sqrt(4), random.random()]'
  )
  with sandbox.Sandbox(pool.bounds, tier=pool.tier, workers=1) as single:
    test = 'assert f(0) == [3, 2.0, 0.8444218515250481]'
    for _ in range(2):
      assert _judge(single, spoil, VALUES).passed
      assert _judge(single, clean, test).passed


def test_sets_of_texts_have_one_order(pool):
  code = 'def f(x): return hash(x) % 1000'
  tests = [f'assert f("abc") // 100 == {n}' for n in range(10)]
  batch = [coding.Submission(code, test, '') for test in tests]
  found = []
  for _ in range(2):
    with sandbox.Sandbox(pool.bounds, tier=pool.tier, workers=1) as single:
      found.append([v.passed for v in single.judge(batch)])
  assert found[0] == found[1] and found[0].count(True) == 1


def test_files_are_private_bounded_and_gone(pool):
  code = (
    'import os\ndef f(size):\n'
    '  before = os.listdir("/tmp")\n'
    '  with open("/tmp/x", "wb") as file: file.write(bytes(size))\n'
    '  return before + [os.path.getsize("/tmp/x")]'
  )
  many = 'def f(n):\n  for k in range(n): open(f"/tmp/{k}", "w").close()'
  small = coding.Submission(code, 'assert f(1000) == [1000]', '')
  large = coding.Submission(code, 'assert f(2**25) == [2**25]', '')
  inodes = coding.Submission(many, 'assert f(5000) is None', '')
  for _ in range(2):
    verdicts = pool.judge([small, large, inodes])
    if pool.tier == 'namespaces':
      assert verdicts[0].passed
      assert [v.reason for v in verdicts[1:]] == ['error OSError'] * 2
    else:  # no folder that can be written
      assert {v.reason[:6] for v in verdicts} == {'error '}


@pytest.mark.parametrize(
  'test',
  [
    'async def test_a(): assert f(1) == 7',
    'def test_a():\n  assert f(1) == 7\n  yield',
    'async def check(f): assert f(1) == 7',
    'import unittest\nclass A(unittest.IsolatedAsyncioTestCase):\n'
    '  async def test_a(self): assert f(1) == 7',
  ],
)
def test_a_test_that_a_call_does_not_run_is_unsupported(pool, test):
  verdict = _judge(pool, GOOD, test)
  assert verdict.passed is None
  assert 'functions that a call does not run' in verdict.reason


def test_no_file_is_emptied_by_reading_it(pool):
  """Landlock before its version 3 lets O_RDONLY | O_TRUNC pass."""
  code = (
    'import os\ndef f(x):\n'
    '  with open("/dev/null", "w"), open("/dev/null"): pass\n'
    '  try: os.open("/dev/null", os.O_RDONLY | os.O_TRUNC)\n'
    '  except PermissionError: return x + 1'
  )
  assert _judge(pool, code, VALUES) == (True, 1.0, '')
