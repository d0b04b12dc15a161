"""How many tokens each denoising step commits, and where each row stands.

Dims: B rows, L completion columns.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


def step_quota(
  num_masks: Int[Array, ' B'],
  num_steps: Int[Array, ''],
  step: Int[Array, ' B'],
) -> Int[Array, ' B']:
  """Tokens to commit at `step` of a block: floor(n/s), one more if t < n mod s.

  The quotas of a block sum to its n masks for every n and s; with s > n the
  block is full after n steps.

  Args:
    num_masks: n, masks of the row's block when the block began.
    num_steps: s >= 1, denoising steps of a block.
    step: t, 0-based step within the block.

  References:
    Nie et al. 2025, LLaDA, arXiv:2502.09992 (`get_num_transfer_tokens`).
  """
  return num_masks // num_steps + (step < num_masks % num_steps)


def largest_quota(num_masks: int, num_steps: int) -> int:
  """The most tokens that one step of `step_quota` commits."""
  return -(-num_masks // num_steps)


def linear_quota(
  left: Int[Array, ' B'],
  num_steps: Int[Array, ''],
  step: Int[Array, ' B'],
) -> Int[Array, ' B']:
  """Dream's schedule: the share of the masks that a linear noise level drops.

  floor(n (1 - t_{i+1} / t_i)),   t_i = 1 - i (1 - 1/1000) / s;   at the last
  step all n. In whole numbers, floor(999 n / (1000 s - 999 i)), so that no
  rounding moves a token. Early steps may commit nothing.

  Args:
    left: n, masks of the row's block now.
    num_steps: s >= 1, denoising steps of a block.
    step: i, 0-based step within the block.

  References:
    Ye et al. 2025, Dream, arXiv:2508.15487 (`generation_utils.py`).
  """
  share = 999 * left // jnp.maximum(1000 * num_steps - 999 * step, 1)
  return jnp.where(step < num_steps - 1, share, left)


def largest_linear_quota(num_masks: int, num_steps: int) -> int:
  """The most tokens that a step of `linear_quota` commits in a block of up to
  `num_masks` masks."""
  left, most = np.arange(num_masks + 1), 0
  for step in range(num_steps):
    last = step == num_steps - 1
    quota = left if last else 999 * left // (1000 * num_steps - 999 * step)
    most = max(most, int(quota.max()))
    left = left - quota
  return most


def first_true(mask: Bool[Array, 'B L']) -> Int[Array, ' B']:
  """Column of the first True of every row; L where there is none."""
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
  """The completion that denoising step t of a row read: M from step t on.

  where(commit_step < t, tokens, M); valid since no decoder here remasks.
  """
  return jnp.where(commit_step < step[..., None], tokens, mask_token)


def positions(attention_mask: Bool[Array, 'B S']) -> Int[Array, 'B S']:
  """Position ids that count real tokens only, from each row's first.

  Padding, on either side or between prompt and completion, moves nothing.
  """
  count = jnp.cumsum(attention_mask.astype(jnp.int32), axis=-1)
  return jnp.maximum(count - 1, 0)
