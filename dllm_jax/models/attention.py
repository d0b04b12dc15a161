"""Grouped-query attention under a per-row mask.

Dims: B rows, Q query columns, S cached columns, T = S + Q key columns, H query
heads, K key heads, d head dim, D model.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dllm_jax.models import cache, config, layers

# Finite, so that a row without a single key gives a finite (uniform) average.
NEGATIVE = -1e30


def visible(
  query_position: Int[Array, 'B Q'],
  key_position: Int[Array, 'B T'],
  key_mask: Bool[Array, 'B T'],
  *,
  block: int,
) -> Bool[Array, 'B Q T']:
  """Which keys each query may read, per row.

  A query at position i reads a key at position j if i // n >= j // n: those of
  its own block of n positions, and of the blocks before it.

  Args:
    query_position: position of each query in its sequence.
    key_position: position of each key in the same sequence.
    key_mask: True on keys that hold a real token.
    block: n; 1 is causal. 0: a query reads every key.
  """
  allowed = jnp.broadcast_to(
    key_mask[:, None, :], (*query_position.shape, key_mask.shape[1])
  )
  if block:
    key_block, query_block = key_position // block, query_position // block
    allowed &= key_block[:, None, :] <= query_block[:, :, None]
  return allowed


def visible_to_streams(
  position: Int[Array, 'B S'], mask: Bool[Array, 'B S'], *, block: int
) -> Bool[Array, 'B R R']:
  """The mask of a row that is read twice: clean, and then noised; R = 2 S.

  Clean columns read the clean ones of their own block and of those before it;
  noised columns read the noised ones of their own block, and the clean ones of
  the blocks before it.

  Args:
    position: position of each column of the row, the same in both streams.
    mask: True on columns that hold a real token.
    block: tokens of a block.

  References:
    Arriola et al. 2025, BD3-LMs (arXiv:2503.09573).
  """
  number = position // block
  query, key = number[:, :, None], number[:, None, :]
  clean = jnp.concatenate([key <= query, jnp.zeros_like(key == query)], axis=2)
  noised = jnp.concatenate([key < query, key == query], axis=2)
  is_real = jnp.concatenate([mask, mask], axis=1)
  return jnp.concatenate([clean, noised], axis=1) & is_real[:, None, :]


class Attention(nn.Module):
  """softmax(q k^T / sqrt(d)) v; scores and softmax in float32.

  Queries and keys turn with their positions (RoPE), unless the model has a
  table of positions.
  """

  cfg: config.ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B Q D'],
    allowed: Bool[Array, 'B Q T'],
    position: Int[Array, 'B Q'],
    past: cache.KeyValues | None = None,
  ) -> tuple[Float[Array, 'B Q D'], cache.KeyValues]:
    """The output, and the keys and values of the columns of `x`.

    Args:
      x: states that queries, and keys and values of the same columns, are made
        of.
      allowed: which keys each query reads: those of `past`, then those of `x`.
      position: of the columns of `x`.
      past: keys and values of earlier columns of the rows.
    """
    cfg = self.cfg
    rows, size, _ = x.shape

    def heads(name, count, norm=None):
      y = layers.Linear(
        cfg, count * cfg.head_dim, use_bias=cfg.attention_bias, name=name
      )(x)
      if norm and cfg.qk_norm_joint:
        y = layers.RMSNorm(cfg, name=norm)(y)
      return y.reshape(rows, size, count, cfg.head_dim)

    q = heads('q_proj', cfg.num_heads, 'q_norm')
    k = heads('k_proj', cfg.num_kv_heads, 'k_norm')
    v = heads('v_proj', cfg.num_kv_heads)
    if cfg.qk_norm:
      q = layers.RMSNorm(cfg, name='q_norm')(q)
      k = layers.RMSNorm(cfg, name='k_norm')(k)
    if not cfg.max_positions:
      turn = {'theta': cfg.rope_theta, 'scaling': cfg.rope_scaling}
      q = layers.rope(q, position, **turn)
      k = layers.rope(k, position, **turn)

    new = cache.KeyValues(k, v)
    if past is None and cfg.attention == 'cudnn' and has_cudnn():
      mixed = _fused(q, k, v, allowed)
    else:
      mixed = _mix(q, [new] if past is None else [past, new], allowed)
    project = layers.Linear(
      cfg, cfg.hidden_size, use_bias=cfg.output_bias, name='o_proj'
    )
    mixed = mixed.reshape(rows, size, cfg.num_heads * cfg.head_dim)
    return project(mixed), new


def has_cudnn() -> bool:
  """Whether JAX runs on NVIDIA GPUs."""
  return 'cuda' in jax.devices()[0].client.platform_version


def _mix(
  q: Float[Array, 'B Q H d'],
  parts: list[cache.KeyValues],
  allowed: Bool[Array, 'B Q T'],
) -> Float[Array, 'B Q H d']:
  """Through a table of scores.

  Keys that lie in several arrays are never copied into one; their scores are.
  """
  rows, size, num_heads, width = q.shape
  num_kv = parts[0].k.shape[2]
  shared = num_heads // num_kv  # query heads that a key head serves
  q = q.reshape(rows, size, num_kv, shared, width)
  # Axes are in the order of the products below: else XLA for CPU would
  # transpose the table of scores too, the largest array with many queries.
  q = jnp.transpose(q, (0, 2, 3, 1, 4))
  by_head = lambda x: jnp.swapaxes(x, 1, 2)
  scores = [
    jnp.einsum(
      'bkgqd,bksd->bkgqs', q, by_head(k), preferred_element_type=jnp.float32
    )
    for k, _ in parts
  ]
  scores = scores[0] if len(scores) == 1 else jnp.concatenate(scores, -1)
  scores = jnp.where(allowed[:, None, None], scores * width**-0.5, NEGATIVE)
  weights = jax.nn.softmax(scores, axis=-1).astype(parts[0].v.dtype)
  mixed, start = None, 0
  for _, v in parts:
    stop = start + v.shape[1]
    own = weights if len(parts) == 1 else weights[..., start:stop]
    part = jnp.einsum('bkgqs,bksd->bkgqd', own, by_head(v))
    mixed, start = part if mixed is None else mixed + part, stop
  mixed = jnp.transpose(mixed, (0, 3, 1, 2, 4))
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
  # The added column reads what the last one reads; no column reads it.
  allowed = jnp.pad(allowed, ((0, 0), (0, odd), (0, 0)), mode='edge')
  allowed = jnp.pad(allowed, ((0, 0), (0, 0), (0, odd)))
  mixed = jax.nn.dot_product_attention(
    *(jnp.pad(x, wide) for x in (q, k, v)),
    mask=allowed[:, None],
    implementation='cudnn',
  )
  return mixed[:, : q.shape[1]]
