"""Trajectory-aware token advantages, as in TA-GRPO-d.

A denoising trajectory is scored by the area under the curve of its intermediate
rewards (AUC), normalised within its group (z). A token is weighted by the share
of the completion that was still masked when it was committed (w). Deviations:
the horizon of the AUC is that of the group, not of the batch (D17); tied AUCs
have z = 0 (D7); the published multiplier, which can flip signs and whose mean
over a group is not 0, is one of four forms (D10).

Dims: B rows, L completion columns, N groups.

References:
  Kim and Kang 2026, TA-GRPO-d, ACL (2026.acl-long.1723).
"""

import dataclasses
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dllm_jax import validation
from dllm_jax.ops import masked

Form = Literal['published', 'clamped', 'recentred', 'additive']
# AUCs with a smaller relative deviation are tied: they are float32 sums.
RELATIVE_TIE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class CreditConfig:
  """How a trajectory shapes the advantages of its tokens.

  Attributes:
    delta: strength of the shaping, >= 0; 0 disables it.
    form: see `token_advantages`.
    use_auc: False sets z = 1: only the time of a token matters.
    use_time: False sets w = 1: all tokens of a row are treated alike.
    max_multiplier: c >= 1, the upper limit of 'clamped' and 'recentred'.
    max_step_scores: maximum number of intermediate texts to score per row; 0
      scores all.
  """

  delta: float
  form: Form = 'clamped'
  use_auc: bool = True
  use_time: bool = True
  max_multiplier: float = 2.0
  max_step_scores: int = 0

  def __post_init__(self):
    validation.choices(self, 'form')
    if self.delta < 0 or self.max_multiplier < 1 or self.max_step_scores < 0:
      raise ValueError(
        'expected delta >= 0, max_step_scores >= 0 and max_multiplier >= 1, '
        f'got {self.delta}, {self.max_step_scores} and {self.max_multiplier}'
      )
    if self.form == 'additive' and not self.use_auc:
      raise ValueError("form 'additive' needs use_auc=True")

  @property
  def wants_steps(self) -> bool:
    """Whether intermediate rewards are needed."""
    return self.delta > 0 and self.use_auc


def unmask_weight(commit_step: Int[Array, 'B L']) -> Float[Array, 'B L']:
  """w_k = #{k' : c_k' > c_k} / L, the share still masked after step c_k.

  w is 0 for the tokens that are committed last, and below 1 for all. Tokens
  that no step committed (EOS after an early exit) count as masked to the end.

  Args:
    commit_step: c, the step that committed each token.
  """
  length = commit_step.shape[1]
  ranked = jnp.sort(commit_step, axis=1)
  num_committed = jax.vmap(lambda r, c: jnp.searchsorted(r, c, side='right'))(
    ranked, commit_step
  )
  return (length - num_committed) / jnp.float32(length)


def group_auc(
  total: Float[Array, ' B'],
  final: Float[Array, ' B'],
  num_steps: Int[Array, ' B'],
  group_id: Int[Array, ' B'],
  *,
  num_groups: int,
) -> Float[Array, ' B']:
  """AUC_i = sum_{t <= T_i} R_i^(t) + (max_j T_j - T_i) R_i^(T_i).

  The curve of a row that ends early is extended by its last value, to the
  length of the longest row in its group.

  Args:
    total: sum of the intermediate rewards R of each row.
    final: the last reward of each row.
    num_steps: T, number of denoising steps of each row.
    group_id: the group of each row, in [0, num_groups).
    num_groups: N.
  """
  # Rows whose reward is not finite are ignored.
  steps = jnp.where(jnp.isfinite(total + final), num_steps, 0)
  longest = jax.ops.segment_max(steps, group_id, num_segments=num_groups)
  return total + (longest[group_id] - num_steps) * final


