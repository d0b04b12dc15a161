"""Plain values: what crosses, as what, and what does not."""

import collections
import datetime
import decimal
import enum
import fractions
import itertools
import math
import os
import pathlib
import uuid

import pytest

from dllm_jax.tasks.sandbox import plain


def _there_and_back(value):
  return plain.decode(plain.parse(plain.frame(plain.encode(value))[4:]))


@pytest.mark.parametrize(
  'value',
  [
    None,
    True,
    -(2**63),
    2**63,
    0.1,
    -0.0,
    float('inf'),
    1 + 2j,
    complex(0, float('inf')),
    'é\ud800\x00"',
    b'\x00\xff',
    bytearray(b'ab'),
    [1, [2.0, (3,)]],
    (),
    {1, 'a', (2, 3)},
    frozenset({1}),
    {'t': 1, (1, 2): {'d': []}, None: 2.5},
    range(1, 9, 2),
    slice(None, 3),
    int,
  ],
)
def test_a_value_arrives_as_itself(value):
  found = _there_and_back(value)
  assert found == value and type(found) is type(value)
  assert repr(found) == repr(value)  # the sign of -0.0, types deep inside


def test_a_number_longer_than_int_reads():
  assert _there_and_back(-(10**9000)) == -(10**9000)


def test_nan_arrives_as_nan():
  assert math.isnan(_there_and_back([float('nan')])[0])


def test_tuples_lists_and_sets_stay_apart():
  codes = [plain.encode(v) for v in ([1], (1,), {1}, frozenset([1]), {1: 1})]
  assert all(a != b for i, a in enumerate(codes) for b in codes[:i])


class _Liar(int):
  def __eq__(self, other):
    return True

  def __pos__(self):
    return 'a lie'

  __hash__ = int.__hash__


class _Colour(enum.IntEnum):
  RED = 3


@pytest.mark.parametrize(
  'value, base',
  [
    (_Liar(7), 7),
    (_Colour.RED, 3),
    (type('C', (collections.Counter,), {})('aab'), {'a': 2, 'b': 1}),
    (collections.defaultdict(lambda: 1, a=1), {'a': 1}),
    (type('T', (tuple,), {'_fields': ('x',)})((1, 2)), (1, 2)),
    (type('T', (tuple,), {'_fields': ('class',)})((1,)), (1,)),
    (type('T', (tuple,), {'_fields': 'x'})((1,)), (1,)),
  ],
)
def test_a_subclass_arrives_as_its_base(value, base):
  found = _there_and_back(value)
  assert type(found) is type(base) and found == base


UTC = datetime.UTC
LIBRARY = [
  datetime.date(2020, 2, 29),
  datetime.datetime(2020, 1, 2, 3, 4, 5, 6),
  datetime.datetime(2020, 1, 2, tzinfo=UTC, fold=1),
  datetime.time(
    1, 2, 3, 4, tzinfo=datetime.timezone(datetime.timedelta(0, 60))
  ),
  datetime.timedelta(-1, 2, 3),
  UTC,
  decimal.Decimal('1.50'),
  decimal.Decimal('-1E+30'),
  decimal.Decimal('Infinity'),
  decimal.Decimal('-0'),
  fractions.Fraction(-1, 3),
  collections.deque([1, 2]),
  collections.deque([1, (2,)], maxlen=3),
  collections.Counter('aab'),
  collections.OrderedDict([('b', 1), ('a', 2)]),
  collections.defaultdict(int, a=1),
  collections.defaultdict(None, a=[1]),
  pathlib.Path('a') / 'b',
  pathlib.PurePosixPath('/x'),
  pathlib.PureWindowsPath('c:/x'),
  uuid.UUID(int=7),
  {1: 2}.keys(),
  {1: 2}.items(),
  datetime.date,
  fractions.Fraction,
  [datetime.date(1, 1, 1), {'a': decimal.Decimal(1)}],
  {datetime.date(1, 1, 1): fractions.Fraction(1, 2)},
]


@pytest.mark.parametrize('value', LIBRARY, ids=repr)
def test_a_value_of_the_standard_library_arrives_as_itself(value):
  back = _there_and_back(value)
  assert back == value and type(back) is type(value)
  assert repr(back) == repr(value)


def test_a_named_tuple_arrives_with_its_names():
  point = collections.namedtuple('Point', 'x y')(1, [2])
  back = _there_and_back(point)
  assert back == point and (back.x, back.y) == (1, [2])
  assert repr(back) == repr(point) and back._asdict() == point._asdict()
  assert back._replace(x=3) == (3, [2])


