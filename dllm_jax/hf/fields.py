"""Fields of a config.json, checked one by one: kinds, bounds, and the ropes."""

from collections.abc import Mapping
from typing import Any

from dllm_jax import errors
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf.families import family
from dllm_jax.models import config as model_config


class Fields:
  """The fields of one config.json, with errors that name them."""

  def __init__(self, values: Mapping[str, Any], where: str):
    self.values, self.where = values, where

  def wrong(self, name: str, rule: str) -> errors.UserError:
    """An error that shows the value and says the rule."""
    value = 'missing'
    if self.values.get(name) is not None:
      value = folder_lib.short(self.values[name])
    return errors.UserError(f'{self.where}: {name} is {value}; {rule}')

  def integer(self, name: str, low: int, high: int) -> int:
    """An integer in low..high."""
    value = self.values.get(name)
    if type(value) is not int or not low <= value <= high:
      raise self.wrong(name, f'it must be an integer in {low}..{high}')
    return value

  def number(self, name: str, above: float, most: float) -> float:
    """A number above one bound, to another."""
    value = self.values.get(name)
    if type(value) not in (int, float) or not above < value <= most:
      raise self.wrong(name, f'it must be a number above {above}, to {most:g}')
    return float(value)

  def flag(self, name: str) -> bool:
    """True or false; false where it is missing."""
    value = self.values.get(name, False)
    if type(value) is not bool:
      raise self.wrong(name, 'it must be true or false')
    return value


def rope(fields: Fields) -> tuple[float, model_config.RopeScaling | None]:
  """(theta, scaling), from the older fields or transformers 5's one."""
  merged = fields.values.get('rope_parameters')
  if isinstance(merged, dict):
    for old in ('rope_scaling', 'rope_theta'):
      given = fields.values.get(old)
      if given is not None and given != merged.get(old):
        raise fields.wrong(old, 'rope_parameters says something else')
  if merged is None:
    theta, scaling = fields, fields.values.get('rope_scaling')
  elif isinstance(merged, dict):
    theta, scaling = Fields(merged, f'{fields.where}: rope_parameters'), merged
  else:
    raise fields.wrong('rope_parameters', 'it must be an object')
  value = theta.number('rope_theta', 0.0, 1e12)
  if scaling is None:
    return value, None
  if not isinstance(scaling, dict):
    raise fields.wrong('rope_scaling', 'it must be an object or null')
  inner = Fields(scaling, f'{fields.where}: rope scaling')
  kind = 'rope_type' if 'rope_type' in scaling else 'type'  # its older name
  for name, given in scaling.items():
    if name not in family.ROPE_INNER and given is not None:
      raise inner.wrong(name, 'this field is not supported')
  if scaling.get('type', scaling.get(kind)) != scaling.get(kind):
    raise inner.wrong('type', 'rope_type says something else')
  if scaling.get(kind) == 'default':
    return value, None
  if scaling.get(kind) != 'llama3':
    raise inner.wrong(kind, "only 'llama3' and 'default' are supported")
  try:
    return value, model_config.RopeScaling(
      factor=inner.number('factor', 0.0, 1e6),
      low_freq_factor=inner.number('low_freq_factor', 0.0, 1e6),
      high_freq_factor=inner.number('high_freq_factor', 0.0, 1e6),
      original_max_position=inner.integer(
        'original_max_position_embeddings', 1, 2**31
      ),
    )
  except ValueError as e:
    raise errors.UserError(f'{inner.where}: {e}') from None
