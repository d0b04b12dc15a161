"""TA-GRPO-d's token advantages: which paths are good, and when a token came.

A row's path is judged by the area under the curve of its intermediate rewards
(AUC), compared within its group (z); a token is weighted by how much of the
completion was still masked when it was committed (w). Deviations: the horizon
of the AUC is the group's, not the batch's (D17); tied AUCs give z = 0 (D7); the
published multiplier, which can flip signs and whose mean over a group is not 0,
is one form of four (D10). Dims: B rows, L completion columns, N prompts.

References:
  Kim and Kang 2026, TA-GRPO-d, ACL (2026.acl-long.1723).
"""

import dataclasses
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dllm_jax.ops import masked

FORMS = ('published', 'clamped', 'recentred', 'additive')
# AUCs whose spread is below this share of their size are tied: float32 sums.
RELATIVE_TIE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class CreditConfig:
  """How a path shapes the advantages of its tokens.

  Attributes:
    delta: strength of the shaping; 0 is none.
    form: one of `FORMS`, see `token_advantages`.
    use_auc: False sets z = 1, so that time alone weighs.
    use_time: False sets w = 1, so that all tokens of a row are alike.
    max_multiplier: c >= 1 of 'clamped' and 'recentred'.
    max_step_scores: intermediate texts of a row that are scored; 0 is all.
  """

  delta: float
  form: Literal['published', 'clamped', 'recentred', 'additive'] = 'clamped'
  use_auc: bool = True
  use_time: bool = True
  max_multiplier: float = 2.0
  max_step_scores: int = 0

  def __post_init__(self):
    if self.form not in FORMS:
      raise ValueError(f'form {self.form!r} is not one of {FORMS}')
    if self.delta < 0 or self.max_multiplier < 1 or self.max_step_scores < 0:
      raise ValueError(
        f'delta {self.delta} and max_step_scores {self.max_step_scores} must '
        f'not be negative, max_multiplier {self.max_multiplier} not below 1'
      )
    if self.form == 'additive' and not self.use_auc:
      raise ValueError("form 'additive' adds the AUC: use_auc must be True")

  @property
  def wants_steps(self) -> bool:
    """Whether intermediate rewards are needed at all."""
    return self.delta > 0 and self.use_auc


def unmask_weight(commit_step: Int[Array, 'B L']) -> Float[Array, 'B L']:
  """w_k = #{k' : c_k' > c_k} / L, the share that was masked after k's step.

  0 for the tokens that came last, below 1 for all. What no step committed (EOS
  after an early exit) was masked to the end.

  Args:
    commit_step: c, step that committed each token.
  """
  length = commit_step.shape[1]
  ranked = jnp.sort(commit_step, axis=1)
  until = jax.vmap(lambda r, c: jnp.searchsorted(r, c, side='right'))(
    ranked, commit_step
  )
  return (length - until) / jnp.float32(length)


def group_auc(
  total: Float[Array, ' B'],
  final: Float[Array, ' B'],
  num_steps: Int[Array, ' B'],
  group_id: Int[Array, ' B'],
  *,
  num_groups: int,
) -> Float[Array, ' B']:
  """AUC_i = sum_{t <= T_i} R_i^(t) + (max_j T_j - T_i) R_i^(T_i).

  The curve of a row that ended early goes on at its last value to the end of
  the group's longest row.

  Args:
    total: sum of the row's own intermediate rewards.
    final: the last of them.
    num_steps: T.
    group_id: group of each row, in [0, num_groups).
    num_groups: N.
  """
  # Rows whose reward is not finite count for nothing.
  steps = jnp.where(jnp.isfinite(total + final), num_steps, 0)
  longest = jax.ops.segment_max(steps, group_id, num_segments=num_groups)
  return total + (longest[group_id] - num_steps) * final


def group_z(
  x: Float[Array, ' B'], group_id: Int[Array, ' B'], *, num_groups: int
) -> Float[Array, ' B']:
  """z_i = (x_i - mean) / std over the group, std of n - 1; 0 where tied.

  |z| <= (n - 1) / sqrt(n), and z sums to 0 over a group. Rows that are not
  finite count for nothing and get 0.
  """
  counted = jnp.isfinite(x)
  # From the group's lowest: differences of large sums stay exact.
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
  """The advantage of every token, by `cfg.form`; d = delta, c = max_multiplier.

    published   A_i (1 + d z_i w_ik)
    clamped     A_i clip(1 + d z_i w_ik, 0, c)
    recentred   the clamped, minus its mean over the counted tokens of the group
    additive    A_i + d z_i w_ik

  A and z are correlated, so that the mean of A z w over a group is positive:
  the first two forms push every early token up, whatever it is. Added instead
  of multiplied, z sums to 0 over a group; what is left of the mean comes from
  rows of few steps having a higher z and a lower w (docs/results.md has the
  measured means). The additive form also acts on groups whose final rewards
  are tied.

  Args:
    advantage: A; 0 in tied groups and where a row does not count.
    z: of `group_z`.
    weight: w of `unmask_weight`.
    mask: tokens that count.
    group_id: group of each row, in [0, num_groups).
    num_groups: N.
    cfg: the form.
  """
  chex.assert_equal_shape([weight, mask])
  z = z if cfg.use_auc else jnp.ones_like(z)
  weight = weight if cfg.use_time else jnp.ones_like(weight)
  shift = cfg.delta * z[:, None] * weight
  flat = jnp.broadcast_to(advantage[:, None], weight.shape)
  if cfg.form == 'additive':
    return jnp.where(mask, flat + shift, 0.0)
  multiplier = 1.0 + shift
  if cfg.form != 'published':
    multiplier = jnp.clip(multiplier, 0.0, cfg.max_multiplier)
  shaped = flat * multiplier
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
  """Share of the counted tokens whose shaped advantage has the other sign."""
  flipped = shaped * advantage[:, None] < 0
  return masked.total(flipped.astype(jnp.float32), mask) / jnp.maximum(
    jnp.sum(mask), 1
  )