def group_z(
  x: Float[Array, ' B'], group_id: Int[Array, ' B'], *, num_groups: int
) -> Float[Array, ' B']:
  """z_i = (x_i - mean) / std over the group; 0 in a group of equal values.

  std is the sample standard deviation (n - 1), so |z| <= (n - 1) / sqrt(n), and
  z sums to 0 over a group. Values that are not finite are ignored and get 0.

  Args:
    x: a value per row, such as its AUC.
    group_id: the group of each row, in [0, num_groups).
    num_groups: N.
  """
  counted = jnp.isfinite(x)
  # Subtract the minimum of the group: differences of large sums stay exact.
  low = masked.segment_min(x, group_id, counted, num_segments=num_groups)
  x = jnp.where(counted, x - low[group_id], 0.0)
  sums = lambda v: masked.group_sum(v, group_id, counted, num_groups=num_groups)
  mean = sums(x) / jnp.maximum(sums(jnp.ones_like(x)), 1.0)
  std = masked.group_std(x, group_id, counted, num_groups=num_groups)
  tied = std <= RELATIVE_TIE * jnp.maximum(jnp.abs(low), 1.0)
  row_tied, row_std = tied[group_id], std[group_id]
  z = (x - mean) / (jnp.where(row_tied, 1.0, row_std) + 1e-8)
  return jnp.where(counted & ~row_tied, z, 0.0)


def token_advantages(
  advantage: Float[Array, ' B'],
  z: Float[Array, ' B'],
  weight: Float[Array, 'B L'],
  mask: Bool[Array, 'B L'],
  group_id: Int[Array, ' B'],
  *,
  num_groups: int,
  cfg: CreditConfig,
) -> Float[Array, 'B L']:
  """The advantage of each token, with d = delta and c = max_multiplier.

    published   A_i (1 + d z_i w_ik)
    clamped     A_i clip(1 + d z_i w_ik, 0, c)
    recentred   clamped, minus its mean over the trained tokens of the group
    additive    A_i + d z_i w_ik

  A and z are correlated, so the mean of A z w over a group is positive: the
  first two forms increase the probability of every early token, right or wrong.
  The additive form avoids this, because z sums to 0 over a group. Its remaining
  mean comes from rows of few steps, which have a higher z and a lower w
  (docs/results.md has the measured means). It also acts on groups whose final
  rewards are tied.

  Args:
    advantage: A of each row; 0 in tied groups and for ignored rows.
    z: z of each row, from `group_z`.
    weight: w of each token, from `unmask_weight`.
    mask: tokens that are trained.
    group_id: the group of each row, in [0, num_groups).
    num_groups: N.
    cfg: the form and its constants.

  Returns:
    Token advantages; 0 outside the mask.
  """
  chex.assert_equal_shape([weight, mask])
  z = z if cfg.use_auc else jnp.ones_like(z)
  weight = weight if cfg.use_time else jnp.ones_like(weight)
  shift = cfg.delta * z[:, None] * weight
  base = jnp.broadcast_to(advantage[:, None], weight.shape)
  if cfg.form == 'additive':
    return jnp.where(mask, base + shift, 0.0)
  multiplier = 1.0 + shift
  if cfg.form != 'published':
    multiplier = jnp.clip(multiplier, 0.0, cfg.max_multiplier)
  shaped = base * multiplier
  if cfg.form == 'recentred':
    rows = jnp.ones(advantage.shape, bool)
    sums = lambda v: masked.group_sum(
      jnp.sum(jnp.where(mask, v, 0.0), axis=1),
      group_id,
      rows,
      num_groups=num_groups,
    )
    mean = sums(shaped) / jnp.maximum(sums(jnp.ones_like(shaped)), 1.0)
    shaped -= mean[:, None]
  return jnp.where(mask, shaped, 0.0)


def flipped_fraction(
  shaped: Float[Array, 'B L'],
  advantage: Float[Array, ' B'],
  mask: Bool[Array, 'B L'],
) -> Float[Array, '']:
  """Share of the trained tokens whose advantage changed its sign.

  Args:
    shaped: token advantages, from `token_advantages`.
    advantage: A of each row.
    mask: tokens that are trained.
  """
  flipped = shaped * advantage[:, None] < 0
  return masked.total(flipped.astype(jnp.float32), mask) / jnp.maximum(
    jnp.sum(mask), 1
  )
