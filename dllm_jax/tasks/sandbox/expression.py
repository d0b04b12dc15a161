"""Assertions over the results of calls, evaluated without running them.

`assert f([1, 2]) == 3` becomes the call f([1, 2]) and the expression `_ == 3`.
The call happens in the sandbox; its result comes back as a plain value, and the
rest is evaluated here, by the rules of Python: 3 == 3.0 == True holds, as in
the test, and (1, 2) == [1, 2] does not. Both operands are of built-in types, so
there is no `__eq__` of the program's to be asked.

Covered: literals and displays, arithmetic, comparisons, `and`, `or`, `not`,
indices, conditional expressions, and calls of the functions in `_FUNCTIONS`.
Tolerance is what the test writes: `abs(f(x) - 2.5) < 1e-6`, `math.isclose`,
`round`.
"""

import ast
import builtins
import datetime
import decimal
import fractions
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from dllm_jax.tasks.sandbox import plain

MAX_BITS = 4096  # of an int in arithmetic
MAX_LENGTH = 4096  # of what is hashed, sorted or multiplied
MAX_PRODUCTS = 64  # in one assertion: each may make so long a list


class NotCovered(Exception):
  """An expression beyond this module."""


class Call(NamedTuple):
  """One call of a function of the program, with plain arguments."""

  name: str
  args: tuple
  kwargs: dict[str, Any]


class Assertion(NamedTuple):
  """An expression whose holes are calls.

  Attributes:
    tree: of the expression; the nodes of the calls are keys of `holes`.
    holes: node of a call: its position among the calls of the test.
  """

  tree: ast.expr
  holes: dict[ast.expr, int]


_OPERATORS = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
  ast.FloorDiv: operator.floordiv,
  ast.Mod: operator.mod,
  ast.Pow: operator.pow,
  ast.BitOr: operator.or_,
  ast.BitAnd: operator.and_,
  ast.BitXor: operator.xor,
  ast.USub: operator.neg,
  ast.UAdd: operator.pos,
  ast.Invert: operator.invert,
  ast.Not: operator.not_,
  ast.Eq: operator.eq,
  ast.NotEq: operator.ne,
  ast.Lt: operator.lt,
  ast.LtE: operator.le,
  ast.Gt: operator.gt,
  ast.GtE: operator.ge,
  ast.In: lambda a, b: a in b,
  ast.NotIn: lambda a, b: a not in b,
  ast.Is: lambda a, b: a is b,
  ast.IsNot: lambda a, b: a is not b,
}
_FUNCTIONS = {
  name: getattr(builtins, name)
  for name in (
    'abs all any bool complex dict float frozenset isinstance len list max min '
    'round set sorted sum tuple'
  ).split()
} | {
  'math.' + name: getattr(math, name)
  for name in ('isclose', 'fabs', 'floor', 'ceil', 'isnan', 'isinf', 'sqrt')
}
_NAMES = {
  **{kind.__name__: kind for kind in (int, float, str, bool, list, tuple)},
  **{kind.__name__: kind for kind in (dict, set)},
  **{'math.' + name: getattr(math, name) for name in ('inf', 'nan', 'pi', 'e')},
}


def split(
  tree: ast.expr, program_names: frozenset[str], first: int
) -> tuple[Assertion, list[Call]]:
  """Cuts the calls of the program's functions out of an expression.

  Args:
    tree: of the assertion.
    program_names: whose calls are the program's.
    first: position of its first call among the calls of the test.

  Raises:
    NotCovered: an argument is not plain, or a part is not covered.
  """
  holes: dict[ast.expr, int] = {}
  calls: list[Call] = []

  def walk(node) -> bool:
    """Whether a call of the program is in it."""
    if isinstance(node, ast.Call) and _dotted(node.func) in program_names:
      holes[node] = first + len(calls)
      calls.append(_call(node))
      return True
    _check(node)
    parts = _parts(node)
    found = [walk(part) for part in parts]
    if any(found):
      for part, has_call in zip(parts, found, strict=True):
        if not has_call:
          _try(part)
    return any(found)

  if sum(isinstance(node, ast.Mult) for node in ast.walk(tree)) > MAX_PRODUCTS:
    raise NotCovered('many products')
  walk(tree)
  return Assertion(tree, holes), calls


