"""Programs whose results are values of the standard library."""

import pytest

from dllm_jax.tasks import coding

IMPORTS = """
import array, collections, datetime, decimal, fractions, ipaddress, re, types
import pathlib, uuid
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque
from collections import namedtuple
from datetime import date, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
"""
APPROX = 'from pytest import approx\n'
POINT = 'P = namedtuple("P", "x y")\n'

# A right program, a wrong one, assertions.
CASES = [
  ('date(2020, 1, x)', 'date(2020, 2, x)', 'f(3) == date(2020, 1, 3)'),
  ('date(2020, 1, x)', 'date(2021, 1, x)', 'f(3).year == 2020'),
  ('date(2020, 1, x)', '"2020-01-0%d" % (x + 1)', 'str(f(3)) == "2020-01-03"'),
  ('date(2020, 1, x)', '(2020, 1, x)', 'isinstance(f(3), date)'),
  ('date(2020, 1, x)', 'date(2020, 1, 1)', 'f(3) > date(2020, 1, 2)'),
  (
    'datetime.datetime(2020, 1, x, 4)',
    'datetime.datetime(2020, 1, x, 5)',
    'f(3) == datetime.datetime(2020, 1, 3, 4)',
  ),
  (
    'datetime.datetime(2020, 1, x, tzinfo=timezone.utc)',
    'datetime.datetime(2020, 1, x)',
    'f(3) == datetime.datetime(2020, 1, 3, tzinfo=timezone.utc)',
  ),
  ('time(x, 30)', 'time(x, 31)', 'f(3) == time(3, 30)'),
  ('timedelta(hours=x)', 'timedelta(x)', 'f(3) == timedelta(hours=3)'),
  ('timedelta(hours=x)', 'x', 'f(3).total_seconds() == 10800'),
  ('Decimal(x) / 4', 'Decimal(x) / 5', 'f(3) == Decimal("0.75")'),
  ('Decimal(x)', 'Decimal(-x)', 'f(3) == 3'),
  ('Decimal("1.10") * x', 'Decimal("1.1") * x', 'str(f(3)) == "3.30"'),
  ('Fraction(x, 6)', 'Fraction(x, 7)', 'f(3) == Fraction(1, 2)'),
  ('Fraction(x, 6)', 'Fraction(x, 7)', 'f(3) == 0.5'),
  ('Fraction(x, 6)', 'Fraction(x, 7)', 'abs(f(3) - 0.5) < 1e-6'),
  ('Fraction(x, 6)', 'Fraction(x, 7)', 'f(3).denominator == 2'),
  ('Fraction(1, x)', 'Fraction(1, 2)', 'f(3) == approx(0.3333333)'),
  ('deque([x])', 'deque([x, x])', 'f(3) == deque([3])'),
  ('deque([x])', '[x]', 'f(3) == deque([3])'),
  ('deque([1, x])', 'deque([x])', 'f(3).popleft() == 1'),
  ('deque([1, x], 2)', 'deque([1, x])', 'f(3).maxlen == 2'),
  ('Path("a") / str(x)', 'Path(str(x))', 'f(3) == Path("a/3")'),
  ('Path("a") / str(x)', 'Path("a")', 'f(3).name == "3"'),
  ('Path("a.txt")', 'Path("a")', 'f(3).suffix == ".txt"'),
  ('P(x, 1)', 'P(1, x)', 'f(3).x == 3'),
  ('P(x, 1)', 'P(1, x)', 'f(3) == (3, 1)'),
  ('P(x, 1)', '(1, x)', 'f(3)._asdict() == {"x": 3, "y": 1}'),
  ('P(x, 1)', 'P(x, 2)', 'str(f(3)) == "P(x=3, y=1)"'),
  ('[P(x, 1)]', '[P(x, 2)]', 'f(3)[0].y == 1'),
  ('Counter("a" * x)', 'Counter("a")', 'f(3) == {"a": 3}'),
  ('Counter("a" * x)', 'Counter("a")', 'f(3) == Counter("aaa")'),
  (
    'Counter("b" + "a" * x)',
    'Counter("b")',
    'f(3).most_common(1) == [("a", 3)]',
  ),
  ('Counter("a" * x)', '{"a": 3}', 'f(3)["nothing"] == 0'),
  ('Counter("a" * x)', 'Counter("a")', 'sum(f(3).values()) == 3'),
  ('OrderedDict(b=x, a=1)', 'OrderedDict(a=1)', 'f(3) == {"a": 1, "b": 3}'),
  (
    'OrderedDict([("b", x), ("a", 1)])',
    'OrderedDict([("a", 1), ("b", x)])',
    'f(3) == OrderedDict([("b", 3), ("a", 1)])',
  ),
  ('defaultdict(int, a=x)', '{"a": x}', 'f(3)["b"] == 0'),
  ('defaultdict(list, a=[x])', 'defaultdict(list)', 'f(3) == {"a": [3]}'),
  ('defaultdict(lambda: 1, a=x)', 'defaultdict(int)', 'f(3) == {"a": 3}'),
  ('{x: 1}.keys()', '{1: 1}.keys()', 'f(3) == {3: 1}.keys()'),
  ('{x: 1}.keys()', '{}.keys()', 'len(f(3)) == 1'),
  ('{x: 1}.items()', '{x: 2}.items()', 'list(f(3)) == [(3, 1)]'),
  ('{x: 1}.values()', '{x: 2}.values()', 'sorted(f(3)) == [1]'),
  ('uuid.UUID(int=x)', 'uuid.UUID(int=0)', 'f(3) == uuid.UUID(int=3)'),
  ('{"d": [date(1, 1, x)]}', '{"d": []}', 'f(3) == {"d": [date(1, 1, 3)]}'),
  ('{date(1, 1, x): 1}', '{}', 'f(3)[date(1, 1, 3)] == 1'),
  ('(Decimal(x), Fraction(x))', '(x,)', 'f(3) == (Decimal(3), Fraction(3))'),
]


