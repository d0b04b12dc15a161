"""Masked reductions, over all entries or by group.

Masks are True for the entries to include. Excluded values never reach a result
or a gradient, even if they are NaN or inf: they are replaced before the
reduction, not multiplied by zero.

Dims: B rows, N segments or groups.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def total(x: Float[Array, '*n'], mask: Bool[Array, '*n']) -> Float[Array, '']:
  """Sum of x over the mask."""
  return jnp.sum(jnp.where(mask, x, 0.0))


def maximum(x: Float[Array, '*n'], mask: Bool[Array, '*n']) -> Float[Array, '']:
  """Maximum of x over the mask; 0 if the mask is empty."""
  peak = jnp.max(jnp.where(mask, x, -jnp.inf))
  return jnp.where(jnp.any(mask), peak, 0.0)


def segment_sum(
  x: Float[Array, ' B'],
  segment: Int[Array, ' B'],
  mask: Bool[Array, ' B'],
  *,
  num_segments: int,
) -> Float[Array, ' N']:
  """Sum of x over the mask, for each segment."""
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
  """Minimum of x over the mask, for each segment; 0 if the mask is empty."""
  smallest = jax.ops.segment_min(
    jnp.where(mask, x, jnp.inf), segment, num_segments=num_segments
  )
  return jnp.where(jnp.isinf(smallest), 0.0, smallest)


def group_sum(
  x: Float[Array, ' B'],
  group: Int[Array, ' B'],
  members: Bool[Array, ' B'],
  *,
  num_groups: int,
) -> Float[Array, ' B']:
  """Sum of x over the members of a row's group, for each row."""
  return segment_sum(x, group, members, num_segments=num_groups)[group]


def group_std(
  x: Float[Array, ' B'],
  group: Int[Array, ' B'],
  members: Bool[Array, ' B'],
  *,
  num_groups: int,
) -> Float[Array, ' N']:
  """Sample standard deviation (n - 1) of x over the members of each group.

  0 for a group of fewer than two members.
  """
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
