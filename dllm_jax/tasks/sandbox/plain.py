"""Plain values between processes: JSON in frames, and nothing else.

What crosses: None, bool, int, float, complex, str, bytes, list, tuple, set,
frozenset, dict, range, slice, iterators (read to their end), values of the
`library` and the names of these types, nested, of limited size and depth. Never
a class of a program's own: a subclass of int arrives as the int, so a forged
`__eq__` stays behind.

JSON holds None, bool, str, list, floats and ints up to 64 bits as themselves;
the others are an object of one key, which names the type:

  {'t': [1, 2]}   a tuple            {'d': [[key, value], ...]}   a dict
  {'i': '-ff'}    a large int        {'f': 'nan'}                 a float
  {'L': ['date', 2020, 1, 2]}        a value of the standard library

Both ends use this module, so it needs nothing but the standard library. What
`decode` and `read` are given is hostile.
"""

import builtins
import collections
import json
import os
import struct
from collections.abc import Callable, Iterable
from typing import Any

from dllm_jax.tasks.sandbox import library

MAX_FRAME = 2**20  # bytes
MAX_DEPTH = 64
MAX_ITEMS = 100_000  # values in a frame
# In one set or dict, and four times as many in a frame. Hashes of ints can be
# made to collide, and then building one takes the square of its length times
# what one comparison takes: so few of the items may share their hash.
MAX_HASHED = 4096
MAX_ALIKE = 16
MAX_NAMED = 16  # named tuples of different fields in a frame

_HEADER = struct.Struct('>I')
_BITS_64 = 2**63
# Left out: `object` and `type`, which no test needs as an argument.
_TYPES = {
  name: getattr(builtins, name)
  for name in (
    *('bool', 'int', 'float', 'complex', 'str', 'bytes', 'list', 'tuple'),
    *('set', 'frozenset', 'dict', 'range'),
  )
} | library.TYPES
_TYPE_NAMES = {kind: name for name, kind in _TYPES.items()}


class NotPlain(ValueError):
  """A value that does not cross, or bytes that are not such a value."""


def _refuse(value: Any) -> Any:
  raise NotPlain(f'a value of type {type(value).__name__:.40}')


def encode(value: Any, other: Callable[[Any], Any] = _refuse) -> Any:
  """What JSON writes of a value.

  Args:
    value: anything.
    other: gives the code of what is not plain, or raises NotPlain.

  Raises:
    NotPlain: it is too large, nested too deep, or `other` refused a part.
  """
  left = MAX_ITEMS

  def walk(value, depth):
    nonlocal left
    left -= 1
    if left < 0:
      raise NotPlain(f'more than {MAX_ITEMS} values')
    if depth > MAX_DEPTH:
      raise NotPlain(f'nested deeper than {MAX_DEPTH}')
    depth += 1
    kind = type(value)
    if value is None or kind is bool:
      return value
    # The methods of the base class, not the value's own: a subclass becomes
    # its base, whatever it says of itself.
    if issubclass(kind, str):
      if str.__len__(value) > MAX_FRAME:
        raise NotPlain(f'a text of more than {MAX_FRAME} characters')
      return str.__str__(value)
    if issubclass(kind, int):
      value = int.__pos__(value)
      return value if -_BITS_64 <= value < _BITS_64 else {'i': f'{value:x}'}
    if issubclass(kind, float):
      return _float(float.__pos__(value))
    if kind is complex:
      return {'c': [_float(value.real), _float(value.imag)]}
    if of_library := library.parts(value):
      name, parts = of_library
      if name == 'defaultdict' and not _is_plain_type(parts[0]):
        return walk(parts[1], depth)
      return {'L': [name, *(walk(part, depth) for part in parts)]}
    if issubclass(kind, list):
      return [walk(item, depth) for item in list.__iter__(value)]
    if issubclass(kind, tuple):
      return {'t': [walk(item, depth) for item in tuple.__iter__(value)]}
    if issubclass(kind, dict):
      return {
        'd': [[walk(k, depth), walk(v, depth)] for k, v in dict.items(value)]
      }
    if issubclass(kind, set):
      return {'s': [walk(item, depth) for item in set.__iter__(value)]}
    if issubclass(kind, frozenset):
      return {'z': [walk(item, depth) for item in frozenset.__iter__(value)]}
    if kind in (bytes, bytearray):
      if len(value) > MAX_FRAME:
        raise NotPlain(f'more than {MAX_FRAME} bytes')
      return {'b' if kind is bytes else 'a': value.hex()}
    if kind in (range, slice):
      parts = [walk(p, depth) for p in (value.start, value.stop, value.step)]
      return {'r' if kind is range else 'l': parts}
    if issubclass(kind, type) and value in _TYPE_NAMES:
      return {'T': _TYPE_NAMES[value]}
    if kind in _ITERATORS:
      return {'g': [walk(item, depth) for item in _at_most(value, left)]}
    return other(value)

  return walk(value, 0)


_ITERATORS = (
  *(type(_ for _ in ()), map, filter, zip, enumerate, reversed),
  *(type(iter([])), type(iter(())), type(iter(set())), type(iter({}))),
  *(type(iter(collections.deque())), type(reversed(collections.deque()))),
)


def _is_plain_type(value: Any) -> bool:
  return value is None or (isinstance(value, type) and value in _TYPE_NAMES)


def _at_most(values, number: int):
  for count, value in enumerate(values):
    if count >= number:
      raise NotPlain(f'an iterator of more than {number} values')
    yield value


