"""Rewards that no verifier gives, and what shows whether they are any good.

Dims: N sets, K views, M candidates of a set, B rows, L completion columns.
"""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.ops import masked, streams
from dllm_jax.rl import consensus, intrinsic
from dllm_jax.rollout import context, score
from dllm_jax.runtime import process_rows, sharding


def given(ctx: context.Context, reward: Float[Array, ' B']) -> score.Reward:
  """The reward function of known rewards; the verifier is for metrics alone.

  Args:
    ctx: the run.
    reward: of every row of the batch.
  """
  whole = _replicate(sharding.replicated(ctx.mesh))(reward)
  values = process_rows.fetch(whole)
  verdicts = score.task_reward(ctx, score.RewardConfig(weights=()))

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
  verdicts = score.task_reward(ctx, score.RewardConfig(weights=()))

  def judge(samples):
    scored = verdicts(samples)
    own = process_rows.share(ctx.mesh, num_rows)
    digests = np.array([_digest(a) for a in scored.parsed], np.int64)
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


def _digest(answer: str | float | None) -> int:
  """A number for each answer; 0 for none."""
  if answer is None:
    return 0
  digest = hashlib.blake2b(repr(answer).encode(), digest_size=8).digest()
  return int.from_bytes(digest, signed=True)


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


def pair_scores(
  logp: Float[Array, 'B L'], mask: Bool[Array, 'B L'], shape: tuple[int, int]
) -> Float[Array, 'N K M']:
  """S of `paraphrase.all_pairs`.

  Args:
    logp: log-probability of each token (nats).
    mask: tokens of the completions.
    shape: (K, M).
  """
  by_pair = lambda x: x.reshape(-1, *shape, x.shape[1])
  return consensus.scores(by_pair(logp), by_pair(mask)[:, 0])


@functools.partial(jax.jit, static_argnames=('num_views',))
def agreement(
  pairs: types.RolloutBatch, source: Int[Array, ' M'], num_views: int
) -> dict[str, Float[Array, '']]:
  """Mean scores of candidates under their own view and under the others."""
  shape = (num_views, len(source))
  scores = pair_scores(pairs.sampler_logp, pairs.completion_mask, shape)
  weight = consensus.view_weights(source, num_views)
  cross = jnp.sum(weight * jnp.mean(scores, axis=0)) / jnp.sum(weight)
  own = jnp.sum((1 - weight) * jnp.mean(scores, axis=0)) / jnp.sum(1 - weight)
  return {'consensus/agreement': cross, 'consensus/own': own}


@functools.partial(jax.jit, static_argnames=('num_sets',))
def course(
  rows: types.RolloutBatch,
  correct: Float[Array, ' B'],
  reference: Float[Array, 'B L'] | None,
  *,
  num_sets: int,
) -> dict[str, Float[Array, '']]:
  """What a collapse of the candidates would show in.

  Args:
    rows: rewarded candidates after their own views.
    correct: 1, 0 or NaN; for metrics alone.
    reference: log-probability of each token under the reference policy (nats).
    num_sets: N.
  """
  by_set = lambda x: x.reshape(num_sets, -1, *x.shape[1:])
  mask = rows.completion_mask
  metrics = diversity(by_set(rows.tokens), by_set(jnp.sum(mask, axis=1)))
  # The advantage is linear in the reward within a set.
  metrics['correlation'] = consensus.correlation(
    by_set(rows.advantage[:, 0]), by_set(correct)
  )
  if reference is not None:
    kl = masked.total(rows.sampler_logp - reference, mask)
    metrics['kl'] = kl / jnp.maximum(jnp.sum(mask), 1)
  return {f'consensus/{name}': value for name, value in metrics.items()}


def diversity(
  tokens: Int[Array, 'N M L'], length: Int[Array, 'N M']
) -> dict[str, Array]:
  """How various candidates are: a bland text agrees with everything.

  Args:
    tokens: candidates of N sets.
    length: tokens of each, up to and including its stop token.

  Returns:
    'distinct': share of the candidates of a set that differ from those before
    them. 'repeated': share of the pairs of neighbouring tokens that occurred
    before in the same candidate.
  """
  size = tokens.shape[-1]
  is_text = jnp.arange(size)[None, None] < length[..., None]
  text = jnp.where(is_text, tokens, -1)
  equal = jnp.all(text[:, :, None] == text[:, None], axis=-1)
  is_first = jnp.argmax(equal, axis=-1) == jnp.arange(text.shape[1])[None]
  distinct = {'distinct': jnp.mean(is_first)}
  if size < 2:
    return distinct
  pairs = jnp.stack([text[..., :-1], text[..., 1:]], axis=-1)
  same = jnp.all(pairs[..., :, None, :] == pairs[..., None, :, :], axis=-1)
  before = jnp.tril(jnp.ones(same.shape, bool), -1)
  seen = jnp.any(same & before, axis=-1) & is_text[..., 1:]
  share = jnp.sum(seen) / jnp.maximum(jnp.sum(is_text[..., 1:]), 1)
  return distinct | {'repeated': share}
