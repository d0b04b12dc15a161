"""Checks of a record's fields, for its `__post_init__`.

Each raises a ValueError that names the field, its value and what is wrong.
"""

import dataclasses
from typing import Any, Literal, get_args, get_origin


def choices(record: Any, *names: str, **known: tuple[str, ...]) -> None:
  """Each field has one of its values.

  Args:
    record: has the fields.
    *names: of fields whose type is a `Literal`, which has their values.
    **known: values of other fields, by name.
  """
  types = {field.name: field.type for field in dataclasses.fields(record)}
  assert all(get_origin(types[name]) is Literal for name in names)
  for name, values in ({n: get_args(types[n]) for n in names} | known).items():
    value = getattr(record, name)
    if value not in values:
      raise ValueError(f'{name} {value!r}: expected one of {values}')


def positive(record: Any, *names: str) -> None:
  """Each field, a whole number, is 1 or more."""
  for name in names:
    if getattr(record, name) < 1:
      raise ValueError(f'{name} {getattr(record, name)} is not positive')


def not_negative(record: Any, *names: str) -> None:
  """Each field is 0 or more."""
  for name in names:
    if getattr(record, name) < 0:
      raise ValueError(f'{name} {getattr(record, name)} is negative')


def finite_not_negative(record: Any, *names: str) -> None:
  """Each field is 0 or more, and finite."""
  for name in names:
    value = getattr(record, name)
    if not 0 <= value < float('inf'):
      raise ValueError(f'{name} {value} must be finite and not negative')


def nucleus(record: Any) -> None:
  """The field `top_p` is the probability of a set of tokens."""
  if not 0.0 < record.top_p <= 1.0:
    raise ValueError(f'top_p {record.top_p} is outside (0, 1]')
