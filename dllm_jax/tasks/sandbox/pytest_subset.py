"""What tests use of pytest, for where there is no site-packages.

`raises`, `approx`, `mark.parametrize` (other marks do nothing), `fail`; the
collection of `test_*` functions, of `Test*` classes and of unittest's. Tests
run without output, fixtures or plug-ins. `from pytest import ...` finds this
module.
"""

import decimal
import fractions
import inspect
import math
import re
from collections.abc import Callable, Iterator
from typing import Any


class raises:
  """A context that wants an exception."""

  def __init__(self, expected, *, match: str | None = None):
    self._expected = expected
    self._match = match
    self.value: BaseException | None = None

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace) -> bool:
    if kind is None:
      raise AssertionError(f'did not raise {self._expected}')
    if not issubclass(kind, self._expected):
      return False
    self.value = error
    if self._match is not None and not re.search(self._match, str(error)):
      raise AssertionError('the message does not match')
    return True


class approx:
  """Equals numbers nearby, alone or in lists, tuples and dicts."""

  def __init__(self, expected, rel=None, abs=None, nan_ok: bool = False):
    self._expected = expected
    self._abs = 1e-12 if abs is None else abs
    # pytest: an absolute tolerance alone switches the relative one off.
    self._rel = (1e-6 if abs is None else 0.0) if rel is None else rel
    self._nan_ok = nan_ok

  def __eq__(self, found) -> bool:
    return self._near(self._expected, found)

  __hash__ = None

  def _near(self, expected, found) -> bool:
    if isinstance(expected, (list, tuple)):
      return (
        isinstance(found, (list, tuple))
        and len(expected) == len(found)
        and all(map(self._near, expected, found))
      )
    if isinstance(expected, dict):
      return (
        isinstance(found, dict)
        and expected.keys() == found.keys()
        and all(self._near(expected[key], found[key]) for key in expected)
      )
    if expected == found:
      return True
    expected, found = (
      float(v) if type(v) in (fractions.Fraction, decimal.Decimal) else v
      for v in (expected, found)
    )
    if not all(isinstance(v, (int, float, complex)) for v in (expected, found)):
      return False
    if expected != expected or found != found:
      return self._nan_ok and expected != expected and found != found
    if math.isinf(builtin_abs(expected)) or math.isinf(builtin_abs(found)):
      return False
    tolerance = max(self._abs, self._rel * builtin_abs(expected))
    return builtin_abs(expected - found) <= tolerance


builtin_abs = abs


def fail(reason: str = '') -> None:
  """Fails the test."""
  raise AssertionError(reason)


class _Mark:
  """`pytest.mark`."""

  def parametrize(self, names, values, **_) -> Callable:
    if isinstance(names, str):
      names = [name.strip() for name in names.split(',')]

    def decorate(function):
      rows = []
      for value in values:
        row = (value,) if len(names) == 1 else value
        rows.append(dict(zip(names, row, strict=True)))
      earlier = getattr(function, '_rows', [{}])
      function._rows = [a | b for a in earlier for b in rows]
      return function

    return decorate

  def __getattr__(self, name: str) -> Callable:
    return lambda *args, **_: args[0] if args and callable(args[0]) else _same


def _same(function: Callable) -> Callable:
  return function


mark = _Mark()


def __getattr__(name: str) -> Any:
  """What is not here, such as fixtures, is not the program's fault."""
  if name.startswith('__'):
    raise AttributeError(name)
  raise ImportError(f'no pytest.{name} here', name=f'pytest.{name}')


def collect(space: dict[str, Any]) -> Iterator[Callable[[], Any]]:
  """A call for each test that a module defines, in order."""
  for name, value in list(space.items()):
    if name.startswith('test') and inspect.isfunction(value):
      for row in getattr(value, '_rows', [{}]):
        yield lambda value=value, row=row: value(**row)
    elif inspect.isclass(value) and (
      name.startswith('Test') or _is_test_case(value)
    ):
      yield from _methods(value)


def _is_test_case(kind: type) -> bool:
  return any(
    (base.__module__, base.__name__) == ('unittest.case', 'TestCase')
    for base in kind.__mro__
  )


def _methods(kind: type) -> Iterator[Callable[[], Any]]:
  for_all = [getattr(kind, n, None) for n in ('setup_class', 'setUpClass')]
  for_all = [prepare for prepare in for_all if prepare]

  def run(name, row):
    while for_all:
      for_all.pop(0)()
    instance = kind()
    for prepare in ('setup_method', 'setUp'):
      if hasattr(instance, prepare):
        getattr(instance, prepare)()
    return getattr(instance, name)(**row)

  members = {}
  for base in reversed(kind.__mro__):
    members |= vars(base)
  for name, value in members.items():
    if name.startswith('test') and inspect.isfunction(value):
      for row in getattr(value, '_rows', [{}]):
        yield lambda name=name, row=row: run(name, row)
