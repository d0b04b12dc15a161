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


def group_sum(
  x: Float[Array, ' B'],
  group: Int[Array, ' B'],
  members: Bool[Array, ' B'],
  *,
  num_groups: int,
) -> Float[Array, ' B']:
  """For every row, the sum of x over the members of its group."""
  return segment_sum(x, group, members, num_segments=num_groups)[group]


def group_std(
  x: Float[Array, ' B'],
  group: Int[Array, ' B'],
  members: Bool[Array, ' B'],
  *,
  num_groups: int,
) -> Float[Array, ' N']:
  """Standard deviation (n - 1) of the members of every group; 0 for one."""
  ones = jnp.ones_like(x)
  count = group_sum(ones, group, members, num_groups=num_groups)
  total = group_sum(x, group, members, num_groups=num_groups)
  squares = segment_sum(
    (x - total / jnp.maximum(count, 1.0)) ** 2,
    group,
    members,
    num_segments=num_groups,
  )
  size = segment_sum(ones, group, members, num_segments=num_groups)
  return jnp.sqrt(squares / jnp.maximum(size - 1.0, 1.0))
