"""A mixture of experts made of a dense model."""

import jax
import jax.numpy as jnp

from dllm_jax import types


def upcycle(dense: types.Params, fresh: types.Params) -> types.Params:
  """The dense model with its MLP as every expert, and fresh routers.

  Without a gate (`ModelConfig.gate_scale` 'none') it computes what the dense
  model computes.

  Args:
    dense: parameters of the dense model.
    fresh: parameters of a model of the same sizes with experts; only their
      routers are taken.

  References:
    Komatsuzaki et al. 2022 (arXiv:2212.05055).
  """
  mlp = fresh['layers']['mlp']

  def copies(kernel, like):
    return jnp.broadcast_to(kernel[:, None], like.shape).astype(like.dtype)

  experts = jax.tree.map(copies, dense['layers']['mlp'], mlp['experts'])
  blocks = {**dense['layers'], 'mlp': {**mlp, 'experts': experts}}
  return {**dense, 'layers': blocks}
