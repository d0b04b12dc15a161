"""Values of the standard library that cross between processes.

A value crosses as the name of its kind and plain parts, and is made anew on the
other side. Subclasses do not cross as themselves. The parts are hostile: their
types, and the size of numbers, are checked before anything is made of them.
"""

import abc
import collections
import datetime as dt
import decimal
import fractions
import functools
import keyword
import pathlib
import re
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_BITS = 4096  # of the parts of a fraction
MAX_FIELDS = 64
_DECIMAL = re.compile(
  r'[-+]?(?:[0-9]{1,4096}(?:\.[0-9]{1,4096})?(?:E[-+]?[0-9]{1,4})?'
  r'|Infinity|s?NaN[0-9]{0,20})'
)


class _Kind(NamedTuple):
  """How a type crosses.

  Attributes:
    type: exactly.
    parts: of a value.
    allowed: the types of each part.
    make: a value of the parts.
  """

  type: type
  parts: Callable[[Any], tuple]
  allowed: tuple[tuple[type, ...], ...]
  make: Callable[..., Any]


def _decimal(text: str) -> decimal.Decimal:
  if not _DECIMAL.fullmatch(text):
    raise ValueError('a large decimal')
  return decimal.Decimal(text)


def _fraction(top: int, bottom: int) -> fractions.Fraction:
  if max(top.bit_length(), bottom.bit_length()) > MAX_BITS:
    raise ValueError('a large fraction')
  return fractions.Fraction(top, bottom)


def _moment(value: Any) -> tuple:
  return (value.hour, value.minute, value.second, value.microsecond)


_INT, _STR, _DICT, _LIST = (int,), (str,), (dict,), (list,)
_ZONE = (type(None), dt.timezone)
_KINDS = [
  _Kind(
    dt.date,
    lambda v: (v.year, v.month, v.day),
    (_INT,) * 3,
    dt.date,
  ),
  _Kind(
    dt.datetime,
    lambda v: (v.year, v.month, v.day, *_moment(v), v.tzinfo, v.fold),
    (*(_INT,) * 7, _ZONE, _INT),
    lambda *parts: dt.datetime(*parts[:-1], fold=parts[-1]),
  ),
  _Kind(
    dt.time,
    lambda v: (*_moment(v), v.tzinfo, v.fold),
    (*(_INT,) * 4, _ZONE, _INT),
    lambda *parts: dt.time(*parts[:-1], fold=parts[-1]),
  ),
  _Kind(
    dt.timedelta,
    lambda v: (v.days, v.seconds, v.microseconds),
    (_INT,) * 3,
    dt.timedelta,
  ),
  _Kind(
    dt.timezone,
    lambda v: (v.utcoffset(None),),
    ((dt.timedelta,),),
    dt.timezone,
  ),
  _Kind(decimal.Decimal, lambda v: (str(v),), (_STR,), _decimal),
  _Kind(
    fractions.Fraction,
    lambda v: (v.numerator, v.denominator),
    (_INT, _INT),
    _fraction,
  ),
  _Kind(
    collections.deque,
    lambda v: (list(v), v.maxlen),
    (_LIST, (int, type(None))),
    collections.deque,
  ),
  *(
    _Kind(kind, lambda v: (dict(v),), (_DICT,), kind)
    for kind in (collections.Counter, collections.OrderedDict)
  ),
  _Kind(
    collections.defaultdict,
    lambda v: (v.default_factory, dict(v)),
    ((type, abc.ABCMeta, type(None)), _DICT),
    collections.defaultdict,
  ),
  *(
    _Kind(kind, lambda v: (str(v),), (_STR,), kind)
    for kind in (
      pathlib.PosixPath,
      pathlib.PurePosixPath,
      pathlib.PureWindowsPath,
    )
  ),
  _Kind(
    uuid.UUID, lambda v: (v.int,), (_INT,), lambda number: uuid.UUID(int=number)
  ),
  _Kind(
    type({}.keys()),
    lambda v: (dict.fromkeys(v),),
    (_DICT,),
    lambda items: items.keys(),
  ),
  _Kind(
    type({}.items()),
    lambda v: (dict(v),),
    (_DICT,),
    lambda items: items.items(),
  ),
  _Kind(
    type({}.values()),
    lambda v: (list(v),),
    (_LIST,),
    lambda items: dict(enumerate(items)).values(),
  ),
]
_BY_TYPE = {kind.type: kind for kind in _KINDS}
_BY_NAME = {kind.type.__name__: kind for kind in _KINDS}
TYPES = {name: kind.type for name, kind in _BY_NAME.items()}
NAMED = 'namedtuple'


def parts(value: Any) -> tuple[str, tuple] | None:
  """The kind of a value and its parts; None for one of no such kind."""
  kind = _BY_TYPE.get(type(value))
  if kind is not None:
    return type(value).__name__, kind.parts(value)
  fields = getattr(type(value), '_fields', None)
  if not issubclass(type(value), tuple) or not _are_fields(fields):
    return None
  if len(fields) != tuple.__len__(value):
    return None
  name = type(value).__name__
  name = name if _is_name(name) else 'Named'
  return NAMED, (name, fields, tuple(tuple.__iter__(value)))


def make(name: str, values: list[Any]) -> Any:
  """A value of a kind.

  Raises:
    ValueError: there is no such kind, or these are not its parts; also a
      TypeError, OverflowError or ArithmeticError.
  """
  if name == NAMED:
    title, fields, items = values
    if (
      not _is_name(title) or not _are_fields(fields) or type(items) is not tuple
    ):
      raise ValueError('no named tuple')
    return _named(title, fields)(*items)
  kind = _BY_NAME[name]
  if len(values) != len(kind.allowed) or not all(
    type(value) in allowed
    for value, allowed in zip(values, kind.allowed, strict=True)
  ):
    raise ValueError('other parts')
  return kind.make(*values)


@functools.lru_cache(64)
def _named(title: str, fields: tuple[str, ...]) -> type:
  kind = collections.namedtuple(title, fields)
  kind.__module__ = 'builtins'  # made of a reply, not by a test
  return kind


def _is_name(name: Any) -> bool:
  return (
    type(name) is str
    and len(name) <= 64
    and name.isascii()
    and name.isidentifier()
    and not name.startswith('_')
    and not keyword.iskeyword(name)
  )


def _are_fields(fields: Any) -> bool:
  return (
    type(fields) is tuple
    and len(fields) <= MAX_FIELDS
    and all(map(_is_name, fields))
    and len(set(fields)) == len(fields)
  )