def _tests(assertion):
  test = f'{IMPORTS}{APPROX}{POINT}def test_it():\n  assert {assertion}\n'
  check = f'{IMPORTS}{APPROX}{POINT}def check(f):\n  assert {assertion}\n'
  return ((test, ''), (check, 'f'))


def _program(result):
  return f'{IMPORTS}{POINT}def f(x):\n  return {result}\n'


def test_results_of_the_library_are_judged(pool):
  asked, expected = [], []
  for right, wrong, assertion in CASES:
    for test, entry in _tests(assertion):
      for result, passed in ((right, True), (wrong, False)):
        asked.append(coding.Submission(_program(result), test, entry))
        expected.append(passed)
  verdicts = pool.judge(asked)
  other = [
    (a.code.splitlines()[-1], a.test.splitlines()[-1], v.reason)
    for a, v, e in zip(asked, verdicts, expected, strict=True)
    if v.passed is not e
  ]
  assert not other


@pytest.mark.parametrize(
  ('right', 'assertion'),
  [
    ('ChainMap({x: 1})', 'f(3) == ChainMap({3: 1})'),
    ('collections.UserList([x])', 'f(3) == collections.UserList([3])'),
    ('collections.UserDict({x: 1})', 'f(3) == collections.UserDict({3: 1})'),
    ('re.compile("a")', 'f(3) == re.compile("a")'),
    (
      'array.array("i", [x])',
      'f(3) == array.array("i", [3])',
    ),
    (
      'types.SimpleNamespace(a=x)',
      'f(3) == types.SimpleNamespace(a=3)',
    ),
    (
      'ipaddress.ip_address(x)',
      'f(3) == ipaddress.ip_address(3)',
    ),
  ],
)
def test_what_cannot_cross_is_unsupported_and_not_wrong(pool, right, assertion):
  asked = [
    coding.Submission(_program(right), test, entry)
    for test, entry in _tests(assertion)
  ]
  for verdict in pool.judge(asked):
    assert verdict.passed is None and verdict.reason.startswith('unsupported')
  # A plain value is still wrong.
  asked = [a._replace(code=_program('x')) for a in asked]
  assert [v.passed for v in pool.judge(asked)] == [False, False]


