"""Log-likelihoods of continuations, in nats.

Dims: B rows, P prompt columns, L continuation columns, K samples.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.ops import sampling, streams
from dllm_jax.rollout import prompts, sharded
from dllm_jax.runtime import process_rows, sharding

WIDTH = 32  # columns are padded to a multiple, so that few shapes are compiled


def loglikelihood(
  denoiser: types.Denoiser,
  params: types.Params,
  pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
  *,
  vocab: types.Vocabulary,
  mesh: Mesh,
  num_samples: int,
  seed: int,
  batch_size: int,
) -> list[float]:
  """log p(continuation | prompt) of every (prompt, continuation) pair.

  Args:
    denoiser: the model; a causal one has shifted logits.
    params: its parameters.
    pairs: ids.
    vocab: special ids; a model without [MASK] is causal, and the value exact.
    mesh: device mesh; `data` and `fsdp` split the pairs of a batch.
    num_samples: K, masked canvases of a pair of a masked diffusion model.
    seed: seed of the masks; a pair's depend on its place.
    batch_size: pairs scored together, rounded up to a multiple of the row
      shards of the mesh.
  """
  if not pairs:
    return []
  key = streams.step_key(jax.random.key(seed), 'eval', 0)
  denoiser = sharded.placed(denoiser, mesh)
  shards = sharding.num_row_shards(mesh)
  num_rows = -(-min(batch_size, len(pairs)) // shards) * shards
  values = []
  for start in range(0, len(pairs), num_rows):
    chunk = pairs[start : start + num_rows]
    own = process_rows.share(mesh, len(chunk), num_rows)
    before, after = zip(*chunk, strict=True)
    prompt = prompts.pad_left(before, _width(before), vocab.eos_token)
    tokens = np.full((len(chunk), _width(after)), vocab.eos_token, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, ids in enumerate(after):
      tokens[i, : len(ids)], mask[i, : len(ids)] = ids, True
    batch = (prompt.ids, prompt.mask, tokens, mask)
    row_id, *rows = process_rows.place(
      (start + own, *(x[own] for x in batch)), mesh, num_rows
    )
    row_keys = streams.row_keys(key, row_id)
    if vocab.mask_token is None:
      scored = exact(denoiser, params, *rows, vocab=vocab)
    else:
      scored = bound(
        denoiser, params, row_keys, *rows, vocab=vocab, num_samples=num_samples
      )
    scored = process_rows.fetch(scored)[: len(own)]
    values += process_rows.gather(scored, own, len(chunk)).tolist()
  return values


def _width(sequences: Sequence[Sequence[int]]) -> int:
  return -(-max(map(len, sequences)) // WIDTH) * WIDTH


@functools.partial(
  jax.jit, static_argnames=('denoiser', 'vocab', 'num_samples')
)
def bound(
  denoiser: types.Denoiser,
  params: types.Params,
  row_keys: Key[Array, ' B'],
  prompt_ids: Int[Array, 'B P'],
  prompt_mask: Bool[Array, 'B P'],
  tokens: Int[Array, 'B L'],
  mask: Bool[Array, 'B L'],
  *,
  vocab: types.Vocabulary,
  num_samples: int,
) -> Float[Array, ' B']:
  """Estimate of the lower bound of a masked diffusion model's likelihood.

  log p(y | x) >= E_{l ~ U{1..n}} (n / l) E_{S : |S| = l} sum_{k in S}
    log p(y_k | x, y with S masked)

  where n is the length of y. The K values of l of a row are stratified, which
  leaves the estimate unbiased.

  Args:
    denoiser: the model.
    params: its parameters.
    row_keys: one key a row; consumed.
    prompt_ids: x, padded on the left.
    prompt_mask: True on real prompt tokens.
    tokens: y, padded on the right.
    mask: True on real tokens of y.
    vocab: special ids.
    num_samples: K.

  References:
    Nie et al. 2025, LLaDA, eq. 14 (arXiv:2502.09992).
  """
  size = jnp.sum(mask, axis=1)
  first = jax.vmap(jax.random.uniform)(row_keys)

  def one(k):
    keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, k)
    share = (first + k / num_samples) % 1.0
    count = jnp.minimum(1 + jnp.floor(share * size).astype(jnp.int32), size)
    draw = jax.vmap(lambda key: jax.random.uniform(key, tokens.shape[1:]))(keys)
    rank = jnp.argsort(jnp.argsort(jnp.where(mask, draw, 2.0), axis=1), axis=1)
    hidden = rank < count[:, None]
    canvas = jnp.where(hidden, vocab.mask_token, tokens)
    logp = _token_logp(
      denoiser, params, prompt_ids, prompt_mask, canvas, tokens, mask, vocab
    )
    total = jnp.sum(jnp.where(hidden, logp, 0.0), axis=1)
    return total * size / jnp.maximum(count, 1)

  return jnp.mean(jax.lax.map(one, jnp.arange(num_samples)), axis=0)


@functools.partial(jax.jit, static_argnames=('denoiser', 'vocab'))
def exact(
  denoiser: types.Denoiser,
  params: types.Params,
  prompt_ids: Int[Array, 'B P'],
  prompt_mask: Bool[Array, 'B P'],
  tokens: Int[Array, 'B L'],
  mask: Bool[Array, 'B L'],
  *,
  vocab: types.Vocabulary,
) -> Float[Array, ' B']:
  """sum_k log p(y_k | x, y_<k) of a causal model; arguments as in `bound`.

  A prompt without tokens gives the first token of y no context to be read
  from; such rows need a BOS.
  """
  logp = _token_logp(
    denoiser, params, prompt_ids, prompt_mask, tokens, tokens, mask, vocab
  )
  return jnp.sum(jnp.where(mask, logp, 0.0), axis=1)


def _token_logp(
  denoiser: types.Denoiser,
  params: types.Params,
  prompt_ids: Int[Array, 'B P'],
  prompt_mask: Bool[Array, 'B P'],
  canvas: Int[Array, 'B L'],
  tokens: Int[Array, 'B L'],
  mask: Bool[Array, 'B L'],
  vocab: types.Vocabulary,
) -> Float[Array, 'B L']:
  """log p(y_k | prompt, canvas) of every column of the continuation."""
  attention_mask = jnp.concatenate([prompt_mask, mask], axis=1)
  columns = prompt_ids.shape[1] + jnp.arange(tokens.shape[1])
  logits = denoiser(
    params,
    jnp.concatenate([prompt_ids, canvas], axis=1),
    attention_mask,
    jnp.broadcast_to(columns[None], tokens.shape),
  )
  return sampling.token_logp(sampling.allowed_logits(logits, vocab), tokens)
