"""Decoders: each completes prompts, and is one object in one file.

Those that fill a canvas of masks are for denoisers, those that go from left to
right for causal models (`Decoder.is_causal`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dllm_jax import types
from dllm_jax.decoding import (
  autoregressive,
  fixed,
  fractal,
  gated,
  speculative,
)

# By the value of `rollout.decode` and `--decode`.
DECODERS = {
  'fixed': fixed.Fixed,
  'gated': gated.Gated,
  'autoregressive': autoregressive.Autoregressive,
  'draft': speculative.Draft,
  'fractal': fractal.Fractal,
}


def make_decoders(
  values: Mapping[str, Any], *, is_causal: bool
) -> dict[str, types.Decoder]:
  """Makes every decoder whose required fields are given, by name.

  Args:
    values: values by field name; each decoder takes the fields that it has.
    is_causal: whether to make those of causal models, or of denoisers.

  Raises:
    ValueError: a value is out of range, or no decoder has the field.
  """
  if unknown := sorted(name for name in values if not users(name)):
    raise ValueError(f'no decoder has a field {unknown[0]!r}')
  decoders = {}
  for name, cls in DECODERS.items():
    if cls.is_causal != is_causal:
      continue
    fields = _fields(cls)
    required = {
      k for k, f in fields.items() if f.default is dataclasses.MISSING
    }
    if required <= values.keys():
      known = {k: values[k] for k in fields.keys() & values.keys()}
      decoders[name] = cls(**known)
  return decoders


def greedy(
  decoders: Mapping[str, types.Decoder], **values: Any
) -> dict[str, types.Decoder]:
  """The decoders made greedy, with new values for the fields that they have.

  Args:
    decoders: decoders by name.
    **values: values by field name; each decoder takes the fields that it has.
  """
  return {
    name: dataclasses.replace(
      decoder.greedy(),
      **{k: values[k] for k in _fields(type(decoder)).keys() & values.keys()},
    )
    for name, decoder in decoders.items()
  }


def flag_names() -> dict[str, dataclasses.Field]:
  """The fields of all decoders, by the name of their command-line flag."""
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

  A new `gen_length` keeps the tokens per step, and shortens the block if it is
  longer than the completion.

  Args:
    decoders: decoders by name.
    name: name of the decoder.
    overrides: new values by field name.

  Raises:
    ValueError: the decoder does not have the field, or a value is out of range.
  """
  if name not in decoders:
    kind = 'causal' if DECODERS[next(iter(decoders))].is_causal else 'diffusion'
    raise ValueError(
      f'--decode {name}: expected one of {", ".join(decoders)} for this '
      f'{kind} model'
    )
  for field in overrides:
    if name not in users(field):
      fitting = [user for user in users(field) if user in decoders]
      hint = f'; give --decode {" or ".join(fitting)}' if fitting else ''
      raise ValueError(
        f'--{_flag(field)} is not read by the {name} decoder{hint}'
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
