"""Grouped-query attention under a per-row mask.

Dims: B rows, S columns, H query heads, K key heads, d head dim, D model.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dllm_jax.models import config, layers

# Finite, so that a row without a single key gives a finite (uniform) average.
NEGATIVE = -1e30


def visible(
  attention_mask: Bool[Array, 'B S'], *, causal: bool
) -> Bool[Array, 'B S S']:
  """Which key column each query column may read, per row."""
  size = attention_mask.shape[-1]
  allowed = jnp.broadcast_to(
    attention_mask[:, None, :], (attention_mask.shape[0], size, size)
  )
  if causal:
    allowed &= jnp.tril(jnp.ones((size, size), bool))[None]
  return allowed


class Attention(nn.Module):
  """softmax(q k^T / sqrt(d)) v with RoPE; scores and softmax in float32."""

  cfg: config.ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B S D'],
    allowed: Bool[Array, 'B S S'],
    position: Int[Array, 'B S'],
  ) -> Float[Array, 'B S D']:
    cfg = self.cfg
    rows, size, _ = x.shape

    def heads(name, count):
      y = layers.Linear(
        cfg, count * cfg.head_dim, use_bias=cfg.attention_bias, name=name
      )(x)
      return y.reshape(rows, size, count, cfg.head_dim)

    q = heads('q_proj', cfg.num_heads)
    k = heads('k_proj', cfg.num_kv_heads)
    v = heads('v_proj', cfg.num_kv_heads)
    if cfg.qk_norm:
      q = layers.RMSNorm(cfg, name='q_norm')(q)
      k = layers.RMSNorm(cfg, name='k_norm')(k)
    turn = {'theta': cfg.rope_theta, 'scaling': cfg.rope_scaling}
    q = layers.rope(q, position, **turn)
    k = layers.rope(k, position, **turn)

    mix = _fused if cfg.attention == 'cudnn' and has_cudnn() else _mix
    mixed = mix(q, k, v, allowed)
    return layers.Linear(cfg, cfg.hidden_size, name='o_proj')(
      mixed.reshape(rows, size, cfg.num_heads * cfg.head_dim)
    )


def has_cudnn() -> bool:
  """Whether JAX runs on NVIDIA GPUs."""
  return 'cuda' in jax.devices()[0].client.platform_version


def _mix(
  q: Float[Array, 'B S H d'],
  k: Float[Array, 'B S K d'],
  v: Float[Array, 'B S K d'],
  allowed: Bool[Array, 'B S S'],
) -> Float[Array, 'B S H d']:
  """By way of a table of scores."""
  rows, size, num_heads, width = q.shape
  num_kv = k.shape[2]
  shared = num_heads // num_kv  # query heads that a key head serves
  scores = jnp.einsum(
    'bqkgd,bskd->bkgqs',
    q.reshape(rows, size, num_kv, shared, width),
    k,
    preferred_element_type=jnp.float32,
  )
  scores = jnp.where(allowed[:, None, None], scores * width**-0.5, NEGATIVE)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  mixed = jnp.einsum('bkgqs,bskd->bqkgd', weights, v)
  return mixed.reshape(rows, size, num_heads, width)


def _fused(
  q: Float[Array, 'B S H d'],
  k: Float[Array, 'B S K d'],
  v: Float[Array, 'B S K d'],
  allowed: Bool[Array, 'B S S'],
) -> Float[Array, 'B S H d']:
  """The same by cuDNN, which takes an even number of columns."""
  odd = q.shape[1] % 2
  wide = ((0, 0), (0, odd), (0, 0), (0, 0))
  # The column that is added reads what the last one reads, and nobody reads it.
  allowed = jnp.pad(allowed, ((0, 0), (0, odd), (0, 0)), mode='edge')
  allowed = jnp.pad(allowed, ((0, 0), (0, 0), (0, odd)))
  mixed = jax.nn.dot_product_attention(
    *(jnp.pad(x, wide) for x in (q, k, v)),
    mask=allowed[:, None],
    implementation='cudnn',
  )
  return mixed[:, : q.shape[1]]
