"""Exact arithmetic on written expressions, and the search for solutions.

Expressions hold whole numbers, + - * / and parentheses, in ASCII. They are
read by recursive descent over fractions; nothing is ever evaluated by Python.
Length, tokens, digits and depth are bounded, so hostile text costs little.
"""

import functools
import itertools
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

MAX_CHARS = 256
MAX_TOKENS = 64
MAX_DEPTH = 16
MAX_DIGITS = 6

PRECEDENCE = {'+': 1, '-': 1, '*': 2, '/': 2}
_ATOM = 3
_TOKEN = re.compile(r'[ \t\r\n]*(?:([0-9]+)|([-+*/()]))')


class ExpressionError(ValueError):
  """The text is not an expression, or breaks a bound."""


class Step(NamedTuple):
  """One operation, `left operator right = value`."""

  left: Fraction
  operator: str
  right: Fraction
  value: Fraction


class Evaluation(NamedTuple):
  """What an expression says.

  Attributes:
    value: its exact value.
    numbers: the numbers it uses, in reading order.
    steps: its operations in order of evaluation.
  """

  value: Fraction
  numbers: tuple[int, ...]
  steps: tuple[Step, ...]


class Expression(NamedTuple):
  """A written expression, its value and its loosest operator's precedence."""

  value: Fraction
  text: str
  precedence: int


def evaluate(text: str, *, unary: bool = False) -> Evaluation:
  """Reads an expression.

  Args:
    text: the expression; ASCII white space is allowed between tokens.
    unary: whether a sign may stand before a number or a parenthesis.

  Raises:
    ExpressionError: with the reason.
  """
  reader = _Reader(_tokens(text), unary)
  value = reader.expression(1, 0)
  if reader.peek():
    raise ExpressionError(f'unexpected {reader.peek()!r}')
  return Evaluation(value, tuple(reader.numbers), tuple(reader.steps))


def _tokens(text: str) -> list[str]:
  if len(text) > MAX_CHARS:
    raise ExpressionError(f'more than {MAX_CHARS} characters')
  text = text.strip(' \t\r\n')
  tokens, position = [], 0
  while position < len(text):
    match = _TOKEN.match(text, position)
    if match is None:
      raise ExpressionError(f'not arithmetic at character {position}')
    number = match[1]
    if number and len(number) > MAX_DIGITS:
      raise ExpressionError(f'more than {MAX_DIGITS} digits')
    if number and len(number) > 1 and number[0] == '0':
      raise ExpressionError(f'leading zero in {number!r}')
    tokens.append(number or match[2])
    position = match.end()
  if len(tokens) > MAX_TOKENS:
    raise ExpressionError(f'more than {MAX_TOKENS} tokens')
  return tokens


class _Reader:
  """Precedence climbing over a list of tokens."""

  def __init__(self, tokens: list[str], unary: bool):
    self._tokens = tokens
    self._position = 0
    self._unary = unary
    self.numbers: list[int] = []
    self.steps: list[Step] = []

  def peek(self) -> str:
    if self._position < len(self._tokens):
      return self._tokens[self._position]
    return ''

  def _take(self) -> str:
    token = self.peek()
    self._position += 1
    return token

  def expression(self, lowest: int, depth: int) -> Fraction:
    left = self._operand(depth)
    while PRECEDENCE.get(self.peek(), 0) >= lowest:
      operator = self._take()
      right = self.expression(PRECEDENCE[operator] + 1, depth)
      value = apply(left, operator, right)
      if value is None:
        raise ExpressionError('division by zero')
      self.steps.append(Step(left, operator, right, value))
      left = value
    return left

  def _operand(self, depth: int) -> Fraction:
    if depth > MAX_DEPTH:
      raise ExpressionError(f'nested deeper than {MAX_DEPTH}')
    token = self._take()
    if token == '(':
      value = self.expression(1, depth + 1)
      if self._take() != ')':
        raise ExpressionError('a parenthesis is not closed')
      return value
    if token.isdigit():
      self.numbers.append(int(token))
      return Fraction(int(token))
    if self._unary and token in ('+', '-'):
      value = self._operand(depth + 1)
      return -value if token == '-' else value
    raise ExpressionError(f'expected a number, found {token or "the end"!r}')


