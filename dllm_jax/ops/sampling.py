"""Token proposals and their confidences, in float32.

Dims: B rows, W columns of the active block, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types

LOWEST = -1e30


def allowed_logits(
  logits: Float[Array, '*n V'], vocab: types.Vocabulary
) -> Float[Array, '*n V']:
  """Float32 logits with [MASK] and ids beyond the vocabulary ruled out.

  Sampler and learner both pass through here, so that they mean the same
  distribution: a position that proposed [MASK] would never be revealed.
  """
  ids = jnp.arange(logits.shape[-1])
  allowed = ids < vocab.size
  if vocab.mask_token is not None:
    allowed &= ids != vocab.mask_token
  # Broadcast by hand: rank promotion is an error in the tests.
  allowed = jnp.broadcast_to(allowed, logits.shape)
  return jnp.where(allowed, logits.astype(jnp.float32), -jnp.inf)


def gumbel_argmax(
  keys: Key[Array, ' B'],
  logits: Float[Array, 'B W V'],
  temperature: Float[Array, ''],
) -> Int[Array, 'B W']:
  """A draw of softmax(logits / T) per position; the argmax where T = 0.

  argmax_v [ l_v + T g_v ],   g_v = -ln(-ln u_v),   u_v ~ U(0, 1)

  The log-space form of LLaDA's exp(l) / (-ln u)^T. The noise is float32 and
  belongs to a row and a column of its block, so that neither padding nor the
  other rows of a batch change it.

  Args:
    keys: one key a row; consumed.
    logits: float32; -inf rules a token out.
    temperature: T >= 0, traced. Equal logits go to the lowest id at T = 0.

  Returns:
    Token ids.

  References:
    Nie et al. 2025, LLaDA, arXiv:2502.09992 (`generate.py`).
  """

  def draw():
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    return jnp.argmax(logits + temperature * noise, axis=-1)

  # Greedy decoding does not pay for noise that it would multiply by 0.
  greedy = functools.partial(jnp.argmax, logits, axis=-1)
  return jax.lax.cond(temperature > 0, draw, greedy).astype(jnp.int32)


def nucleus(
  logits: Float[Array, '*n V'], top_p: float, temperature: Float[Array, '']
) -> Float[Array, '*n V']:
  """The logits with all but the most probable tokens ruled out (top-p).

  Keeps the fewest tokens whose probability under softmax(logits / T) reaches
  `top_p`, and the equals of the least probable among them.

  Args:
    logits: float32; -inf rules a token out.
    top_p: in (0, 1].
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
  """log softmax(logits)[tokens], nats, without a table of log-probabilities."""
  chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(logits, axis=-1)


def entropy(logits: Float[Array, '*n V']) -> Float[Array, '*n']:
  """-sum_v p_v log p_v, nats; -inf rules a token out."""
  logp = jax.nn.log_softmax(logits, axis=-1)
  # 0 * -inf is NaN, and p log p tends to 0.
  return -jnp.sum(jnp.where(logp > -jnp.inf, jnp.exp(logp) * logp, 0.0), -1)


def margin(logits: Float[Array, '*n V']) -> Float[Array, '*n']:
  """p_1 - p_2, how far the most probable token is ahead of the next."""
  best, _ = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), 2)
  return best[..., 0] - best[..., 1]


def top_quota(
  score: Float[Array, 'B W'],
  eligible: Bool[Array, 'B W'],
  quota: Int[Array, ' B'],
) -> Bool[Array, 'B W']:
  """Marks each row's `quota` best eligible columns; the leftmost of equals.

  Scores are finite or NaN; a quota of 0 or less marks nothing.
  """
  # A score that is not a number ranks last among the eligible, not after the
  # others: a step must commit something, or decoding would never end.
  ranked = jnp.where(eligible, jnp.nan_to_num(score, nan=LOWEST), -jnp.inf)
  order = jnp.argsort(-ranked, axis=-1, stable=True)
  rank = jnp.argsort(order, axis=-1, stable=True)
  return eligible & (rank < quota[:, None])
