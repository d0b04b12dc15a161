"""How a test is judged: by values here, or by its own code in a sandbox.

Value mode is for tests that are assertions about calls with plain arguments.
The calls are made in the program's sandbox and the expected answers stay with
the trainer. Judge mode is for all others: the test runs in a second sandbox.
"""

import ast
import builtins
import contextlib
import functools
import symtable
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

from dllm_jax.tasks.sandbox import expression

MAX_TEST_CHARS = 2**17

_TRIES = 5  # another module may parse at the same time
_parsing = threading.Lock()
_BUILTINS = frozenset(dir(builtins))


class Unsupported(Exception):
  """A test that no mode can judge; the message says why."""


class Values(NamedTuple):
  """Assertions about calls.

  Attributes:
    calls: made in order, in one process.
    assertions: over the calls' results.
  """

  calls: tuple[expression.Call, ...]
  assertions: tuple[expression.Assertion, ...]


class Examination(NamedTuple):
  """A test to run.

  Attributes:
    test: its text.
    entry: what `check` is called with; '' for none.
    names: that it takes from the program.
    modules: that it uses without an import.
  """

  test: str
  entry: str
  names: tuple[str, ...]
  modules: tuple[str, ...]


@functools.lru_cache(1024)  # the rows of a group share their test
def plan(test: str, entry_point: str) -> Values | Examination:
  """The mode that a test takes.

  Raises:
    Unsupported: it is not Python, or too long.
  """
  if len(test) > MAX_TEST_CHARS:
    raise Unsupported(f'the test has more than {MAX_TEST_CHARS} characters')
  try:
    tree = _parsed(test)
    table = symtable.symtable(test, 'test.py', 'exec')
    free = _free_names(table)
    modules = free & _modules(tree)
    free -= modules
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    raise Unsupported(
      f'the test is not Python: {type(error).__name__}'
    ) from None
  try:
    return _values(tree, entry_point, free)
  except (expression.NotCovered, RecursionError):
    names = free or _called_builtins(tree)
    return Examination(
      test, entry_point, tuple(sorted(names)), tuple(sorted(modules))
    )


def _parsed(test: str) -> ast.Module:
  """`ast.parse`, one thread at a time.

  Python 3.11 counts the depth of the tree in one place for all threads, and
  raises SystemError where they meet (python/cpython issue 106905).
  """
  for _ in range(_TRIES - 1):
    with _parsing, contextlib.suppress(SystemError):
      return ast.parse(test)
  with _parsing:
    return ast.parse(test)


def _free_names(table: symtable.SymbolTable) -> frozenset[str]:
  """Global names that a module reads and nowhere binds, but built-in ones."""
  read, bound = set(), set()
  for symbol in table.get_symbols():
    if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
      bound.add(symbol.get_name())
  tables = [table]
  while tables:
    part = tables.pop()
    tables += part.get_children()
    for symbol in part.get_symbols():
      if symbol.is_referenced() and (part is table or symbol.is_global()):
        read.add(symbol.get_name())
  return frozenset(read - bound - _BUILTINS - {'__file__'})


def _modules(tree: ast.Module) -> frozenset[str]:
  """Names of the standard library that are used as modules.

  A test may leave their import to the program; they are none of its names.
  """
  bases = [n.value for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
  names = {base.id for base in bases if isinstance(base, ast.Name)}
  called = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
  names -= {func.id for func in called if isinstance(func, ast.Name)}
  return frozenset(names & sys.stdlib_module_names)


def _called_builtins(tree: ast.Module) -> frozenset[str]:
  """Names of built-in functions that every assertion calls first.

  A problem may ask for a function `sum`; its test then names nothing else.
  """
  names = [
    {
      node.func.id
      for node in ast.walk(statement.test)
      if isinstance(node, ast.Call)
      and isinstance(node.func, ast.Name)
      and all(not isinstance(a, ast.Call) for a in ast.walk(node) if a != node)
    }
    for statement in tree.body
    if isinstance(statement, ast.Assert)
  ]
  return (
    frozenset.intersection(*map(frozenset, names)) if names else frozenset()
  )


def _values(tree: ast.Module, entry_point: str, free: frozenset[str]) -> Values:
  check, statements = _body(tree, entry_point)
  names = frozenset([check]) if check else free or _called_builtins(tree)
  calls: list[expression.Call] = []
  assertions = []
  for statement in statements:
    assertion, found = expression.split(statement.test, names, len(calls))
    if found:  # `assert True` says nothing of the program
      assertions.append(assertion)
      calls += found
  if not assertions:
    raise expression.NotCovered('no assertion')
  if check:
    calls = [call._replace(name=entry_point) for call in calls]
  return Values(tuple(calls), tuple(assertions))


def _body(tree: ast.Module, entry_point: str) -> tuple[str, list[ast.Assert]]:
  """The name that `check` gives the program, or '', and the assertions."""
  check, asserts = '', []
  for statement in tree.body:
    match statement:
      case ast.FunctionDef(name='check', args=arguments) if entry_point:
        names = [a.arg for a in ast.walk(arguments) if isinstance(a, ast.arg)]
        if check or len(names) != 1:
          raise expression.NotCovered('check')
        check = names[0]
        asserts += _asserts(statement.body)
      # Names bound here are free in no assertion, so they do not matter: an
      # assertion that reads one is not covered.
      case ast.Assign(value=ast.Constant() | ast.Dict()):
        pass
      case _:
        asserts += _asserts([statement])
  if check and any(isinstance(s, ast.Assert) for s in tree.body):
    raise expression.NotCovered('assertions beside check')
  return check, asserts


def _asserts(statements: list[ast.stmt]) -> Iterator[ast.Assert]:
  for statement in statements:
    match statement:
      case ast.Assert():
        yield statement
      case ast.Expr(value=ast.Constant()) | ast.Pass():
        pass
      case ast.Import(names=[ast.alias(name='math', asname=None)]):
        pass
      case _:
        raise expression.NotCovered(type(statement).__name__)
