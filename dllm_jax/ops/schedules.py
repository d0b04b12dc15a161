"""Schedules: how many tokens each denoising step commits, and when; positions.

Dims: B rows, L completion columns, S canvas columns.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


def step_quota(
  num_masks: Int[Array, ' B'],
  num_steps: Int[Array, ''],
  step: Int[Array, ' B'],
) -> Int[Array, ' B']:
  """Number of tokens to commit: floor(n / s), plus 1 if t < n mod s.

  The quotas of a block sum to n for all n and s. If s > n, the block is
  complete after n steps.

  Args:
    num_masks: n, number of masks in the block at its first step.
    num_steps: s >= 1, number of denoising steps per block.
    step: t, index of the step in the block, from 0.

  References:
    Nie et al. 2025, LLaDA, arXiv:2502.09992 (`get_num_transfer_tokens`).
  """
  return num_masks // num_steps + (step < num_masks % num_steps)


def largest_quota(num_masks: int, num_steps: int) -> int:
  """The largest value of `step_quota` over the steps of a block."""
  return -(-num_masks // num_steps)


def linear_quota(
  left: Int[Array, ' B'],
  num_steps: Int[Array, '*b'],
  step: Int[Array, ' B'],
) -> Int[Array, ' B']:
  """Dream's schedule: number of tokens to commit at a linear noise level.

  floor(n (1 - t_{i+1} / t_i)),   t_i = 1 - i (1 - 1/1000) / s;   all n at the
  last step. It is computed in integers as floor(999 n / (1000 s - 999 i)), so
  there is no rounding error. Early steps may commit no token.

  Args:
    left: n, number of masks that remain in the block.
    num_steps: s >= 1, number of denoising steps per block.
    step: i, index of the step in the block, from 0.

  References:
    Ye et al. 2025, Dream, arXiv:2508.15487 (`generation_utils.py`).
  """
  share = 999 * left // jnp.maximum(1000 * num_steps - 999 * step, 1)
  return jnp.where(step < num_steps - 1, share, left)


def largest_linear_quota(num_masks: int, num_steps: int) -> int:
  """The largest value of `linear_quota` for blocks of at most `num_masks`."""
  left, largest = np.arange(num_masks + 1), 0
  for step in range(num_steps):
    last = step == num_steps - 1
    quota = left if last else 999 * left // (1000 * num_steps - 999 * step)
    largest = max(largest, int(quota.max()))
    left = left - quota
  return largest


def first_true(mask: Bool[Array, 'B L']) -> Int[Array, ' B']:
  """Column of the first True in each row; L if there is none."""
  length = mask.shape[-1]
  return jnp.where(jnp.any(mask, -1), jnp.argmax(mask, -1), length).astype(
    jnp.int32
  )


def replay(
  tokens: Int[Array, '*B L'],
  commit_step: Int[Array, '*B L'],
  step: Int[Array, '*B'],
  mask_token: int,
) -> Int[Array, '*B L']:
  """The completion before a denoising step: where(commit_step < t, tokens, M).

  This is exact because no decoder masks a committed token again.

  Args:
    tokens: the final completions.
    commit_step: the step that committed each token.
    step: t.
    mask_token: M, the id of [MASK].
  """
  return jnp.where(commit_step < step[..., None], tokens, mask_token)


def positions(attention_mask: Bool[Array, 'B S']) -> Int[Array, 'B S']:
  """Position ids that count the real tokens of a row, from 0.

  Padding does not shift positions, whether it is on the left, on the right or
  between prompt and completion.
  """
  count = jnp.cumsum(attention_mask.astype(jnp.int32), axis=-1)
  return jnp.maximum(count - 1, 0)


def previous_real(
  attention_mask: Bool[Array, 'B S'], query: Int[Array, 'B Q']
) -> Int[Array, 'B Q']:
  """The nearest real column before each query; column 0 if there is none."""
  columns = jnp.broadcast_to(
    jnp.arange(attention_mask.shape[1])[None], attention_mask.shape
  )
  latest = jax.lax.cummax(jnp.where(attention_mask, columns, 0), axis=1)
  return jnp.take_along_axis(latest, jnp.maximum(query - 1, 0), axis=1)
