"""Decoders: a canvas of masks to completions, one object a file."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dllm_jax import types
from dllm_jax.decoding import fixed, gated

# By the name that `rollout.decode` and `--decode` take.
DECODERS = {'fixed': fixed.Fixed, 'gated': gated.Gated}


def fields() -> dict[str, dataclasses.Field]:
  """The fields of all decoders, by the names of their flags."""
  return {
    _flag(field.name): field
    for cls in DECODERS.values()
    for field in dataclasses.fields(cls)
  }


def users(name: str) -> list[str]:
  """The decoders that have a field."""
  return [
    decoder
    for decoder, cls in DECODERS.items()
    if name in {field.name for field in dataclasses.fields(cls)}
  ]


def apply_overrides(
  decoders: Mapping[str, types.Decoder],
  decode: str,
  overrides: Mapping[str, Any],
) -> types.Decoder:
  """A model's decoder with the fields that a user gave.

  A completion of another length has as many tokens a step as before, and its
  block is no longer than itself.

  Args:
    decoders: the model's decoders by name.
    decode: name of the one that is wanted.
    overrides: values by field name.

  Raises:
    ValueError: a decoder that the model does not have, a field that the decoder
      does not have, or a value that it refuses.
  """
  if decode not in decoders:
    raise ValueError(
      f'no decoder {decode!r} for this model; expected one of '
      f'{", ".join(decoders)}'
    )
  for name in overrides:
    if decode not in users(name):
      raise ValueError(
        f'--{_flag(name)} is not read by the {decode} decoder; give --decode '
        f'{" or ".join(users(name))}'
      )
  decoder = decoders[decode]
  if 'gen_length' in overrides:
    decoder = decoder.resized(overrides['gen_length'])
  if overrides.get('num_steps', 0) > decoder.gen_length:
    raise ValueError(
      f'--steps {overrides["num_steps"]} is more than the {decoder.gen_length} '
      'tokens of a completion; each step commits at least one'
    )
  return dataclasses.replace(decoder, **overrides)


def _flag(name: str) -> str:
  """Denoising steps are `--steps`; every other flag has its field's name."""
  return 'steps' if name == 'num_steps' else name
