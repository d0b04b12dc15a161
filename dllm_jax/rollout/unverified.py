"""Reward functions without a verifier.

Dims: M candidates of a set, B rows, L completion columns.
"""

import functools

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax.ops import streams
from dllm_jax.rl import consensus, intrinsic
from dllm_jax.rollout import context, score
from dllm_jax.runtime import process_rows, sharding


def given(ctx: context.Context, reward: Float[Array, ' B']) -> score.Reward:
  """Rewards that were computed before; the verifier is run for metrics alone.

  Args:
    ctx: the run.
    reward: of every row of the batch.
  """
  whole = _replicate(sharding.replicated(ctx.mesh))(reward)
  values = process_rows.fetch(whole)
  verdicts = score.task_reward(ctx)

  def judge(samples):
    own = process_rows.share(ctx.mesh, len(values))
    return verdicts(samples)._replace(reward=values[own])

  return judge


def majority(
  ctx: context.Context, num_rows: int, group_size: int
) -> score.Reward:
  """1 for the most frequent answer of a set, which the verifier reads.

  Args:
    ctx: the run.
    num_rows: B; the rows of a set are neighbours.
    group_size: M.
  """
  verdicts = score.task_reward(ctx)

  def judge(samples):
    scored = verdicts(samples)
    own = process_rows.share(ctx.mesh, num_rows)
    digests = score.answer_digests(scored.parsed)
    # A set may span processes.
    everyone = process_rows.gather(digests, own, num_rows).tolist()
    voted = [
      intrinsic.majority([a or None for a in everyone[i : i + group_size]])
      for i in range(0, num_rows, group_size)
    ]
    reward = np.concatenate(voted).astype(np.float32)
    return scored._replace(reward=reward[own])

  return judge


@functools.cache
def _replicate(whole: jax.sharding.NamedSharding):
  return jax.jit(lambda x: x, out_shardings=whole)


@jax.jit
def random(key: Key[Array, ''], row_id: Int[Array, ' B']) -> Float[Array, ' B']:
  """Uniform draws, one a row; `key` is consumed."""
  return jax.vmap(jax.random.uniform)(streams.row_keys(key, row_id))


@jax.jit
def token_mean(
  x: Float[Array, 'B L'], mask: Bool[Array, 'B L']
) -> Float[Array, ' B']:
  """The mean over the tokens of each row."""
  return consensus.scores(x[None, None], mask[None])[0, 0]