def _try(node: ast.expr) -> None:
  """Raises NotCovered for constants of a test that are too large.

  Other errors are the test's own, and come where it is evaluated, if it is.
  """
  try:
    evaluate(node, {}, [])
  except (NotCovered, RecursionError):
    raise
  except plain.NotPlain as error:
    raise NotCovered(str(error)) from None
  except Exception:
    return


def _call(node: ast.Call) -> Call:
  if any(keyword.arg is None for keyword in node.keywords):
    raise NotCovered('**')
  try:
    return Call(
      _dotted(node.func),
      tuple(evaluate(argument, {}, []) for argument in node.args),
      {k.arg: evaluate(k.value, {}, []) for k in node.keywords},
    )
  except NotCovered:
    raise
  except Exception as error:  # such as 1 / 0: the test does as it likes
    raise NotCovered(type(error).__name__) from None


def holds(assertion: Assertion, results: Sequence[Any]) -> bool:
  """Whether the expression is true of the calls' results, hostile ones.

  An expression that raises is not.
  """
  try:
    return bool(evaluate(assertion.tree, assertion.holes, results))
  except Exception:
    return False


def evaluate(
  node: ast.expr, holes: dict[ast.expr, int], results: Sequence[Any]
) -> Any:
  """The value of an expression, in time and size that are bounded."""

  def value(child):
    return evaluate(child, holes, results)

  if node in holes:
    return results[holes[node]]
  _check(node)
  match node:
    case ast.Constant():
      return node.value
    case ast.List() | ast.Tuple() | ast.Set():
      kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
      return kind([value(item) for item in node.elts])
    case ast.Dict():
      return {
        value(k): value(v) for k, v in zip(node.keys, node.values, strict=True)
      }
    case ast.Name() | ast.Attribute():
      return _NAMES[_dotted(node)]
    case ast.UnaryOp():
      return _OPERATORS[type(node.op)](value(node.operand))
    case ast.BinOp():
      return _arithmetic(type(node.op), value(node.left), value(node.right))
    case ast.BoolOp():
      for child in node.values:
        found = value(child)
        if bool(found) is isinstance(node.op, ast.Or):
          break
      return found
    case ast.Compare():
      left = value(node.left)
      for kind, child in zip(node.ops, node.comparators, strict=True):
        right = value(child)
        found = _OPERATORS[type(kind)](left, right)
        if not found:
          break
        left = right
      return found
    case ast.IfExp():
      return value(node.body if value(node.test) else node.orelse)
    case ast.Subscript():
      return value(node.value)[value(node.slice)]
    case ast.Call():
      return _apply(
        _dotted(node.func),
        [value(argument) for argument in node.args],
        {k.arg: value(k.value) for k in node.keywords},
      )
  raise NotCovered(type(node).__name__)


def _arithmetic(kind: type[ast.operator], left: Any, right: Any) -> Any:
  numbers = (bool, int, float, complex)
  exact = (*numbers, fractions.Fraction, decimal.Decimal, datetime.timedelta)
  for part in (left, right):
    if type(part) is int and part.bit_length() > MAX_BITS:
      raise NotCovered('a large number')
    if hasattr(part, '__len__') and len(part) > MAX_LENGTH:
      raise NotCovered('a long value')
  if kind is ast.Mod and type(left) not in numbers:
    raise NotCovered('a format')
  if kind is ast.Pow and not {type(left), type(right)} <= set(numbers):
    raise NotCovered('a power')
  if kind is ast.Pow and type(left) is int and type(right) is int:
    if left.bit_length() * abs(right) > MAX_BITS:
      raise NotCovered('a large power')
  if kind is ast.Mult and not {type(left), type(right)} <= set(exact):
    times, sequence = sorted((left, right), key=lambda v: type(v) is not int)
    if type(times) is not int or times * _weight(sequence) > MAX_LENGTH:
      raise NotCovered('a long value')
  return _OPERATORS[kind](left, right)


