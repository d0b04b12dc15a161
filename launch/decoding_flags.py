"""Flags of the commands that decode: a flag for every field of a decoder."""

import dataclasses
import typing
from typing import Any

from absl import flags

from dllm_jax import decoding

DECODE = flags.DEFINE_enum(
  'decode', None, list(decoding.DECODERS), "the decoder; default: the model's"
)


def _define(name: str, field: dataclasses.Field) -> flags.FlagHolder:
  users = decoding.users(field.name)
  text = field.metadata['help']
  if len(users) < len(decoding.DECODERS):
    text = f'{", ".join(users)}: {text}'
  if typing.get_origin(field.type) is typing.Literal:
    return flags.DEFINE_enum(name, None, typing.get_args(field.type), text)
  if field.type is bool:
    return flags.DEFINE_bool(name, None, text)
  if field.type is str:
    return flags.DEFINE_string(name, None, text)
  if int in (field.type, field.metadata.get('kind')):
    # Those of causal models have bounds of their own: 0 may mean none.
    is_causal = all(decoding.DECODERS[user].is_causal for user in users)
    least = None if is_causal or field.default == 0 else 1
    return flags.DEFINE_integer(name, None, text, lower_bound=least)
  return flags.DEFINE_float(name, None, text)


_FLAGS = {
  field.name: _define(name, field)
  for name, field in decoding.flag_names().items()
}


def given() -> list[str]:
  """The decoding flags that the user gave, as they are written."""
  holders = (DECODE, *_FLAGS.values())
  return [f'--{flag.name}' for flag in holders if flag.value is not None]


def overrides() -> dict[str, Any]:
  """The values that the user gave, by field name."""
  return {
    name: flag.value for name, flag in _FLAGS.items() if flag.value is not None
  }
