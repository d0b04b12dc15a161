"""A mixture of experts made of a dense model."""

import jax
import jax.numpy as jnp

from dllm_jax import types
from dllm_jax.models import stack


def upcycle(dense: types.Params, fresh: types.Params) -> types.Params:
  """The dense model with its MLP as every expert, and new routers.

  Where only some layers of `fresh` have experts, the others stay as they are.

  Without a gate (`ModelConfig.gate_scale` 'none') it computes what the dense
  model computes. A shared expert is new, and its `down_proj` is zero, so that
  it adds nothing at first.

  Args:
    dense: parameters of the dense model.
    fresh: parameters of a model of the same sizes with experts; their routers
      and shared experts are taken.

  References:
    Komatsuzaki et al. 2022 (arXiv:2212.05055).
  """
  layers = fresh['layers']
  if 'sparse' in layers:
    count = lambda name: len(layers[name]['input_layernorm']['weight'])
    every = 1 + count('dense') // count('sparse')
    rest, own = stack.divide(dense['layers'], every)
    sparse = _with_experts(own, layers['sparse'])
    return {**dense, 'layers': {'dense': rest, 'sparse': sparse}}
  return {**dense, 'layers': _with_experts(dense['layers'], layers)}


def _with_experts(dense: types.Params, fresh: types.Params) -> types.Params:
  """`upcycle` of one stack of layers."""
  mlp = fresh['mlp']

  def copies(kernel, like):
    return jnp.broadcast_to(kernel[:, None], like.shape).astype(like.dtype)

  made = {**mlp, 'experts': jax.tree.map(copies, dense['mlp'], mlp['experts'])}
  if 'shared_expert' in mlp:
    shared = mlp['shared_expert']
    last = jax.tree.map(jnp.zeros_like, shared['down_proj'])
    made['shared_expert'] = {**shared, 'down_proj': last}
  return {**dense, 'mlp': made}
