"""The supervised loss of masked diffusion: views of half-hidden completions.

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
) -> logprobs.Views:
  """Hides each completion token with probability t, credits the hidden ones.

  L(theta) = E_t E_mask [ 1/t sum_k 1[k hidden] -log p(o_k | q, o_visible) ]

  The sum over tokens is an upper bound of -log p(o | q). t is systematic
  over the batch, (i + u) / B with one u, which lowers the variance of 1/t; and
  at least `min_ratio`, since the variance of 1/t has no bound.

  Args:
    key: consumed.
    prompt_ids: left-padded prompts, never hidden.
    prompt_mask: their real tokens.
    tokens: completions with their EOS fill, all of which is trained.
    vocab: special ids.
    min_ratio: smallest t.

  Returns:
    Views with K = 1 and all L slots; credit marks the hidden ones.

  Raises:
    ValueError: the vocabulary has no [MASK].

  References:
    Nie et al. 2025, LLaDA, eq. 5 and appendix B (arXiv:2502.09992).
  """
  rows, length = tokens.shape
  shift_key, mask_key = jax.random.split(key)
  row = jnp.arange(rows)
  t = (row + jax.random.uniform(shift_key)) / rows
  t = jnp.maximum(t, min_ratio)
  draw = lambda key: jax.random.uniform(key, (length,))
  uniform = jax.vmap(draw)(streams.row_keys(mask_key, row))
  hidden = uniform < t[:, None]
  canvas = jnp.where(hidden, vocab.need_mask(), tokens)
  slot = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)
  return logprobs.Views(
    tokens=jnp.concatenate([prompt_ids, canvas], 1)[:, None],
    attention_mask=jnp.concatenate(
      [prompt_mask, jnp.ones(tokens.shape, bool)], 1
    )[:, None],
    slot=slot[:, None],
    target=tokens[:, None],
    credit=hidden[:, None],
    weight=(1.0 / t)[:, None],
  )


def loss(
  denoiser: types.Denoiser,
  params: types.Params,
  views: logprobs.Views,
  vocab: types.Vocabulary,
  *,
  num_tokens: Float[Array, ''],
) -> Float[Array, '']:
  """Weighted negative log-likelihood a token (nats) of the hidden tokens.

  Args:
    denoiser: the model.
    params: its parameters; gradients flow through them.
    views: of `masked_views`.
    vocab: special ids.
    num_tokens: B * L of the whole batch, so that micro-batches add up.
  """
  length = views.slot.shape[-1]
  logp = logprobs.view_logp(denoiser, params, views, vocab, gen_length=length)
  return -jnp.sum(logp * views.weight[..., None]) / num_tokens