@pytest.mark.parametrize(
  ('argument', 'body', 'assertion'),
  [
    ('deque([1])', 'x.append(2)', 'a == deque([1, 2])'),
    ('Counter("a")', 'x["a"] += 1', 'a == Counter("aa")'),
    ('defaultdict(int)', 'x["a"] += 1', 'a == {"a": 1}'),
    ('OrderedDict(a=1)', 'x["b"] = 2', 'list(a) == ["a", "b"]'),
  ],
)
def test_arguments_of_the_library_are_changed_in_place(
  pool, argument, body, assertion
):
  test = (
    f'{IMPORTS}def test_it():\n  a = {argument}\n  f(a)\n  assert {assertion}'
  )
  good = f'def f(x):\n  {body}\n'
  asked = [
    coding.Submission(code, test, '') for code in (good, 'def f(x): pass')
  ]
  assert [v.passed for v in pool.judge(asked)] == [True, False]


@pytest.mark.parametrize(
  ('argument', 'result', 'assertion'),
  [
    ('date(2020, 1, 31)', 'x.month', '== 1'),
    ('Decimal("1.5")', 'x * 2', '== Decimal("3.0")'),
    ('Fraction(1, 3)', 'x + 1', '== Fraction(4, 3)'),
    ('Path("a/b.txt")', 'x.stem', '== "b"'),
    ('[timedelta(1), timedelta(2)]', 'max(x)', '== timedelta(2)'),
    ('P(1, 2)', 'x.x + x.y', '== 3'),
  ],
)
def test_arguments_of_the_library_arrive(pool, argument, result, assertion):
  (test, _), _ = _tests(f'f({argument}) {assertion}')
  asked = [
    coding.Submission(f'def f(x):\n  return {answer}\n', test, '')
    for answer in (result, 'None')
  ]
  assert [v.passed for v in pool.judge(asked)] == [True, False]


LIARS = """
class L(date):
  def __eq__(self, other): return True
  def __ne__(self, other): return False
  __hash__ = date.__hash__
class D(Decimal):
  def __eq__(self, other): return True
  __hash__ = Decimal.__hash__
class T(namedtuple('T', 'x y')):
  def __eq__(self, other): return True
  __hash__ = None
class C(Counter):
  def __eq__(self, other): return True
class Q(deque):
  def __eq__(self, other): return True
class A:
  def __getattr__(self, name): return A()
  def __eq__(self, other): return True
"""


@pytest.mark.parametrize(
  'result',
  ['L(1, 1, 1)', 'D(1)', 'T(1, 1)', 'C("ab")', 'Q([1])', 'A()', '[L(1, 1, 1)]'],
)
@pytest.mark.parametrize(
  'expected',
  ['date(2020, 1, 3)', 'Decimal(3)', '(3, 1)', 'Counter("a")', 'deque([3])'],
)
def test_a_subclass_that_equals_everything_equals_nothing(
  pool, result, expected
):
  code = f'{IMPORTS}{LIARS}def f(x):\n  return {result}\n'
  asked = [
    coding.Submission(code, test, entry)
    for test, entry in _tests(f'f(3) == {expected}')
  ]
  assert [v.passed for v in pool.judge(asked)] == [False, False]


def test_a_patched_library_forges_nothing(pool):
  code = IMPORTS + (
    'Fraction.__eq__ = lambda *a: True\n'
    'Fraction.numerator = property(lambda s: {"t": 1})\n'
    'Counter.__eq__ = lambda *a: True\n'
    'def f(x): return [Fraction(1, 9), Counter("b")][x]\n'
  )
  for number, expected in enumerate(('Fraction(1, 2)', 'Counter("a")')):
    asked = [
      coding.Submission(code, test, entry)
      for test, entry in _tests(f'f({number}) == {expected}')
    ]
    assert [v.passed for v in pool.judge(asked)] == [False, False]
