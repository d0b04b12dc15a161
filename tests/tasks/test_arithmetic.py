from fractions import Fraction

import hypothesis
import pytest
from hypothesis import strategies as st

from dllm_jax.tasks import arithmetic

OPERATORS = {
  '+': Fraction.__add__,
  '-': Fraction.__sub__,
  '*': Fraction.__mul__,
  '/': Fraction.__truediv__,
}

trees = st.recursive(
  st.integers(0, 99),
  lambda kids: st.tuples(kids, st.sampled_from('+-*/'), kids),
  max_leaves=8,
)


def _value(tree):
  if isinstance(tree, int):
    return Fraction(tree)
  left, operator, right = tree
  return OPERATORS[operator](_value(left), _value(right))


def _text(tree):
  if isinstance(tree, int):
    return str(tree)
  return f'({_text(tree[0])} {tree[1]}{_text(tree[2])})'


def _join(tree):
  if isinstance(tree, int):
    return arithmetic.atom(tree)
  return arithmetic.join(_join(tree[0]), tree[1], _join(tree[2]))


@hypothesis.given(trees)
def test_evaluate_equals_fractions(tree):
  try:
    expected = _value(tree)
  except ZeroDivisionError:
    with pytest.raises(arithmetic.ExpressionError, match='zero'):
      arithmetic.evaluate(_text(tree))
    return
  assert arithmetic.evaluate(_text(tree)).value == expected
  # The same with the fewest parentheses.
  joined = _join(tree)
  assert joined.value == expected
  assert arithmetic.evaluate(joined.text).value == expected


@hypothesis.given(st.text(alphabet='0123456789+-*/() \n.²٣', max_size=80))
def test_any_text_gives_a_value_or_the_error(text):
  try:
    arithmetic.evaluate(text)
  except arithmetic.ExpressionError:
    pass


def test_steps_in_order():
  result = arithmetic.evaluate('12 + 5 - 3 * (6 - 4)')
  assert result.value == 11
  assert result.numbers == (12, 5, 3, 6, 4)
  assert [(*map(str, step),) for step in result.steps] == [
    ('12', '+', '5', '17'),
    ('6', '-', '4', '2'),
    ('3', '*', '2', '6'),
    ('17', '-', '6', '11'),
  ]


def test_fractions_are_exact():
  assert arithmetic.evaluate('8/(3-8/3)').value == 24


def test_unary_minus_only_when_asked_for():
  with pytest.raises(arithmetic.ExpressionError, match='expected a number'):
    arithmetic.evaluate('-3+4')
  assert arithmetic.evaluate('-3+-(4)', unary=True).value == -7


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    ('1' * 257, '256 characters'),
    ('1+' * 40 + '1', '64 tokens'),
    ('(' * 17 + '1' + ')' * 17, 'deeper than 16'),
    ('1234567', '6 digits'),
    ('05', 'leading zero'),
    ('(3', 'not closed'),
    ('3)', "unexpected '\\)'"),
    ('', 'the end'),
  ],
)
def test_bounds_say_what_is_wrong(text, reason):
  with pytest.raises(arithmetic.ExpressionError, match=reason):
    arithmetic.evaluate(text)


def test_the_bounds_themselves_pass():
  assert arithmetic.evaluate('(' * 16 + '999999' + ')' * 16).value == 999999
  assert arithmetic.evaluate('1+' * 31 + '1').value == 32


def test_solutions_by_hand():
  assert arithmetic.solutions([3, 1, 2], 4, '+-') == (
    '2 + 3 - 1',
    '2 - 1 + 3',
    '3 + 2 - 1',
    '3 - 1 + 2',
  )
  assert arithmetic.solutions([2, 2], 4, '+-') == ('2 + 2',)
  assert arithmetic.solutions([2, 2], 4, '+*') == ('2 * 2', '2 + 2')
  assert arithmetic.solutions([3, 3, 8, 8], 24, '+-*/') == (
    '8 / ( 3 - 8 / 3 )',
  )
  assert arithmetic.solutions([1, 1], 5, '+-*/') == ()


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(
  st.lists(st.integers(1, 12), min_size=2, max_size=3),
  st.sampled_from(['+-', '+*', '+-*/']),
)
def test_solutions_are_distinct_sorted_and_right(numbers, operators):
  found = arithmetic.expressions(tuple(sorted(numbers)), operators)
  for target, texts in found.items():
    assert list(texts) == sorted(set(texts))
    for text in texts:
      result = arithmetic.evaluate(text)
      assert result.value == target
      assert sorted(result.numbers) == sorted(numbers)


@pytest.mark.parametrize('operators', ['', '++', '^', '+-x'])
def test_bad_operators(operators):
  with pytest.raises(ValueError, match='operators'):
    arithmetic.solutions([1, 2], 3, operators)
