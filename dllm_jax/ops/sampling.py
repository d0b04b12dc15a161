"""Sampling of tokens and measures of confidence, in float32.

A token with logit -inf is excluded: its probability is 0.

Dims: B rows, W columns of the active block, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types

LOWEST = -1e30  # below every score, above -inf


def allowed_logits(
  logits: Float[Array, '*n V'], vocab: types.Vocabulary
) -> Float[Array, '*n V']:
  """Excludes [MASK] and padding of the vocabulary; returns float32 logits.

  A position that sampled [MASK] would never be unmasked. Sampler and learner
  both use this function, so that they have the same distribution.

  Args:
    logits: of any float type.
    vocab: the size of the vocabulary and the id of [MASK].
  """
  ids = jnp.arange(logits.shape[-1])
  allowed = ids < vocab.size
  if vocab.mask_token is not None:
    allowed &= ids != vocab.mask_token
  # Explicit broadcast: implicit rank promotion is an error in the tests.
  allowed = jnp.broadcast_to(allowed, logits.shape)
  return jnp.where(allowed, logits.astype(jnp.float32), -jnp.inf)


def best(
  logits: Float[Array, '*n V'], vocab: types.Vocabulary
) -> Int[Array, '*n']:
  """The most probable allowed token, int32; ties take the lowest id."""
  return jnp.argmax(allowed_logits(logits, vocab), axis=-1).astype(jnp.int32)


def gumbel_argmax(
  keys: Key[Array, ' B'],
  logits: Float[Array, 'B W V'],
  temperature: Float[Array, ''],
) -> Int[Array, 'B W']:
  """Samples from softmax(logits / T) at each position; the argmax if T = 0.

  argmax_v [ l_v + T g_v ],   g_v = -ln(-ln u_v),   u_v ~ U(0, 1)

  This is LLaDA's exp(l) / (-ln u)^T in log space. The float32 noise depends on
  the row and its column in the block alone: padding and the other rows of the
  batch do not change it.

  Args:
    keys: one random key per row; the keys are consumed.
    logits: float32 logits.
    temperature: T >= 0, traced. At T = 0, ties take the lowest id.

  Returns:
    Token ids, int32.

  References:
    Nie et al. 2025, LLaDA, arXiv:2502.09992 (`generate.py`).
  """

  def draw():
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    return jnp.argmax(logits + temperature * noise, axis=-1)

  # Greedy decoding skips the noise, which would be multiplied by 0.
  greedy = functools.partial(jnp.argmax, logits, axis=-1)
  return jax.lax.cond(temperature > 0, draw, greedy).astype(jnp.int32)


def top_k(logits: Float[Array, '*n V'], k: int) -> Float[Array, '*n V']:
  """Excludes all tokens except for the k most probable ones, and their ties."""
  k = min(k, logits.shape[-1])
  least = jax.lax.top_k(logits, k)[0][..., -1:]
  return jnp.where(logits >= least, logits, -jnp.inf)


def nucleus(
  logits: Float[Array, '*n V'], top_p: float, temperature: Float[Array, '']
) -> Float[Array, '*n V']:
  """Excludes all tokens except for the most probable ones (top-p).

  Keeps the smallest set of tokens whose total probability under
  softmax(logits / T) reaches `top_p`, and all that tie with the least probable
  of them.

  Args:
    logits: float32 logits.
    top_p: total probability to keep, in (0, 1].
    temperature: T > 0, traced.

  References:
    Holtzman et al. 2020, arXiv:1904.09751.
  """
  probs = jax.nn.softmax(logits / temperature, axis=-1)
  ranked = -jnp.sort(-probs, axis=-1)
  before = jnp.cumsum(ranked, axis=-1) - ranked
  least = jnp.min(
    jnp.where(before < top_p, ranked, jnp.inf), axis=-1, keepdims=True
  )
  return jnp.where(probs >= least, logits, -jnp.inf)


def token_logp(
  logits: Float[Array, '*n V'], tokens: Int[Array, '*n']
) -> Float[Array, '*n']:
  """log softmax(logits)[tokens] in nats, without the full log_softmax."""
  chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(logits, axis=-1)


def entropy(logits: Float[Array, '*n V']) -> Float[Array, '*n']:
  """-sum_v p_v log p_v in nats."""
  logp = jax.nn.log_softmax(logits, axis=-1)
  # p log p tends to 0 with p, but 0 * -inf is NaN.
  return -jnp.sum(jnp.where(logp > -jnp.inf, jnp.exp(logp) * logp, 0.0), -1)


def margin(logits: Float[Array, '*n V']) -> Float[Array, '*n']:
  """p_1 - p_2, the difference of the two largest probabilities."""
  largest, _ = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), 2)
  return largest[..., 0] - largest[..., 1]


def top_quota(
  score: Float[Array, 'B W'],
  eligible: Bool[Array, 'B W'],
  quota: Int[Array, ' B'],
) -> Bool[Array, 'B W']:
  """Selects the eligible columns with the highest scores in each row.

  Args:
    score: finite or NaN; ties take the leftmost column.
    eligible: columns that may be selected.
    quota: number of columns to select per row; none if <= 0.
  """
  # NaN ranks below all eligible scores but above ineligible columns: a step
  # must commit a token, or decoding would never end.
  ranked = jnp.where(eligible, jnp.nan_to_num(score, nan=LOWEST), -jnp.inf)
  order = jnp.argsort(-ranked, axis=-1, stable=True)
  rank = jnp.argsort(order, axis=-1, stable=True)
  return eligible & (rank < quota[:, None])