def _apply(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
  for argument in (*args, *kwargs.values()):
    if _length(argument) > MAX_LENGTH:
      raise NotCovered('a long value')
    if type(argument) is int and argument.bit_length() > MAX_BITS:
      raise NotCovered('a large number')
  if name == 'round':
    for digits in (*args[1:], *kwargs.values()):
      if type(digits) is int and abs(digits) > MAX_LENGTH:
        raise NotCovered('many digits')
  if name in ('dict', 'frozenset', 'set', 'sum') and args:
    args = [_items(name, args[0]), *args[1:]]
  return _FUNCTIONS[name](*args, **kwargs)


def _weight(value: Any) -> int:
  """How many values it holds, at all depths: `[[0] * n] * n` holds n * n."""
  if type(value) not in (list, tuple):
    return max(1, _length(value))
  total = len(value)
  for item in value:
    if total > MAX_LENGTH:
      break
    if type(item) in (list, tuple, str, bytes, dict, set, frozenset):
      total += _weight(item)
  return total


def _length(value: Any) -> int:
  """Of what has one; iterators, which `plain` made of lists, have too."""
  return operator.length_hint(value, 0)


def _items(name: str, values: Any) -> Any:
  """What `set`, `dict` or `sum` is given, if it is soon done with it."""
  if type(values) in (dict, set, frozenset, str, bytes):
    return values
  items = list(values)
  if name in ('dict', 'sum') and sum(map(_length, items)) > 2 * MAX_LENGTH:
    raise NotCovered('long values')
  if name == 'dict':
    items = [tuple(item) for item in items]
    plain.check_hashes(item[0] for item in items)
  elif name != 'sum':
    plain.check_hashes(items)
  return items


def _dotted(node: ast.expr) -> str:
  """'f' or 'math.f'; '' for anything else."""
  match node:
    case ast.Name():
      return node.id
    case ast.Attribute(value=ast.Name()):
      return f'{node.value.id}.{node.attr}'
  return ''


def _check(node: ast.AST) -> None:
  """Raises NotCovered for a kind of node that `evaluate` does not know."""
  match node:
    case ast.Constant():
      good = node.value is not Ellipsis
    case ast.Name() | ast.Attribute():
      good = _dotted(node) in _NAMES
    case ast.UnaryOp() | ast.BinOp():
      good = type(node.op) in _OPERATORS
    case ast.Compare():
      good = all(map(_comparable, node.ops, node.comparators))
    case ast.Dict():
      good = None not in node.keys
    case ast.Call():
      good = _dotted(node.func) in _FUNCTIONS
      good = good and None not in [keyword.arg for keyword in node.keywords]
    case (
      ast.List()
      | ast.Tuple()
      | ast.Set()
      | ast.BoolOp()
      | ast.IfExp()
      | ast.Subscript()
    ):
      good = True
    case _:
      good = False
  if not good:
    raise NotCovered(type(node).__name__)


def _comparable(kind: ast.cmpop, right: ast.expr) -> bool:
  """`is` compares with None, True and False alone: others have no identity."""
  if not isinstance(kind, (ast.Is, ast.IsNot)):
    return type(kind) in _OPERATORS
  return isinstance(right, ast.Constant) and type(right.value) in (
    bool,
    type(None),
  )


def _parts(node: ast.expr) -> list[ast.expr]:
  """The sub-expressions of a node, without the name of what it calls."""
  if isinstance(node, ast.Call):
    return [*node.args, *(keyword.value for keyword in node.keywords)]
  return [c for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr)]
