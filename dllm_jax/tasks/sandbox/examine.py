"""The test's side: runs a test against a program that is elsewhere.

Runs confined, as tests too come from outside. What the test calls by the
program's names are stubs; their calls go to the program's process, and plain
values come back. An object of the program stays there, and here is a `Remote`,
which never asks the program whether it equals something: `assert f(x) == 5`
must not be answered by f.
"""

import ast
import builtins
import collections
import importlib
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from dllm_jax.tasks.sandbox import plain, pytest_subset, statements

HOST, PEER = 3, 4


class _Ended(BaseException):
  """The program's process is gone, or sent something that is no reply."""


class _Unsupported(BaseException):
  """The test needs what cannot be done between two processes."""


class _Foreign(plain.NotPlain):
  """An argument of a type that only the test knows."""


class _RemoteError(Exception):
  """An exception of the program that is not a built-in one."""


class _Stopped(RuntimeError):
  """The program raised StopIteration.

  That itself would end the `map` or the generator of a test that asserts.
  """


class Channel:
  """Calls to the program, and what went wrong for good."""

  def __init__(self):
    self.fault: BaseException | None = None
    self.num_asked = 0

  def fail(self, fault: BaseException) -> BaseException:
    """Keeps the first; a test that catches everything does not hide it."""
    self.fault = self.fault or fault
    return fault

  def ask(self, *request: Any) -> dict[str, Any]:
    """The reply.

    Raises:
      Exception: the built-in exception that the program raised.
      _Ended: there is no reply.
    """
    if self.fault is not None:
      raise self.fault
    self.num_asked += 1
    try:
      plain.write(PEER, request)
      reply = plain.read(PEER)
      if type(reply) is dict and 'v' in reply:
        return reply
      name, text = reply.get('e'), reply.get('text')
    except (EOFError, OSError, AttributeError) as error:
      raise self.fail(_Ended('ended')) from error
    except plain.NotPlain as error:
      raise self.fail(_Ended('protocol')) from error
    if not _is_name(name):
      raise self.fail(_Ended('not plain'))
    kind = getattr(builtins, name, None)
    if not isinstance(kind, type) or not issubclass(kind, Exception):
      kind = _RemoteError
    if issubclass(kind, (StopIteration, StopAsyncIteration)):
      kind = _Stopped
    try:
      error = kind(text if type(text) is str else '')
    except TypeError:  # UnicodeDecodeError and its like want more arguments
      error = _RemoteError(name)
    error.from_program = name[:40]
    raise error

  def encode(self, value: Any) -> Any:
    """The code of a value; Remote ones by their key."""
    try:
      return plain.encode(value, self._key)
    except _Foreign as error:
      raise self.fail(_Unsupported(f'passes {error}')) from error
    except plain.NotPlain as error:  # what the program made so
      raise self.fail(_Ended('not plain')) from error

  def decode(self, code: Any) -> Any:
    """The value of a code from the program."""
    try:
      return plain.decode(code, self._remote)
    except plain.NotPlain as error:
      raise self.fail(_Ended('protocol')) from error

  def _key(self, value: Any) -> Any:
    if type(value) is Remote:
      return {'o': object.__getattribute__(value, '_key')}
    kind = _Foreign if _is_of_test(value) else plain.NotPlain
    raise kind(f'a value of type {type(value).__name__:.40}')

  def _remote(self, tag: str, key: Any) -> 'Remote':
    if tag != 'o' or type(key) is not int:
      raise plain.NotPlain('an unknown kind')
    return Remote(self, key)


def _is_of_test(value: Any) -> bool:
  """Whether a test itself chose a value of this type, whatever was returned.

  What is reached from plain values, such as `got.values` or `iter(got)`, is of
  built-in types, and depends on the program: it must not end the judgement.
  """
  if isinstance(value, types.MethodType):
    value = value.__self__
  if isinstance(value, types.BuiltinFunctionType):
    return isinstance(value.__self__, types.ModuleType)
  if isinstance(value, types.FunctionType):
    return True
  kind = value if isinstance(value, type) else type(value)
  return kind.__module__ not in ('builtins', __name__)


class Remote:
  """An object of the program, or a name at its top.

  Calls and attributes go to the program; so do length, items, and text. Neither
  equality, order, membership nor truth does.
  """

  __slots__ = ('_channel', '_key')

  def __init__(self, channel: Channel, key: int | str):
    object.__setattr__(self, '_channel', channel)
    object.__setattr__(self, '_key', key)

  def __call__(self, *arguments, **keywords):
    return _invoke(self, arguments, keywords)

  def __getattr__(self, name):
    channel = object.__getattribute__(self, '_channel')
    return channel.decode(channel.ask('get', channel.encode(self), name)['v'])

  def __setattr__(self, name, value):
    channel = object.__getattribute__(self, '_channel')
    channel.ask('set', channel.encode(self), name, channel.encode(value))

  def __len__(self):
    return self.__getattr__('__len__')()

  def __getitem__(self, key):
    return self.__getattr__('__getitem__')(key)

  def __setitem__(self, key, value):
    self.__getattr__('__setitem__')(key, value)

  def __iter__(self):
    return iter(self.__getattr__('__iter__')())

  def __next__(self):
    function = self.__getattr__('__next__')
    try:
      return function()
    except _Stopped:
      raise StopIteration from None

  def __str__(self):
    return self.__getattr__('__str__')()

  def __repr__(self):
    return self.__getattr__('__repr__')()

  def __bool__(self):
    return True

  def __hash__(self):
    return hash(object.__getattribute__(self, '_key'))

  def __eq__(self, other):
    # The same object, or not equal: two objects of the program may think
    # otherwise, but then f could answer `f(x) == Point(1, 2)` as it likes.
    if type(other) is not Remote:
      _refuse_foreign(self, other)
      return NotImplemented
    return object.__getattribute__(self, '_key') == object.__getattribute__(
      other, '_key'
    )