@pytest.mark.parametrize(
  'code',
  [
    ['date', 1, 1],
    ['date', 0, 1, 1],
    ['date', {'b': '07e40101'}],
    ['date', '1', '1', '1'],
    ['datetime', 1, 1, 1, 0, 0, 0, 0, 5, 0],
    ['timedelta', 10**12, 0, 0],
    ['Decimal', '1E+999999999'],
    ['Decimal', 5],
    ['Decimal', 'x'],
    ['Decimal', '9' * 5000],
    ['Fraction', 1, 0],
    ['Fraction', {'i': 'f' * 5000}, 3],
    ['Fraction', '1', 3],
    ['deque', 'ab', None],
    ['deque', [1], -1],
    ['Counter', 'ab'],
    ['Counter', [1]],
    ['defaultdict', 'int', {'d': []}],
    ['PosixPath', ['a']],
    ['UUID', 2**128],
    ['UUID', -1],
    ['object'],
    ['type', 'x'],
    [[]],
    [],
    ['namedtuple', 'P', {'t': ['x']}, {'t': []}],
    ['namedtuple', 'P', {'t': ['x', 'x']}, {'t': [1, 2]}],
    ['namedtuple', 'P', {'t': ['__class__']}, {'t': [1]}],
    ['namedtuple', 'P', {'t': ['x=1, y']}, {'t': [1]}],
    ['namedtuple', 'P(', {'t': ['x']}, {'t': [1]}],
    ['namedtuple', 'P', ['x'], {'t': [1]}],
    ['namedtuple', 'P', {'t': ['x']}, [1]],
    ['namedtuple', 'class', {'t': ['x']}, {'t': [1]}],
    ['namedtuple', 'P', {'t': [f'x{i}' for i in range(65)]}, {'t': [1] * 65}],
  ],
)
def test_forged_values_of_the_library_are_refused(code):
  with pytest.raises(plain.NotPlain):
    plain.decode(plain.parse(plain.frame({'L': code})[4:]))


def test_few_kinds_of_named_tuples_cross():
  codes = [
    {'L': ['namedtuple', 'P', {'t': [f'x{i}']}, {'t': [1]}]} for i in range(17)
  ]
  assert len(plain.decode(codes[:16] * 10)) == 160
  with pytest.raises(plain.NotPlain, match='named tuples'):
    plain.decode(codes)


def test_iterators_arrive_read():
  assert list(_there_and_back(x * x for x in range(3))) == [0, 1, 4]
  assert list(_there_and_back({1: 2}.values())) == [2]
  assert _there_and_back(map(str, [1])) != ['1']  # as in the test


def _endless():
  while True:
    yield 1


def _nested(depth):
  value = []
  for _ in range(depth):
    value = [value]
  return value


@pytest.mark.parametrize(
  'value, why',
  [
    (object(), 'type object'),
    (len, 'type builtin_function_or_method'),
    (_Liar, 'type type'),
    (_nested(100), 'deeper'),
    (_nested(100_000), 'deeper'),
    ([0] * 200_000, 'more than 100000'),
    ('x' * 2**21, 'characters'),
    (_endless(), 'iterator'),
  ],
  ids=itertools.count(),
)
def test_what_does_not_cross(value, why):
  with pytest.raises(plain.NotPlain, match=why):
    plain.encode(value)


def test_a_cycle_does_not_cross():
  cycle = []
  cycle.append(cycle)
  with pytest.raises(plain.NotPlain, match='deeper'):
    plain.encode(cycle)


def test_a_frame_is_bounded():
  with pytest.raises(plain.NotPlain, match='bytes'):
    plain.frame(['x' * 2**19] * 3)


def _alike(tag, item, num):
  """A set or dict of one hash: that of an int is the rest by a prime."""
  items = ','.join(item % (k * (2**61 - 1)) for k in range(num))
  return f'{{"{tag}": [{items}]}}'.encode()


def _distinct(num):
  return f'{{"s": {list(range(num))}}}'.encode()


@pytest.mark.parametrize(
  'body',
  [
    b'',
    b'{',
    b'\xff',
    b'NaN',
    b'[' * 100_000,
    b'1' * 5000,
    b'{"q": []}',
    b'{"t": 3}',
    b'{"t": [], "s": []}',
    b'{"s": [[1]]}',  # a list in a set
    b'{"d": [[1]]}',
    b'{"d": [[{"d": []}, 1]]}',
    b'{"i": 5}',
    b'{"i": "zz"}',
    b'{"b": "0"}',
    b'{"c": ["x", 1]}',
    b'{"c": 1}',
    b'{"r": [1, 2, 0]}',
    b'{"T": "object"}',
    b'{"T": []}',
    b'{"f": []}',
    b'{"o": 1}',
    b'{"s": [' + b'1,' * 5000 + b'1]}',
    b'{"r": [0, 100001, 1]}',
    b'{"r": [0, {"i": "fffffffffffffffffffff"}, 1]}',
    _alike('s', '%d', 17),
    _alike('z', '{"t": [1, %d]}', 17),
    _alike('d', '[%d, 1]', 17),
    b'[' + b','.join([_distinct(4096)] * 5) + b']',
    b'[' * 500 + b']' * 500,
  ],
  ids=itertools.count(),
)
def test_hostile_bytes_are_no_value(body):
  with pytest.raises(plain.NotPlain):
    plain.decode(plain.parse(body))


def test_what_is_just_not_too_large():
  for body in (_alike('s', '%d', 16), _alike('d', '[%d, 1]', 16)):
    assert len(plain.decode(plain.parse(body))) == 16
  body = b'[' + b','.join([_distinct(4096)] * 4) + b']'
  assert len(plain.decode(plain.parse(body))) == 4
  assert plain.decode({'r': [0, 100_000, 1]}) == range(100_000)


def test_read_and_write_on_a_descriptor():
  ends = os.pipe()
  plain.write(ends[1], [1, 'é'])
  assert plain.read(ends[0]) == [1, 'é']
  os.write(ends[1], b'\xff\xff\xff\xff')
  with pytest.raises(plain.NotPlain, match='4294967295'):
    plain.read(ends[0])
  os.write(ends[1], b'\0\0\0\5ab')
  os.close(ends[1])
  with pytest.raises(EOFError):
    plain.read(ends[0])
  os.close(ends[0])