def apply(left, operator: str, right):
  """`left operator right`, or None for a division by zero."""
  if operator == '+':
    return left + right
  if operator == '-':
    return left - right
  if operator == '*':
    return left * right
  return Fraction(left) / right if right else None


def check_operators(operators: str) -> None:
  """Raises a ValueError unless `operators` are distinct ones of '+-*/'."""
  known = all(operator in PRECEDENCE for operator in operators)
  if not operators or not known or len(set(operators)) < len(operators):
    raise ValueError(f"operators must be distinct ones of '+-*/': {operators}")


def needs_parentheses(operators: str) -> bool:
  """Whether expressions over `operators` may need parentheses."""
  return '*' in operators or '/' in operators


@functools.lru_cache(maxsize=64)
def expressions(
  numbers: tuple[int, ...], operators: str
) -> dict[int, tuple[str, ...]]:
  """All expressions that use each number once, by their whole value.

  With + and - alone they are chains whose first term is positive; otherwise
  trees with as few parentheses as they need. Spaces stand between tokens.

  Args:
    numbers: sorted.
    operators: distinct ones of '+-*/'.

  Returns:
    Sorted expressions by value; values that are not whole are left out.
  """
  by_value: dict[int, set[str]] = {}
  for order in sorted(set(itertools.permutations(numbers))):
    values = _trees if needs_parentheses(operators) else _chains
    for text, value in values(order, operators):
      if value == int(value):
        by_value.setdefault(int(value), set()).add(text)
  return {value: tuple(sorted(texts)) for value, texts in by_value.items()}


def solutions(
  numbers: Sequence[int], target: int, operators: str
) -> tuple[str, ...]:
  """All distinct expressions of `expressions` that give `target`, sorted.

  Time grows as n! Catalan(n) k^n: for four operators seconds at 5 numbers.
  """
  check_operators(operators)
  return expressions(tuple(sorted(numbers)), operators).get(target, ())


def _chains(order: tuple[int, ...], operators: str):
  for signs in itertools.product(operators, repeat=len(order) - 1):
    text, value = str(order[0]), order[0]
    for sign, number in zip(signs, order[1:], strict=True):
      text += f' {sign} {number}'
      value = value + number if sign == '+' else value - number
    yield text, value


def _trees(order: tuple[int, ...], operators: str):
  return ((part.text, part.value) for part in _subtrees(order, operators))


@functools.lru_cache(maxsize=4096)
def _subtrees(order: tuple[int, ...], operators: str):
  """Distinct expressions over `order`, kept in order."""
  if len(order) == 1:
    return (atom(order[0]),)
  distinct = {}
  for cut in range(1, len(order)):
    lefts = _subtrees(order[:cut], operators)
    rights = _subtrees(order[cut:], operators)
    for left, right in itertools.product(lefts, rights):
      for operator in operators:
        joined = join(left, operator, right)
        if joined is not None:
          distinct[joined.text] = joined
  return tuple(distinct.values())


def atom(number: int) -> Expression:
  """A number as an expression."""
  return Expression(Fraction(number), str(number), _ATOM)


def join(
  left: Expression, operator: str, right: Expression
) -> Expression | None:
  """`left operator right` with as few parentheses as it needs, or None.

  None stands for a division by zero. A right side of + or * that is of the
  same kind goes without parentheses: the value is the same.
  """
  value = apply(left.value, operator, right.value)
  if value is None:
    return None
  level = PRECEDENCE[operator]
  tight = level + (operator in '-/')
  text = f'{_wrap(left, level)} {operator} {_wrap(right, tight)}'
  return Expression(value, text, level)


def _wrap(part: Expression, lowest: int) -> str:
  return f'( {part.text} )' if part.precedence < lowest else part.text
