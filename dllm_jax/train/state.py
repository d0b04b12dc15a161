"""The training state, and its trained and frozen parameters."""

from typing import Any, NamedTuple

import flax
import jax
import optax
from jaxtyping import Array, Int

from dllm_jax import types
from dllm_jax.models import lora


class TrainState(NamedTuple):
  """Training state.

  Attributes:
    step: number of updates done.
    params: all parameters of the model, trained and frozen.
    opt_state: optimizer state of the trained leaves.
  """

  step: Int[Array, '']
  params: types.Params
  opt_state: Any


def split(params: types.Params) -> tuple[dict, dict]:
  """(trained, frozen) leaves by path; only adapters are trained, if any."""
  adapters, rest = lora.split(params)
  flat = flax.traverse_util.flatten_dict(rest, sep='/')
  return (adapters, flat) if adapters else (flat, {})


def merge(trained: dict, frozen: dict) -> types.Params:
  """Inverse of `split`."""
  return flax.traverse_util.unflatten_dict(trained | frozen, sep='/')


def detach(params: types.Params) -> tuple[types.Params, dict]:
  """(tree of the trained parameters, frozen leaves by path).

  Training donates, changes and saves the first. Frozen leaves are not moved and
  may be shared, for example with a reference policy.
  """
  trained, frozen = split(params)
  return (merge(trained, {}), frozen) if frozen else (params, {})


def attach(params: types.Params, frozen: dict) -> types.Params:
  """Inverse of `detach`."""
  if not frozen:
    return params
  return merge(flax.traverse_util.flatten_dict(params, sep='/'), frozen)


def without_frozen(state: TrainState) -> tuple[TrainState, dict]:
  """(state with the trained parameters only, frozen leaves by path)."""
  params, frozen = detach(state.params)
  return state._replace(params=params), frozen


def with_frozen(state: TrainState, frozen: dict) -> TrainState:
  """Inverse of `without_frozen`."""
  return state._replace(params=attach(state.params, frozen))


def copy_trained(params: types.Params) -> types.Params:
  """The same parameters with copies of the trained leaves."""
  trained, frozen = detach(params)
  return attach(jax.tree.map(jax.numpy.copy, trained), frozen)


def create(
  params: types.Params, optimizer: optax.GradientTransformation
) -> TrainState:
  """The initial state with the given parameters."""
  trained, _ = split(params)
  return TrainState(jax.numpy.int32(0), params, optimizer.init(trained))
