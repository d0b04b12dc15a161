"""Reductions over the entries that count.

Values at masked-out entries never reach a result or a gradient, NaN and inf
included: they are replaced before the reduction, not multiplied by zero.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def total(x: Float[Array, '*n'], mask: Bool[Array, '*n']) -> Float[Array, '']:
  """Sum of x over the entries where mask is True."""
  return jnp.sum(jnp.where(mask, x, 0.0))


def mean(x: Float[Array, '*n'], mask: Bool[Array, '*n']) -> Float[Array, '']:
  """Mean of x where mask is True; 0 where nothing counts."""
  return total(x, mask) / jnp.maximum(jnp.sum(mask), 1)


def maximum(x: Float[Array, '*n'], mask: Bool[Array, '*n']) -> Float[Array, '']:
  """Largest counted x; 0 where nothing counts."""
  peak = jnp.max(jnp.where(mask, x, -jnp.inf))
  return jnp.where(jnp.any(mask), peak, 0.0)


def segment_sum(
  x: Float[Array, ' B'],
  segment: Int[Array, ' B'],
  mask: Bool[Array, ' B'],
  *,
  num_segments: int,
) -> Float[Array, ' N']:
  """Sum of the counted x of every segment."""
  return jax.ops.segment_sum(
    jnp.where(mask, x, 0.0), segment, num_segments=num_segments
  )


def segment_min(
  x: Float[Array, ' B'],
  segment: Int[Array, ' B'],
  mask: Bool[Array, ' B'],
  *,
  num_segments: int,
) -> Float[Array, ' N']:
  """Smallest counted x of every segment; 0 where nothing counts."""
  least = jax.ops.segment_min(
    jnp.where(mask, x, jnp.inf), segment, num_segments=num_segments
  )
  return jnp.where(jnp.isinf(least), 0.0, least)


def through_first(
  tokens: Int[Array, 'B L'], stop_token: int
) -> Bool[Array, 'B L']:
  """True up to and including the first `stop_token`; all True without one."""
  is_stop = (tokens == stop_token).astype(jnp.int32)
  return (jnp.cumsum(is_stop, axis=-1) - is_stop) == 0
