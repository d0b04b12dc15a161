"""CPC-GRPO: rewards from the agreement of paraphrased prompts.

A set has K prompts that ask for the same, its views, and M candidate answers. A
candidate is good if the model finds it likely under views that it was not
written for. No gold answer is involved.

Dims: N sets, K views, M candidates, L completion columns.

References:
  Kim and Kang 2026, CPC-GRPO, Findings of ACL (2026.findings-acl.1486). Its
  text could not be read: docs/methods/cpc_grpo.md says what is re-derived.
"""

from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Aggregate = Literal['mean', 'log_mean_exp', 'worst', 'probability']
AGGREGATES = get_args(Aggregate)


def scores(
  logp: Float[Array, 'N K M L'], mask: Bool[Array, 'N M L']
) -> Float[Array, 'N K M']:
  """Mean log-probability of every candidate under every view.

  S[i, m] = 1/T_m sum_{t <= T_m} log p(y_{m,t} | x_i, y_{m,<t})

  Args:
    logp: log-probability of each token of candidate m after view i (nats).
    mask: the T_m tokens of each candidate, its stop token among them.
  """
  chex.assert_equal_shape([logp[:, 0], mask])
  mask = mask[:, None]
  total = jnp.sum(jnp.where(mask, logp, 0.0), axis=-1)
  return total / jnp.maximum(jnp.sum(mask, axis=-1), 1)


def view_weights(
  source: Int[Array, ' M'], num_views: int, *, include_self: bool = False
) -> Float[Array, 'K M']:
  """w[i, m] = 1[i != s(m)]: whether view i judges candidate m.

  Args:
    source: s(m), the view that candidate m was sampled from; -1 for one that
      was sampled from all views, which all of them judge.
    num_views: K, at least 2.
    include_self: whether its own view judges a candidate, too.
  """
  own = source[None] == jnp.arange(num_views)[:, None]
  return jnp.where(own & (not include_self), 0.0, 1.0)


def rewards(
  scores: Float[Array, 'N K M'],
  weight: Float[Array, 'K M'],
  aggregate: Aggregate = 'mean',
) -> Float[Array, 'N M']:
  """R_m, how likely the views find candidate m.

    mean          sum_i w[i,m] S[i,m] / sum_i w[i,m]
    log_mean_exp  log of the weighted mean of exp S[i,m]
    worst         min over the views with w > 0
    probability   weighted mean of exp S[i,m]

  Args:
    scores: S, mean log-probabilities (nats).
    weight: w; every candidate has a view with w > 0.
    aggregate: how the views are put together.
  """
  weight = jnp.broadcast_to(weight[None], scores.shape)
  total = jnp.sum(weight, axis=1)
  judged = weight > 0
  # A score that does not count may be -inf, and 0 * -inf is NaN.
  scores = jnp.where(judged, scores, 0.0)
  if aggregate == 'mean':
    return jnp.sum(weight * scores, axis=1) / total
  if aggregate == 'log_mean_exp':
    return jax.nn.logsumexp(scores, axis=1, b=weight) - jnp.log(total)
  if aggregate == 'worst':
    return jnp.min(jnp.where(judged, scores, jnp.inf), axis=1)
  return jnp.sum(weight * jnp.exp(scores), axis=1) / total


def per_candidate(
  advantage: Float[Array, 'N M'], num_tokens: Int[Array, 'N M']
) -> Float[Array, 'N M']:
  """Advantages for which a mean over tokens is one over candidates.

    1/(N M) sum_{n,m} 1/T_m sum_t l  =  sum_{n,m,t} (T/T_m) l / (N M T)

  Args:
    advantage: A_m, relative to the set.
    num_tokens: T_m, whose mean is T; 0 leaves a candidate out.
  """
  length = num_tokens.astype(jnp.float32)
  return advantage * jnp.mean(length) / jnp.maximum(length, 1.0)


def pair_advantages(
  advantage: Float[Array, 'N M'],
  source: Int[Array, ' M'],
  num_views: int,
  *,
  cross_negative: float,
) -> Float[Array, 'N K M']:
  """Advantages of all pairs of a view and a candidate: A_m for every view.

  Deviation: on a pair whose view did not write the candidate, a negative
  advantage pushes down text that was never sampled there. It is multiplied by
  `cross_negative`; 1 is the form that the abstract suggests.

  Args:
    advantage: A_m.
    source: s(m), or -1.
    num_views: K.
    cross_negative: factor of negative advantages on cross pairs, in [0, 1].
  """
  own = source[None] == jnp.arange(num_views)[:, None]
  factor = jnp.where(own, 1.0, cross_negative)[None]
  every = jnp.broadcast_to(
    advantage[:, None], (len(advantage), num_views, len(source))
  )
  return jnp.where(every < 0, factor * every, every)


def correlation(
  x: Float[Array, 'N M'], y: Float[Array, 'N M']
) -> Float[Array, '']:
  """Pearson's correlation within sets, its mean over the sets that have one.

  Sets in which x or y is constant or not finite have none; NaN if no set has.
  """
  centre = lambda x: x - jnp.mean(x, axis=1, keepdims=True)
  x, y = centre(x), centre(y)
  norm = jnp.sqrt(jnp.sum(x * x, axis=1) * jnp.sum(y * y, axis=1))
  has = norm > 1e-12
  value = jnp.sum(x * y, axis=1) / jnp.where(has, norm, 1.0)
  total = jnp.sum(jnp.where(has, value, 0.0))
  return jnp.where(jnp.any(has), total / jnp.maximum(jnp.sum(has), 1), jnp.nan)


def agreement(
  scores: Float[Array, 'N K M'], source: Int[Array, ' M']
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """Mean score under other views, and under the own one (NaN without one)."""
  other = view_weights(source, scores.shape[1])
  mean = jnp.mean(scores, axis=0)
  over = lambda weight: jnp.sum(weight * mean) / jnp.sum(weight)
  return over(other), over(1.0 - other)


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
