"""Decoders: a canvas of masks to completions, one object a file."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dllm_jax import types
from dllm_jax.decoding import fixed, gated

# By the name that `rollout.decode` and `--decode` take.
DECODERS = {'fixed': fixed.Fixed, 'gated': gated.Gated}


def flag_names() -> dict[str, dataclasses.Field]:
  """The fields of all decoders, by the flag that sets each."""
  return {
    _flag(field.name): field
    for cls in DECODERS.values()
    for field in _fields(cls).values()
  }


def users(field: str) -> list[str]:
  """The names of the decoders that have a field."""
  return [name for name, cls in DECODERS.items() if field in _fields(cls)]


def apply_overrides(
  decoders: Mapping[str, types.Decoder],
  name: str,
  overrides: Mapping[str, Any],
) -> types.Decoder:
  """The decoder of the given name, with a user's changes.

  A completion of another length has as many tokens a step as before, and its
  block is no longer than itself.

  Args:
    decoders: by name, what the changes are made to.
    name: which decoder.
    overrides: values by field.

  Raises:
    ValueError: a field that the decoder does not have, or a wrong value.
  """
  if name not in decoders:
    raise ValueError(
      f'--decode {name}: expected one of {", ".join(decoders)} for this model'
    )
  for field in overrides:
    if name not in users(field):
      raise ValueError(
        f'--{_flag(field)} is not read by the {name} decoder; give --decode '
        f'{" or ".join(users(field))}'
      )
  changes = dict(overrides)
  decoder = decoders[name]
  length = changes.pop('gen_length', decoder.gen_length)
  if changes.get('num_steps', 0) > length:
    raise ValueError(
      f'--steps {changes["num_steps"]} is more than the {length} tokens of a '
      'completion; each step commits at least one'
    )
  if 'block_length' in changes:
    decoder = decoder.resized(length, changes.pop('block_length'))
  else:
    decoder = decoder.resized(length)
  return dataclasses.replace(decoder, **changes)


def _fields(cls: type) -> dict[str, dataclasses.Field]:
  return {field.name: field for field in dataclasses.fields(cls)}


def _flag(field: str) -> str:
  return 'steps' if field == 'num_steps' else field
