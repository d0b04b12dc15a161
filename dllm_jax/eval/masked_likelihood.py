"""Log-likelihoods of masked diffusion models: a bound, or of one order.

Dims: B rows, P prompt columns, L continuation columns, K samples, Q columns
whose logits are wanted.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types, validation
from dllm_jax.decoding import guidance
from dllm_jax.ops import sampling

LEAST_RATIO = 1e-3  # of 'bernoulli', whose weight 1 / t is unbounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """What stands for the likelihood of a masked diffusion model.

  Attributes:
    masking: 'count' and 'bernoulli' are lower bounds, `bound`: the first masks
      l of n tokens, l uniform, the second each with probability t, t uniform.
      'left_to_right' is exact for the order from left to right,
      `left_to_right`.
    num_samples: K, masked canvases of a pair; not read by 'left_to_right'.
    cfg_scale: scale of the guidance (`decoding.guidance`); None for none.
  """

  masking: str = 'count'
  num_samples: int = 128
  cfg_scale: float | None = None

  def __post_init__(self):
    validation.choices(self, masking=('count', 'bernoulli', 'left_to_right'))
    validation.positive(self, 'num_samples')
    if self.cfg_scale is not None:
      validation.finite_not_negative(self, 'cfg_scale')


class Pairs(NamedTuple):
  """Padded pairs of a prompt x and a continuation y.

  Attributes:
    prompt_ids: x, padded on the left.
    prompt_mask: True on real tokens of x.
    tokens: y, padded on the right.
    mask: True on real tokens of y.
  """

  prompt_ids: Int[Array | np.ndarray, 'B P']
  prompt_mask: Bool[Array | np.ndarray, 'B P']
  tokens: Int[Array | np.ndarray, 'B L']
  mask: Bool[Array | np.ndarray, 'B L']


class Scores(NamedTuple):
  """What a model makes of continuations.

  Attributes:
    logp: log p(y | x), or its bound (nats).
    is_greedy: whether every token is the most probable one where it is
      predicted, from left to right; None of a bound, which has no order.
  """

  logp: Float[Array | np.ndarray, ' B']
  is_greedy: Bool[Array | np.ndarray, ' B'] | None = None


@functools.partial(jax.jit, static_argnames=('denoiser', 'vocab', 'estimate'))
def score(
  denoiser: types.Denoiser,
  params: types.Params,
  row_keys: Key[Array, ' B'],
  pairs: Pairs,
  *,
  vocab: types.Vocabulary,
  estimate: Estimate,
) -> Scores:
  """What stands for the likelihood of a masked diffusion model.

  Args:
    denoiser: the model.
    params: its parameters.
    row_keys: one key a row; consumed.
    pairs: x and y.
    vocab: special ids.
    estimate: which, and its samples.
  """
  params = types.unstacked(denoiser, params)
  denoiser, params = guidance.guided(
    denoiser,
    params,
    estimate.cfg_scale,
    gen_length=pairs.tokens.shape[1],
    vocab=vocab,
  )
  if estimate.masking == 'left_to_right':
    return left_to_right(denoiser, params, pairs, vocab=vocab)
  logp = bound(
    denoiser, params, row_keys, pairs, vocab=vocab, estimate=estimate
  )
  return Scores(logp)


def bound(
  denoiser: types.Denoiser,
  params: types.Params,
  row_keys: Key[Array, ' B'],
  pairs: Pairs,
  *,
  vocab: types.Vocabulary,
  estimate: Estimate,
) -> Float[Array, ' B']:
  """Estimate of the lower bound of a masked diffusion model's likelihood.

  log p(y | x) >= E_{l ~ U{1..n}} (n / l) E_{S : |S| = l} sum_{k in S}
    log p(y_k | x, y with S masked)

  where n is the length of y; or, of 'bernoulli', with S of each token with
  probability t ~ U(0, 1), and 1 / t for n / l. The K values of l, or of t, of a
  row are stratified, which leaves the estimate unbiased. Of a model that is
  causal over blocks, y_k is predicted after the clean blocks before its own,
  which is a bound as well: the masks of a block are those of a random order of
  its tokens.

  Args:
    denoiser: the model, guided if it is to be.
    params: its parameters.
    row_keys: one key a row; consumed.
    pairs: x and y.
    vocab: special ids.
    estimate: K, and how to mask.

  References:
    Nie et al. 2025, LLaDA, eq. 14 (arXiv:2502.09992).
  """
  tokens, mask = pairs.tokens, pairs.mask
  first = jax.vmap(jax.random.uniform)(row_keys)
  columns = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)

  def one(k):
    hidden, size, count = hide(row_keys, first, mask, k, estimate)
    canvas = jnp.where(hidden, vocab.mask_token, tokens)
    logits = _logits(denoiser, params, pairs, canvas, columns, vocab)
    logp = sampling.token_logp(logits, tokens)
    total = jnp.sum(jnp.where(hidden, logp, 0.0), axis=1)
    return total * size / count

  samples = jnp.arange(estimate.num_samples)
  return jnp.mean(jax.lax.map(one, samples), axis=0)


def hide(
  row_keys: Key[Array, ' B'],
  first: Float[Array, ' B'],
  mask: Bool[Array, 'B L'],
  k: Int[Array, ''],
  estimate: Estimate,
) -> tuple[Bool[Array, 'B L'], Array, Array]:
  """Which tokens canvas k masks; n, and l or t n, of every row.

  Args:
    row_keys: one key a row.
    first: a draw from U(0, 1) of every row, which its canvases share.
    mask: True on real tokens of y.
    k: which canvas.
    estimate: K, and how to mask.
  """
  size = jnp.sum(mask, axis=1)
  keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, k)
  share = (first + k / estimate.num_samples) % 1.0
  draw = jax.vmap(lambda key: jax.random.uniform(key, mask.shape[1:]))(keys)
  if estimate.masking == 'bernoulli':
    ratio = LEAST_RATIO + (1 - LEAST_RATIO) * share
    hidden, count = mask & (draw < ratio[:, None]), ratio * size
  else:
    count = jnp.minimum(1 + jnp.floor(share * size).astype(jnp.int32), size)
    rank = jnp.argsort(jnp.argsort(jnp.where(mask, draw, 2.0), axis=1), axis=1)
    hidden = rank < count[:, None]
  return hidden, size, jnp.where(size > 0, count, 1)


def left_to_right(
  denoiser: types.Denoiser,
  params: types.Params,
  pairs: Pairs,
  *,
  vocab: types.Vocabulary,
) -> Scores:
  """sum_k log p(y_k | x, y_<k, the tokens from k on masked).

  The probability with which the model unmasks y from left to right, one token a
  step: exact for that order, at n calls of the model.

  Args:
    denoiser: the model, guided if it is to be.
    params: its parameters.
    pairs: x and y.
    vocab: special ids.
  """
  tokens, mask = pairs.tokens, pairs.mask
  columns = jnp.arange(tokens.shape[1])

  def add(k, scores):
    hidden = mask & jnp.broadcast_to((columns >= k)[None], mask.shape)
    canvas = jnp.where(hidden, vocab.mask_token, tokens)
    at = jnp.full((len(tokens), 1), k)
    logits = _logits(denoiser, params, pairs, canvas, at, vocab)[:, 0]
    token, counts = (
      jnp.take_along_axis(x, at, axis=1)[:, 0] for x in (tokens, mask)
    )
    logp = sampling.token_logp(logits, token)
    is_best = jnp.argmax(logits, axis=-1) == token
    return Scores(
      scores.logp + jnp.where(counts, logp, 0.0),
      scores.is_greedy & (is_best | ~counts),
    )

  start = Scores(jnp.zeros(len(tokens)), jnp.ones(len(tokens), bool))
  return jax.lax.fori_loop(0, jnp.max(jnp.sum(mask, axis=1)), add, start)


def _logits(
  denoiser: types.Denoiser,
  params: types.Params,
  pairs: Pairs,
  canvas: Int[Array, 'B L'],
  columns: Int[Array, 'B Q'],
  vocab: types.Vocabulary,
) -> Float[Array, 'B Q V']:
  """Logits of columns of the continuation, after the prompt and the canvas."""
  attention_mask = jnp.concatenate([pairs.prompt_mask, pairs.mask], axis=1)
  columns = pairs.prompt_ids.shape[1] + columns
  row = jnp.concatenate([pairs.prompt_ids, canvas], axis=1)
  if types.block_causal(denoiser):
    clean = jnp.concatenate([pairs.prompt_ids, pairs.tokens], axis=1)
    states = denoiser.two_stream_states(
      params, clean, row, attention_mask, columns
    )
    logits = denoiser.unembed(params, states)
  else:
    logits = denoiser(params, row, attention_mask, columns)
  return sampling.allowed_logits(logits, vocab)