def _float(value: float) -> Any:
  """JSON has no word for nan and infinity."""
  return value if value - value == 0 else {'f': repr(value)}


def decode(code: Any, other: Callable[[str, Any], Any] | None = None) -> Any:
  """The value that `encode` was given, of exact types.

  Args:
    code: as JSON was read; hostile.
    other: gives what a key unknown to this module stands for.

  Raises:
    NotPlain: it is not the code of a plain value, or too large.
  """
  try:
    return _decode(code, other, 0, [4 * MAX_HASHED, set()])
  except NotPlain:
    raise
  except (
    *(ValueError, TypeError, LookupError, ArithmeticError, RecursionError),
  ) as error:
    raise NotPlain(f'not a plain value: {type(error).__name__}') from None


def check_hashes(items: Iterable[Any]) -> None:
  """Whether a set or dict of these items is built in reasonable time.

  Raises:
    NotPlain: too many of them share their hash.
    TypeError: one has no hash.
  """
  alike = collections.Counter(map(hash, items))
  if max(alike.values(), default=0) > MAX_ALIKE:
    raise NotPlain(f'more than {MAX_ALIKE} values of one hash')


def _decode(code, other, depth, budget):
  if depth > MAX_DEPTH + 1:
    raise NotPlain(f'nested deeper than {MAX_DEPTH}')
  if code is None or type(code) in (bool, int, float, str):
    return code
  if type(code) is list:
    return [_decode(item, other, depth + 1, budget) for item in code]
  if type(code) is not dict or len(code) != 1:
    raise NotPlain('not a plain value')
  ((tag, body),) = code.items()
  if tag == 'i':
    return int(body, 16)
  if tag == 'f':
    return {'nan': float('nan'), 'inf': float('inf')}.get(body, -float('inf'))
  if tag == 'b':
    return bytes.fromhex(body)
  if tag == 'a':
    return bytearray.fromhex(body)
  if tag == 'T':
    if body not in _TYPES:
      raise NotPlain('not a built-in type')
    return _TYPES[body]
  if tag not in _SEQUENCES and tag not in ('d', 'L'):
    if other is None:
      raise NotPlain(f'an unknown kind {tag!r:.10}')
    return other(tag, body)
  if type(body) is not list:
    raise NotPlain('not a list')
  if tag in 'dsz':
    budget[0] -= len(body)
    if len(body) > MAX_HASHED or budget[0] < 0:
      raise NotPlain(f'a set or dict of more than {MAX_HASHED} values')
  if tag == 'd':
    pairs = [
      [_decode(part, other, depth + 1, budget) for part in (key, value)]
      for key, value in body
    ]
    check_hashes(key for key, _ in pairs)
    return dict(pairs)
  items = [_decode(item, other, depth + 1, budget) for item in body]
  if tag == 'L':
    name, *parts = items
    if name == library.NAMED:
      budget[1].add(tuple(parts[:2]))
      if len(budget[1]) > MAX_NAMED:
        raise NotPlain(f'more than {MAX_NAMED} kinds of named tuples')
    return library.make(name, parts)
  if tag in 'sz':
    check_hashes(items)
  return _SEQUENCES[tag](items)


def _range(parts: list[Any]) -> range:
  """`x in range(10**9)` looks at every number if x is none itself."""
  numbers = range(*parts)
  if len(numbers) > MAX_ITEMS:
    raise NotPlain(f'a range of more than {MAX_ITEMS} numbers')
  return numbers


_SEQUENCES = {
  't': tuple,
  's': set,
  'z': frozenset,
  'g': iter,
  'c': lambda parts: complex(*parts),
  'r': _range,
  'l': lambda parts: slice(*parts),
}


def frame(code: Any) -> bytes:
  """Four bytes of length, then JSON.

  Raises:
    NotPlain: it is longer than MAX_FRAME.
  """
  body = json.dumps(code, separators=(',', ':'), allow_nan=False).encode()
  if len(body) > MAX_FRAME:
    raise NotPlain(f'more than {MAX_FRAME} bytes')
  return _HEADER.pack(len(body)) + body


def parse(body: bytes) -> Any:
  """The JSON of a frame, from a hostile writer.

  Raises:
    NotPlain: it is not JSON, or nested too deep.
  """
  try:
    return json.loads(body, parse_constant=_refuse)
  except (ValueError, RecursionError, MemoryError):
    raise NotPlain('a frame that is not JSON') from None


def body_length(header: bytes) -> int:
  """How many bytes follow the first four.

  Raises:
    NotPlain: more than MAX_FRAME.
  """
  (length,) = _HEADER.unpack(header)
  if length > MAX_FRAME:
    raise NotPlain(f'a frame of {length} bytes')
  return length


def write(descriptor: int, code: Any) -> None:
  """Writes a whole frame to a blocking descriptor."""
  data = memoryview(frame(code))
  while data:
    data = data[os.write(descriptor, data) :]


def read(descriptor: int) -> Any:
  """The next frame's code from a blocking descriptor.

  Raises:
    EOFError: the other end is closed.
    NotPlain: what came is no frame.
  """
  return parse(_read(descriptor, body_length(_read(descriptor, 4))))


def _read(descriptor: int, length: int) -> bytes:
  data = b''
  while len(data) < length:
    part = os.read(descriptor, length - len(data))
    if not part:
      raise EOFError
    data += part
  return data
