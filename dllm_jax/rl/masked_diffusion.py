"""The supervised loss of masked diffusion: partly masked completions.

Dims: B rows, P prompt columns, L completion columns.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.ops import streams
from dllm_jax.rl import logprobs


def masked_views(
  key: Key[Array, ''],
  prompt_ids: Int[Array, 'B P'],
  prompt_mask: Bool[Array, 'B P'],
  tokens: Int[Array, 'B L'],
  vocab: types.Vocabulary,
  *,
  min_ratio: float,
  has_context: bool = False,
  learnt: Bool[Array, 'B L'] | None = None,
  mask: Bool[Array, 'B L'] | None = None,
  row_id: Int[Array, ' B'] | None = None,
  ratio: Float[Array, ' B'] | None = None,
) -> logprobs.Views:
  """Masks each completion token with probability t; credits the masked tokens.

  L(theta) = E_t E_mask [ 1/t sum_k 1[k masked] -log p(o_k | q, o_unmasked) ]

  The sum over tokens is an upper bound of -log p(o | q). t is stratified over
  the batch, t_i = (i + u) / B with one draw u, which lowers the variance of
  1/t. It is at least `min_ratio`, because the variance of 1/t is unbounded.

  For a model that is causal over blocks b, each is predicted after the clean
  blocks before it, all of them in one call of the model:

    L(theta) = E_t E_mask [ 1/t sum_b sum_{k in b} 1[k masked]
      -log p(o_k | q, o_{blocks before b}, o_unmasked of b) ]

  t is the same in all blocks of a row, as in SDAR; BD3-LMs draw one for each
  block, which has the same expectation.

  Args:
    key: random key; consumed.
    prompt_ids: left-padded prompts, which are never masked.
    prompt_mask: True for the real tokens of the prompts.
    tokens: completions, padded with EOS; the padding is trained as well, unless
      `learnt` leaves it out.
    vocab: special ids.
    min_ratio: smallest masking probability t, in (0, 1].
    has_context: whether the model is causal over blocks, so that a block is
      predicted after clean ones; otherwise after noised ones.
    learnt: True on the tokens o_k of the sum; the others are never masked, and
      are read as the prompt is. None: all.
    mask: True on real tokens, False on padding, which no token reads. None: all
      are real.
    row_id: numbers by which the rows draw. None: their places in the batch.
    ratio: t of each row. None: stratified over the batch, as above.

  Returns:
    Views with K = 1 and Q = L; `credit` is True for the masked tokens.

  Raises:
    ValueError: the vocabulary has no [MASK].

  References:
    Nie et al. 2025, LLaDA, eq. 5 and appendix B (arXiv:2502.09992).
    Arriola et al. 2025, BD3-LMs (arXiv:2503.09573).
    Cheng et al. 2025, SDAR (arXiv:2510.06303).
  """
  rows, length = tokens.shape
  shift_key, mask_key = jax.random.split(key)
  row = jnp.arange(rows)
  if ratio is None:
    ratio = (row + jax.random.uniform(shift_key)) / rows
  t = jnp.maximum(ratio, min_ratio)
  draw = lambda key: jax.random.uniform(key, (length,))
  own = row if row_id is None else row_id
  uniform = jax.vmap(draw)(streams.row_keys(mask_key, own))
  masked = uniform < t[:, None]
  if learnt is not None:
    masked &= learnt
  canvas = jnp.where(masked, vocab.need_mask(), tokens)
  clean = jnp.concatenate([prompt_ids, tokens], 1)[:, None]
  views = logprobs.one_view(
    prompt_ids, prompt_mask, canvas, tokens, masked, mask
  )
  return views._replace(
    weight=(1.0 / t)[:, None],
    context=clean if has_context else None,
  )


def loss(
  denoiser: types.Denoiser,
  params: types.Params,
  views: logprobs.Views,
  vocab: types.Vocabulary,
  *,
  num_tokens: Float[Array, ''],
) -> Float[Array, '']:
  """Weighted negative log-likelihood per token of the credited tokens, in nats.

  Args:
    denoiser: the model.
    params: parameters of the model, to differentiate.
    views: the result of `masked_views`, or `next_token.teacher_forced`.
    vocab: special ids.
    num_tokens: those of the whole batch, not of this micro-batch: the losses of
      the micro-batches then add up to that of the batch. B * L for
      `masked_views` or the number of `learnt`, the credited ones for
      `teacher_forced`.
  """
  length = views.slot.shape[-1]
  logp = logprobs.read_views(
    denoiser, params, views, vocab, gen_length=length
  ).logp
  return -jnp.sum(logp * views.weight[..., None]) / num_tokens
