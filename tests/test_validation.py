"""Each check names the field, its value and the rule."""

import dataclasses
from typing import Literal

import pytest

from dllm_jax import validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
  kind: Literal['a', 'b'] = 'a'
  name: str = 'x'
  count: int = 1
  rate: float = 0.5
  top_p: float = 1.0

  def __post_init__(self):
    validation.choices(self, 'kind', name=('x', 'y'))
    validation.positive(self, 'count')
    validation.finite_not_negative(self, 'rate')
    validation.nucleus(self)


@pytest.mark.parametrize(
  'values, message',
  [
    ({'kind': 'c'}, "kind 'c': expected one of ('a', 'b')"),
    ({'name': 'z'}, "name 'z': expected one of ('x', 'y')"),
    ({'count': 0}, 'count 0 is not positive'),
    ({'rate': -0.5}, 'rate -0.5 must be finite and not negative'),
    ({'rate': float('inf')}, 'rate inf must be finite and not negative'),
    ({'rate': float('nan')}, 'rate nan must be finite and not negative'),
    ({'top_p': 0.0}, 'top_p 0.0 is outside (0, 1]'),
    ({'top_p': 1.5}, 'top_p 1.5 is outside (0, 1]'),
  ],
)
def test_a_wrong_value_is_named(values, message):
  with pytest.raises(ValueError) as raised:
    Record(**values)
  assert str(raised.value) == message


def test_bounds_are_allowed():
  Record(kind='b', count=1, rate=0.0, top_p=1.0)


def test_the_first_negative_field_is_named():
  validation.not_negative(Record(), 'count', 'rate')
  record = dataclasses.make_dataclass('Pair', ['left', 'right'])(0, -2)
  with pytest.raises(ValueError, match='^right -2 is negative$'):
    validation.not_negative(record, 'left', 'right')
