"""The state that training changes, and what of it is trained."""

from typing import Any, NamedTuple

import flax
import jax
import optax
from jaxtyping import Array, Int

from dllm_jax import types


class TrainState(NamedTuple):
  """Everything that an update changes; a checkpoint holds no more arrays.

  Attributes:
    step: updates done.
    params: the whole model.
    opt_state: of the trained leaves only.
  """

  step: Int[Array, '']
  params: types.Params
  opt_state: Any


def split(params: types.Params) -> tuple[dict, dict]:
  """(trained, frozen) leaves by path: adapters alone where there are any."""
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  adapters = {k: v for k, v in flat.items() if '/lora_' in k}
  if not adapters:
    return flat, {}
  return adapters, {k: v for k, v in flat.items() if k not in adapters}


def merge(trained: dict, frozen: dict) -> types.Params:
  """Inverse of `split`."""
  return flax.traverse_util.unflatten_dict(trained | frozen, sep='/')


def create(
  params: types.Params, optimizer: optax.GradientTransformation
) -> TrainState:
  """Step 0 with the given parameters."""
  trained, _ = split(params)
  return TrainState(jax.numpy.int32(0), params, optimizer.init(trained))
