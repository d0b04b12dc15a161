"""The fields of a decoder, which are flags and config keys as well."""

import dataclasses
from typing import Any

import jax


def static(help: str, **field: Any) -> Any:
  """A decoder's field that is part of the compiled program."""
  return dataclasses.field(metadata={'help': help, 'static': True}, **field)


def traced(help: str, *, kind: type = float, **field: Any) -> Any:
  """A decoder's field that is an input of the compiled program.

  It is a number of type `kind`, or None where the decoder gives None a meaning.
  A sweep over it compiles once.
  """
  metadata = {'help': help, 'static': False, 'kind': kind}
  return dataclasses.field(metadata=metadata, **field)


def decoder(cls: type) -> type:
  """Class decorator: a frozen dataclass, and a pytree of its `traced` fields.

  `__post_init__` checks values when a decoder is created, and is not called
  when JAX unflattens one.
  """
  cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
  names, kinds = [], {}
  for field in dataclasses.fields(cls):
    if field.metadata['static']:
      names.append(field.name)
    else:
      kinds[field.name] = field.metadata['kind']

  def flatten(self):
    leaves = []
    for name, kind in kinds.items():
      value = getattr(self, name)
      # 1 and 1.0 would be two compiled programs.
      leaves.append(kind(value) if isinstance(value, int | float) else value)
    return leaves, tuple(getattr(self, name) for name in names)

  def unflatten(static_values, leaves):
    self = object.__new__(cls)
    for name, value in zip(
      [*names, *kinds], (*static_values, *leaves), strict=True
    ):
      object.__setattr__(self, name, value)
    return self

  jax.tree_util.register_pytree_node(cls, flatten, unflatten)
  return cls
