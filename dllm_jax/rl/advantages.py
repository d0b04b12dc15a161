"""Group-relative advantages.

diffu-GRPO subtracts the mean reward of the group; AG-GRPO chooses which rows of
the group the mean is taken over. Deviations: groups are given by an id, so a
batch may contain any number of groups in any order and any mix of answer-free
and answer-guided rows; rows whose reward is not finite are ignored.

Dims: B rows, N groups.

References:
  Shao et al. 2024, GRPO, arXiv:2402.03300; Kim et al. 2026, AG-GRPO, ACL.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import chex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dllm_jax import validation
from dllm_jax.ops import masked

# Rewards with a smaller difference are tied: they are float32 sums of terms.
TIE = 1e-6

Baseline = Literal['shared', 'free_separate', 'guided_separate', 'separate']


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
  """How a row is compared with its group.

  Attributes:
    baseline: the rows whose mean is subtracted. 'shared': all rows of the
      group. 'free_separate': answer-free rows are compared with answer-free
      rows alone. 'guided_separate': answer-guided rows are compared with
      answer-guided rows alone. 'separate': both. (The released code calls them
      default, front_, back_seperate and seperate.)
    leave_one_out: whether the baseline of a row excludes the row itself (RLOO).
    divide_by_std: whether to divide by the standard deviation of the group, as
      GRPO does in DeepSeekMath; diffu-GRPO does not.
    min_std: smallest divisor, in units of the reward: where rewards are
      continuous, a group with nearly equal ones would be as loud as any other.
  """

  baseline: Baseline = 'shared'
  leave_one_out: bool = False
  divide_by_std: bool = False
  min_std: float = 0.0

  def __post_init__(self):
    validation.finite_not_negative(self, 'min_std')
    validation.choices(self, 'baseline')


class Advantages(NamedTuple):
  """Advantages, and the groups and rows without a comparison.

  Attributes:
    advantage: A of each row; 0 if its reward is not finite.
    tied: groups whose finite rewards are all equal (std <= TIE).
    counted: rows whose reward is finite.
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
  """A_i = r_i - b_i, where b_i is a mean over rows of the same group.

  The advantage is exactly 0 in a group whose rewards are tied, and for a row
  that is the only one in its baseline.

  Args:
    reward: r of each row; values that are not finite are excluded.
    group_id: the group of each row, in [0, num_groups).
    guided: True for answer-guided rows.
    num_groups: N.
    cfg: the baseline and the normalisation.

  Returns:
    Advantages. With the 'shared' baseline they sum to 0 in each group.
  """
  chex.assert_equal_shape([reward, group_id, guided])
  counted = jnp.isfinite(reward)
  # Subtract the minimum of the group: the sums of tied rewards are then exact,
  # and large rewards keep their differences.
  low = masked.segment_min(reward, group_id, counted, num_segments=num_groups)
  reward = jnp.where(counted, reward - low[group_id], 0.0)

  def centred(members):
    """r minus the mean over the `members` of its group; 0 if it is the only."""
    ones = jnp.ones_like(reward)
    group_sum = functools.partial(
      masked.group_sum,
      group=group_id,
      members=members,
      num_groups=num_groups,
    )
    total, count = group_sum(reward), group_sum(ones)
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
    row_std = jnp.where(row_std > TIE, row_std, 1.0)
    advantage /= jnp.maximum(row_std, cfg.min_std)
  return Advantages(advantage, spread <= TIE, counted)