def _refuse_foreign(remote: Remote, other: Any) -> None:
  """Ends a test that compares with what could not have come back.

  A value of a kind that never crosses equals nothing here, whatever the program
  returned: only the test chose it, so the program is not judged.
  """
  if not _is_of_test(other):
    return
  channel = object.__getattribute__(remote, '_channel')
  try:
    plain.encode(other)
  except plain.NotPlain as error:
    raise channel.fail(_Unsupported(f'compares with {error}')) from error


def _invoke(remote: Remote, arguments: tuple, keywords: dict[str, Any]) -> Any:
  """The result of a call in the program's process."""
  channel = object.__getattribute__(remote, '_channel')
  reply = channel.ask(
    'call',
    channel.encode(remote),
    [channel.encode(argument) for argument in arguments],
    channel.encode(keywords),
  )
  for change in _pairs(reply.get('changed')):
    _replace(channel, arguments, *change)
  return channel.decode(reply['v'])


def _pairs(changes: Any) -> list[Any]:
  if type(changes) is not list:
    return []
  return [c for c in changes if type(c) is list and len(c) == 2]


def _replace(channel: Channel, arguments: tuple, number: Any, code: Any):
  """Copies back what the program did to a list, dict or set in place."""
  if type(number) is not int or not 0 <= number < len(arguments):
    return
  argument, value = arguments[number], channel.decode(code)
  if isinstance(argument, collections.deque):
    if type(value) is collections.deque:
      argument.clear()
      argument.extend(value)
    return
  if isinstance(argument, dict) and isinstance(value, dict):
    argument.clear()
    argument.update(value)
    return
  if type(argument) is not type(value):
    return
  if type(argument) in (list, bytearray):
    argument[:] = value
  elif type(argument) is set:
    argument.clear()
    argument.update(value)


def main() -> None:
  """Runs the test of the request and reports what passed.

  The request is {'test', 'entry', 'names', 'modules', 'nonce'}; the
  report repeats the nonce, which no other process is told.
  """
  request = plain.read(HOST)
  channel = Channel()
  counts = {'passed': 0, 'total': 0}
  try:
    reason = _run(request, channel, counts)
  except RecursionError:
    reason = 'error RecursionError'
  if isinstance(channel.fault, _Ended):
    reason = str(channel.fault)
  report = {'nonce': request['nonce'], 'reason': reason, **counts}
  plain.write(HOST, report)
  os._exit(0)


def _run(
  request: dict[str, Any], channel: Channel, counts: dict[str, int]
) -> str:
  """Statement by statement, then the functions that the test defines."""
  module = types.ModuleType('test')
  space = module.__dict__
  for name in request['names']:
    space[name] = Remote(channel, name)
  for name in request['modules']:
    space[name] = importlib.import_module(name)
  sys.modules['solution'] = _SolutionModule(channel)
  sys.modules['pytest'] = pytest_subset
  reasons = []

  def attempt(run: Callable[[], Any]) -> bool:
    reason = _outcome(run)
    if isinstance(channel.fault, _Unsupported):
      reason = f'unsupported: the test {channel.fault}'
    if reason is None and channel.fault is None:
      return True
    reasons.append(reason or 'ended')
    return False

  body = ast.parse(request['test']).body
  asserting = statements.asserting(body)
  for statement in body:
    part = compile(
      ast.Module([statement], []), 'test.py', 'exec', dont_inherit=True
    )
    asked = channel.num_asked
    good = attempt(lambda part=part: exec(part, space))
    # One that never came to the program, as below `if __name__ == '__main__'`,
    # says nothing of it.
    if isinstance(statement, ast.Assert) or (
      channel.num_asked > asked and statements.asserts(statement, asserting)
    ):
      counts['total'] += 1
      counts['passed'] += good
    elif not good:
      counts['total'] += 1
      return reasons[0]
  tests = list(pytest_subset.collect(space))
  if callable(space.get('check')) and request['entry']:
    candidate = Remote(channel, request['entry'])
    tests.append(lambda: space['check'](candidate))
  for test in tests:
    counts['total'] += 1
    counts['passed'] += attempt(test)
  if not counts['total']:
    return 'unsupported: the test tests nothing'
  return reasons[0] if reasons else ''


# What a call of `async def`, or of a function with `yield`, gives.
_NOT_RUN = (
  types.CoroutineType,
  types.GeneratorType,
  types.AsyncGeneratorType,
)


def _outcome(run: Callable[[], Any]) -> str | None:
  """None for success, or a reason."""
  try:
    result = run()
    if isinstance(result, _NOT_RUN):
      return 'unsupported: the test has functions that a call does not run'
  except AssertionError:
    return 'wrong'
  except ImportError as error:
    # Only the test's own: a program that raises one is not excused.
    if hasattr(error, 'from_program'):
      return f'error {error.from_program}'
    return f'unsupported: the test needs {error.name}'
  except (_Ended, _Unsupported) as error:
    return str(error)
  except BaseException as error:
    name = getattr(error, 'from_program', type(error).__name__)
    return f'error {name if _is_name(name) else "Exception"}'
  return None


def _is_name(name: Any) -> bool:
  return type(name) is str and name.isascii() and name.isidentifier()


class _SolutionModule(types.ModuleType):
  """What `from solution import f` finds."""

  def __init__(self, channel: Channel):
    super().__init__('solution')
    self.__dict__['_channel'] = channel

  def __getattr__(self, name: str) -> Remote:
    if name.startswith('__'):
      raise AttributeError(name)
    return Remote(self.__dict__['_channel'], name)
