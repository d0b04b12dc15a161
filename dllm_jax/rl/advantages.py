"""Group-relative advantages, by explicit prompt id.

diffu-GRPO centres rewards on the mean of the prompt's group; AG-GRPO chooses
which rows of the group the mean is taken over. Deviations: segment means, so
that a batch holds any number of prompts in any order and any split of the two
kinds; rows whose reward is not finite count for nothing. Dims: B rows, N
prompts.

References:
  Shao et al. 2024, GRPO, arXiv:2402.03300; Kim et al. 2026, AG-GRPO, ACL.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import chex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dllm_jax.ops import masked

# Rewards that differ by no more than this are tied (float32 sums of terms).
TIE = 1e-6

BASELINES = ('shared', 'free_separate', 'guided_separate', 'separate')


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
  """How a row is compared with its group.

  Attributes:
    baseline: whose mean is subtracted. 'shared': the whole group's, for all
      rows. 'free_separate': answer-free rows use their own kind's.
      'guided_separate': answer-guided rows use their own kind's. 'separate':
      both do. (The release: default, front_, back_seperate, seperate.)
    leave_one_out: the baseline of a row leaves that row out (RLOO).
    divide_by_std: divide by the standard deviation of the group (GRPO as in
      DeepSeekMath; off in diffu-GRPO).
  """

  baseline: Literal[
    'shared', 'free_separate', 'guided_separate', 'separate'
  ] = 'shared'
  leave_one_out: bool = False
  divide_by_std: bool = False

  def __post_init__(self):
    if self.baseline not in BASELINES:
      raise ValueError(f'baseline {self.baseline!r} is not one of {BASELINES}')


class Advantages(NamedTuple):
  """Advantages, and what the group statistics were.

  Attributes:
    advantage: A of every row; 0 where the row does not count.
    tied: True for prompts whose counted rewards are all equal (std <= TIE).
    counted: rows with a finite reward.
  """

  advantage: Float[Array, ' B']
  tied: Bool[Array, ' N']
  counted: Bool[Array, ' B']


def group_advantages(
  reward: Float[Array, ' B'],
  group_id: Int[Array, ' B'],
  guided: Bool[Array, ' B'],
  *,
  num_groups: int,
  cfg: AdvantageConfig,
) -> Advantages:
  """A_i = r_i - b_i, where b_i is a mean over rows of the same prompt.

  A group whose rewards are tied gets exactly 0, and so does a row that is
  alone in its baseline.

  Args:
    reward: r; rows that are not finite are left out of every mean.
    group_id: group of each row, in [0, num_groups).
    guided: True on answer-guided rows.
    num_groups: N.
    cfg: which baseline.

  Returns:
    Advantages. With 'shared' they sum to 0 over each group.
  """
  chex.assert_equal_shape([reward, group_id, guided])
  counted = jnp.isfinite(reward)
  # Counted from the group's lowest: the sums of tied rewards are then exact,
  # and large rewards keep their differences.
  low = masked.segment_min(reward, group_id, counted, num_segments=num_groups)
  reward = jnp.where(counted, reward - low[group_id], 0.0)

  def centred(members):
    """r minus the mean of its prompt's `members`; 0 where it is alone."""
    ones = jnp.ones_like(reward)
    of_group = functools.partial(
      masked.group_sum,
      group=group_id,
      members=members,
      num_groups=num_groups,
    )
    total, count = of_group(reward), of_group(ones)
    difference = reward - total / jnp.maximum(count, 1.0)
    if cfg.leave_one_out:  # r - (S - r)/(n - 1) = n/(n - 1) (r - S/n)
      difference *= count / jnp.maximum(count - 1.0, 1.0)
    return difference

  own_kind = jnp.zeros_like(guided)
  if cfg.baseline in ('free_separate', 'separate'):
    own_kind |= ~guided
  if cfg.baseline in ('guided_separate', 'separate'):
    own_kind |= guided
  same_kind = jnp.where(
    guided, centred(counted & guided), centred(counted & ~guided)
  )
  advantage = jnp.where(own_kind, same_kind, centred(counted))
  advantage = jnp.where(counted & (jnp.abs(advantage) > TIE), advantage, 0.0)

  spread = masked.group_std(reward, group_id, counted, num_groups=num_groups)
  if cfg.divide_by_std:
    row_std = spread[group_id]
    advantage /= jnp.where(row_std > TIE, row_std, 1.0)
  return Advantages(advantage, spread <= TIE, counted)
