"""Which mode a test takes, and what value mode says of results."""

import concurrent.futures
import itertools

import pytest

from dllm_jax.tasks.sandbox import expression, plans


def _holds(test, *results, entry=''):
  plan = plans.plan(test, entry)
  assert isinstance(plan, plans.Values), plan
  return [expression.holds(a, results) for a in plan.assertions]


def test_calls_and_expected_answers_part():
  plan = plans.plan('assert f([1, 2], k=(3,)) == {4: "five"}\nassert g()', '')
  assert plan.calls == (('f', ([1, 2],), {'k': (3,)}), ('g', (), {}))
  assert 'five' not in repr(plan.calls)


def test_check_calls_the_entry_point():
  plan = plans.plan(
    'METADATA = {"a": 1}\n\ndef check(candidate):\n  """Words."""\n'
    '  assert True, "says nothing"\n  assert candidate(2) == 4, "2"\n',
    'square',
  )
  assert plan.calls == (('square', (2,), {}),) and len(plan.assertions) == 1


@pytest.mark.parametrize(
  'assertion, result, held',
  [
    ('f() == 3', 3, True),
    ('f() == 3', 3.0, True),  # as in Python
    ('f() == 1', True, True),
    ('f() == 3', '3', False),
    ('f() == (1, 2)', [1, 2], False),
    ('f() == [1, (2, 3)]', [1, (2, 3)], True),
    ('f() == [1, (2, 3)]', [1, [2, 3]], False),
    ('f() == {1, 2}', frozenset({1, 2}), True),
    ('f() == {"a": 1}', {'a': 1}, True),
    ('f() == float("nan")', float('nan'), False),
    ('f() == 0.3', 0.1 + 0.2, False),  # no tolerance but the test's own
    ('abs(f() - 0.3) < 1e-9', 0.1 + 0.2, True),
    ('abs(f() - 0.3) < 1e-9', 'x', False),
    ('math.isclose(f(), 2.5, rel_tol=0.01)', 2.51, True),
    ('math.isclose(f(), 2.5, rel_tol=0.001)', 2.51, False),
    ('round(f(), 2) == 0.33', 1 / 3, True),
    ('f() is None', None, True),
    ('f() is None', 0, False),
    ('f() is True', 1, False),
    ('not f()', [], True),
    ('f()', 'x', True),
    ('f()', 0, False),
    ('f() != 3', 4, True),
    ('1 < f() <= 3', 3, True),
    ('f() in (1, 2)', 2, True),
    ('2 in f()', [2], True),
    ('2 in f()', 2, False),  # raises, so it does not hold
    ('set(f()) == {1, 2}', [2, 1, 2], True),
    ('sorted(f()) == [1, "a"]', [1, 'a'], False),
    ('f() == -2 ** 10', -1024, True),
    ('f() == "ab" * 2', 'abab', True),
    ('f() == [0] * 3 + [1]', [0, 0, 0, 1], True),
    ('f()[1] == 5', (4, 5), True),
    ('f()["a"] == 5', {'a': 5}, True),
    ('isinstance(f(), int) and f() == 5', 5, True),
    ('f() == 5 or f() == 6', 6, True),
    ('f() * 1000 == 3', 'x' * 100_000, False),  # too long to be tried
    ('f() ** 2 == 3', 1 << 100_000, False),
    ('len(f()) == 2', 'ab', True),
    ('set(f()) == {1}', [1] * 100_000, False),
    ('set(f()) == {1}', iter([1] * 100_000), False),
    ('set(f()) == {1}', iter([1] * 9), True),
    ('len(set(f())) == 99', [k * (2**61 - 1) for k in range(99)], False),
    ('len(dict(f())) == 99', [(k * (2**61 - 1), 1) for k in range(99)], False),
    ('dict(f()) == {1: 2}', [[1, 2]], True),
    ('dict(f()) == {1: 2}', {1: 2}, True),
    ('dict(f()) == {1: 2}', [range(50_000)], False),
    ('sum(f(), []) == [1, 2]', [[1], [2]], True),
    ('sum(f()) == 3', iter([1, 2]), True),
    ('len(sum(f(), [])) == 20_000', [[1] * 20_000], False),
  ],
  ids=itertools.count(),
)
def test_an_assertion_holds_as_in_python(assertion, result, held):
  found = _holds(f'assert {assertion}', result, result)
  assert found == [held]


def test_two_calls_in_one_assertion():
  test = 'assert f(1) == f(2)\nassert f(3) == 5'
  assert _holds(test, 7, 7, 5) == [True, True]
  assert _holds(test, 7, 8, 6) == [False, False]


def test_a_built_in_name_may_be_the_problem():
  plan = plans.plan('assert sum(10, 15) == 6\nassert sum(1, 2) == 1', '')
  assert plan.calls == (('sum', (10, 15), {}), ('sum', (1, 2), {}))


@pytest.mark.parametrize(
  'test, names',
  [
    ('assert f(g(1)) == 2', ('f', 'g')),
    ('x = [1]\nassert f(x) == x', ('f',)),
    ('for i in range(3):\n  assert f(i) == i', ('f',)),
    ('assert f(lambda: 0)', ('f',)),
    ('assert f(1 / 0)', ('f',)),
    ('assert f(*[1])', ('f',)),
    ('assert f(1) is f(2)', ('f',)),
    ('assert f(x=2)[1:] == "b"', ('f',)),
    ('assert P(1).x == 1', ('P',)),
    ('assert f(9 ** 9 ** 9)', ('f',)),
    ('assert f(1) == round(5, -3 * 10**6)', ('f',)),
    ('assert f(round(5, -3 * 10**6)) == 1', ('f',)),
    ('assert f(1) == [[[0] * 900] * 900] * 900', ('f',)),
    ('assert f(1) == 1 and [[0] * 3000] * 3000', ('f',)),
    (f'assert f(1) == [{"[0] * 4096, " * 99}]', ('f',)),
    ('assert f(1) == [[0] * 4] * 4', None),
    ('assert f(1) == 5 or 1 / 0', None),
    ('assert f(int)', None),
    ('from solution import f\ndef test_f():\n  assert f(1) == 2', ()),
    ('def test_f():\n  y = f(1)\n  assert y == 2 and len(y)', ('f',)),
    ('assert f(2) == sys.getsizeof(2)', ('f',)),
  ],
)
def test_what_needs_the_test_to_run(test, names):
  plan = plans.plan(test, '')
  if names is None:
    assert isinstance(plan, plans.Values)
  else:
    assert isinstance(plan, plans.Examination) and plan.names == names


def test_modules_without_an_import_are_not_the_programs():
  plan = plans.plan('assert f(2) == sys.getsizeof(2)', '')
  assert plan.modules == ('sys',)
  # A function of a module's name is the program's.
  assert plans.plan('assert copy([1]) == [1]', '').calls[0].name == 'copy'


@pytest.mark.parametrize(
  'test',
  [
    'assert f( ==',
    'a\x00b',
    '(' * 5000,
    '-' * 100_000 + '1',
    'x' * 2**18,
    '\ud800',
  ],
  ids=itertools.count(),
)
def test_what_is_not_a_test(test):
  with pytest.raises(plans.Unsupported):
    plans.plan(test, '')


def test_threads_plan_at_the_same_time():
  """ast.parse of Python 3.11 does not like it."""
  tests = [f'assert f({[[n] * 3] * 30}) == {n}' for n in range(30)]
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    found = list(threads.map(lambda test: plans.plan(test, ''), tests))
  assert [len(plan.calls) for plan in found] == [1] * 30
