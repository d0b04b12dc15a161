"""The keys and values of tokens that a model has read, by layer and row.

Arrays have a fixed number of slots. Slot s of a row holds the token at position
s; the first `length` slots count and the others hold anything. So writing is at
each row's own length, and rolling back is a smaller length: nothing is copied
or cleared. Dims: N layers, B rows, S slots, Q new columns, K key heads, d head
dim.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dllm_jax.models import config
from dllm_jax.ops import schedules


class KeyValues(NamedTuple):
  """Keys, after RoPE, and values; of one layer, or of a stack of layers."""

  k: Float[Array, '*N B S K d']
  v: Float[Array, '*N B S K d']


class KVCache(NamedTuple):
  """A cache of all layers; a pytree that a model takes and returns.

  Attributes:
    kv: keys and values of every layer and slot.
    length: tokens of each row, which are in its first slots.
  """

  kv: KeyValues
  length: Int[Array, ' B']


def init(cfg: config.ModelConfig, num_rows: int, num_slots: int) -> KVCache:
  """An empty cache.

  Args:
    cfg: of what one device computes.
    num_rows: B.
    num_slots: S, the most tokens that a row will ever have.
  """
  shape = (
    cfg.num_layers,
    num_rows,
    num_slots,
    cfg.num_kv_heads,
    cfg.head_dim,
  )
  zeros = lambda: jnp.zeros(shape, cfg.dtype)
  return KVCache(KeyValues(zeros(), zeros()), jnp.zeros(num_rows, jnp.int32))


def slots(
  cache: KVCache,
) -> tuple[Int[Array, 'B S'], Bool[Array, 'B S']]:
  """The position of each slot, and whether it holds a token."""
  _, rows, size = cache.kv.k.shape[:3]
  position = jnp.broadcast_to(jnp.arange(size)[None], (rows, size))
  return position, position < cache.length[:, None]


def append(cache: KVCache, new: KeyValues, mask: Bool[Array, 'B Q']) -> KVCache:
  """The cache with the real columns of `new` after those of each row.

  Columns beyond the last slot are dropped: the caller sees to it that there
  are none.

  Args:
    cache: before.
    new: keys and values of Q columns, of all layers.
    mask: True on columns that hold a real token; the others are not written.
  """
  num_slots = cache.kv.k.shape[2]
  place = cache.length[:, None] + schedules.positions(mask)
  place = jnp.where(mask, place, num_slots)
  row = jnp.arange(mask.shape[0])[:, None]

  def put(old, new):
    return old.at[:, row, place].set(new.astype(old.dtype), mode='drop')

  length = cache.length + jnp.sum(mask, axis=1, dtype=jnp.int32)
  return KVCache(jax.tree.map(put, cache.kv, new), length)


def take(cache: KVCache, rows: Int[Array, ' b']) -> KVCache:
  """A cache of some rows, which may repeat."""
  return KVCache(
    jax.tree.map(lambda leaf: leaf[:, rows], cache.kv), cache.length[rows]
  )


def truncate(cache: KVCache, length: Int[Array, ' B']) -> KVCache:
  """The cache as it was when each row had at most `length` tokens."""
  return cache._replace(length=jnp.minimum(cache.length, length))
