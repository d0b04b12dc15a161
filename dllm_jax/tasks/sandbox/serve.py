"""The solution's side: runs the program and calls its functions.

Runs confined. All that it sends is under the program's control, and the readers
take it so.
"""

import collections
import os
import sys
import types
from typing import Any

from dllm_jax.tasks.sandbox import plain

HOST, PEER = 3, 4
_MAX_OBJECTS = 10_000
_MUTABLE = (
  *(list, dict, set, bytearray, collections.deque, collections.Counter),
  *(collections.OrderedDict, collections.defaultdict),
)


def main() -> None:
  """Answers the calls of the request, or those that the test's side makes.

  First comes the program, then the calls: [[name, arguments, keywords], ...],
  or None where they come over the other socket, until it is closed.
  """
  code = plain.read(HOST)
  calls = plain.read(HOST)
  module = types.ModuleType('solution')
  sys.modules['solution'] = module  # dataclasses look their module up
  try:
    program = compile(code, 'solution.py', 'exec', dont_inherit=True)
    exec(program, module.__dict__)
  except BaseException as error:
    plain.write(HOST, {'load': _name(error)})
    os._exit(0)
  plain.write(HOST, 'loaded')
  if calls is not None:
    for name, arguments, keywords in calls:
      plain.write(HOST, _value(module, name, arguments, keywords))
  else:
    _Server(module).run()
  os._exit(0)


def _value(module: types.ModuleType, name: str, arguments, keywords) -> Any:
  try:
    function = module.__dict__[name]
  except KeyError:
    return {'e': 'NameError'}
  try:
    result = function(*plain.decode(arguments), **plain.decode(keywords))
    code = {'v': plain.encode(result)}
    plain.frame(code)
    return code
  except plain.NotPlain as error:
    return {'n': str(error)}
  except BaseException as error:
    return {'e': _name(error)}


def _name(error: BaseException) -> str:
  name = type(error).__name__
  good = type(name) is str and name.isascii() and name.isidentifier()
  return name if good else 'Exception'


class _Server:
  """Answers the test's side, which knows the program's objects by numbers.

  A request is ['call', object, arguments, keywords], ['get', object, name] or
  ['set', object, name, value]; an object is {'o': number} or, for what the
  program defines at its top, {'o': name}.
  """

  def __init__(self, module: types.ModuleType):
    self._module = module
    self._objects: list[Any] = []
    self._numbers: dict[int, int] = {}

  def run(self) -> None:
    while True:
      try:
        request = plain.read(PEER)
      except EOFError:
        return
      try:
        reply = self._answer(*request)
        plain.frame(reply)
      except plain.NotPlain as error:
        reply = {'n': str(error)}
      except BaseException as error:
        reply = {'e': _name(error), 'text': _text(error)}
      plain.write(PEER, reply)

  def _answer(self, verb: str, target: Any, *rest: Any) -> dict[str, Any]:
    target = self._decode(target)
    if verb == 'get':
      return {'v': self._encode(getattr(target, rest[0]))}
    if verb == 'set':
      setattr(target, rest[0], self._decode(rest[1]))
      return {'v': None}
    before, keywords = rest
    arguments = self._decode(before)
    result = target(*arguments, **self._decode(keywords))
    changed = []
    for number, argument in enumerate(arguments):
      if type(argument) in _MUTABLE:
        after = self._encode(argument)
        if after != before[number]:
          changed.append([number, after])
    return {'v': self._encode(result), 'changed': changed}

  def _encode(self, value: Any) -> Any:
    return plain.encode(value, self._keep)

  def _decode(self, code: Any) -> Any:
    return plain.decode(code, self._find)

  def _keep(self, value: Any) -> Any:
    number = self._numbers.get(id(value))
    if number is None:
      number = len(self._objects)
      if number >= _MAX_OBJECTS:
        raise plain.NotPlain(f'more than {_MAX_OBJECTS} objects')
      self._objects.append(value)  # kept, so that its id stays its own
      self._numbers[id(value)] = number
    return {'o': number}

  def _find(self, tag: str, key: Any) -> Any:
    if type(key) is int:
      return self._objects[key]
    try:
      return self._module.__dict__[key]
    except KeyError:
      raise NameError(key) from None


def _text(error: BaseException) -> str:
  try:
    return str.__str__(str(error))[:200]
  except BaseException:
    return ''
