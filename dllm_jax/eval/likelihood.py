"""Log-likelihoods of continuations, in nats.

Dims: B rows, P prompt columns, L continuation columns, K samples.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

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
CHUNK = 64  # columns whose logits are computed at a time


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
  advance: Callable[[int], None] | None = None,
) -> list[float]:
  """log p(continuation | prompt) of every (prompt, continuation) pair.

  Args:
    denoiser: the model; a causal one is a `types.CausalLM`.
    params: its parameters.
    pairs: ids.
    vocab: special ids; a model without [MASK] is causal, and the value exact.
    mesh: device mesh; `data` and `fsdp` split the pairs of a batch.
    num_samples: K, masked canvases of a pair of a masked diffusion model.
    seed: seed of the masks; a pair's depend on its place.
    batch_size: pairs scored together, rounded up to a multiple of the row
      shards of the mesh.
    advance: called after each batch with its number of pairs.
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
    tokens = np.full((len(chunk), _width(after)), vocab.eos_token, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, ids in enumerate(after):
      tokens[i, : len(ids)], mask[i, : len(ids)] = ids, True
    row_id, *answers = process_rows.place(
      (start + own, tokens[own], mask[own]), mesh, num_rows
    )
    pad = lambda rows: prompts.pad_left(rows, _width(rows), vocab.eos_token)[:2]
    if vocab.mask_token is None:
      different, prompt_of = _different(before, shards)
      mine = process_rows.share(mesh, len(different))
      padded = [x[mine] for x in pad(different)]
      prompt = process_rows.place(padded, mesh, len(different))
      own_prompt = process_rows.place(prompt_of[own], mesh, num_rows)
      scored = exact(
        denoiser, params, Pairs(*prompt, *answers), own_prompt, vocab=vocab
      )
    else:
      own_prompts = [x[own] for x in pad(before)]
      prompt = process_rows.place(own_prompts, mesh, num_rows)
      scored = bound(
        denoiser,
        params,
        streams.row_keys(key, row_id),
        Pairs(*prompt, *answers),
        vocab=vocab,
        num_samples=num_samples,
      )
    scored = process_rows.fetch(scored)[: len(own)]
    values += process_rows.gather(scored, own, len(chunk)).tolist()
    if advance is not None:
      advance(len(chunk))
  return values


def _different(
  rows: Sequence[Sequence[int]], shards: int
) -> tuple[list[tuple[int, ...]], Int[np.ndarray, ' B']]:
  """The different rows, and which of them each row is.

  The last of them is repeated, up to one of few numbers: each is compiled.
  """
  place = {row: i for i, row in enumerate(dict.fromkeys(map(tuple, rows)))}
  different, count = list(place), shards
  while count < len(different):
    count *= 2
  different += different[-1:] * (count - len(different))
  return different, np.array([place[tuple(row)] for row in rows], np.int32)


def _width(sequences: Sequence[Sequence[int]]) -> int:
  return -(-max(map(len, sequences)) // WIDTH) * WIDTH


@functools.partial(
  jax.jit, static_argnames=('denoiser', 'vocab', 'num_samples')
)
def bound(
  denoiser: types.Denoiser,
  params: types.Params,
  row_keys: Key[Array, ' B'],
  pairs: Pairs,
  *,
  vocab: types.Vocabulary,
  num_samples: int,
) -> Float[Array, ' B']:
  """Estimate of the lower bound of a masked diffusion model's likelihood.

  log p(y | x) >= E_{l ~ U{1..n}} (n / l) E_{S : |S| = l} sum_{k in S}
    log p(y_k | x, y with S masked)

  where n is the length of y. The K values of l of a row are stratified, which
  leaves the estimate unbiased. Of a model that is causal over blocks, y_k is
  predicted after the clean blocks before its own, which is a bound as well: the
  masks of a block are those of a random order of its tokens.

  Args:
    denoiser: the model.
    params: its parameters.
    row_keys: one key a row; consumed.
    pairs: x and y.
    vocab: special ids.
    num_samples: K.

  References:
    Nie et al. 2025, LLaDA, eq. 14 (arXiv:2502.09992).
  """
  tokens, mask = pairs.tokens, pairs.mask
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
    logp = _token_logp(denoiser, params, pairs, canvas, vocab)
    total = jnp.sum(jnp.where(hidden, logp, 0.0), axis=1)
    return total * size / jnp.maximum(count, 1)

  return jnp.mean(jax.lax.map(one, jnp.arange(num_samples)), axis=0)


@functools.partial(jax.jit, static_argnames=('lm', 'vocab'))
def exact(
  lm: types.CausalLM,
  params: types.Params,
  pairs: Pairs,
  prompt_of: Int[Array, ' B'],
  *,
  vocab: types.Vocabulary,
) -> Float[Array, ' B']:
  """sum_k log p(y_k | x, y_<k) of a causal model.

  A prompt that several continuations share is read once. Of a
  `types.LayeredLM`, the logits of `CHUNK` columns are in memory at a time.

  Args:
    lm: the model.
    params: its parameters.
    pairs: the prompts, of which there may be fewer than continuations; and the
      continuations.
    prompt_of: row of the prompt of each continuation.
    vocab: special ids.
  """
  length, size = pairs.tokens.shape[1], pairs.prompt_ids.shape[1]
  cache = lm.init_cache(pairs.prompt_ids.shape[0], size - 1 + length)
  if size > 1:  # The last token is read with y, for the logits of y_0.
    _, cache = lm.prefill(
      params, pairs.prompt_ids[:, :-1], pairs.prompt_mask[:, :-1], cache
    )
  cache = lm.take(cache, prompt_of)
  last = pairs.prompt_ids[prompt_of, -1:]
  new = jnp.concatenate([last, pairs.tokens[:, :-1]], axis=1)
  is_new = jnp.concatenate([jnp.ones_like(last, bool), pairs.mask[:, :-1]], 1)

  def score(logits, tokens):
    return sampling.token_logp(sampling.allowed_logits(logits, vocab), tokens)

  if length > CHUNK and isinstance(lm, types.LayeredLM):
    states = lm.embed(params, new)
    states = lm.run_layers(params, states, is_new, cache, 0, lm.num_layers)
    at = jnp.arange(-(-length // CHUNK) * CHUNK).reshape(-1, CHUNK)
    at = jnp.minimum(at, length - 1)
    logp = jax.lax.map(
      lambda at: score(lm.read_out(params, states[:, at]), pairs.tokens[:, at]),
      at,
    )
    logp = jnp.moveaxis(logp, 0, 1).reshape(len(prompt_of), -1)[:, :length]
  else:
    logits, _ = lm.extend(params, new, is_new, cache)
    logp = score(logits, pairs.tokens)
  return jnp.sum(jnp.where(pairs.mask, logp, 0.0), axis=1)


def _token_logp(
  denoiser: types.Denoiser,
  params: types.Params,
  pairs: Pairs,
  canvas: Int[Array, 'B L'],
  vocab: types.Vocabulary,
) -> Float[Array, 'B L']:
  """log p(y_k | prompt, canvas) of every column of the continuation."""
  attention_mask = jnp.concatenate([pairs.prompt_mask, pairs.mask], axis=1)
  columns = pairs.prompt_ids.shape[1] + jnp.arange(canvas.shape[1])
  columns = jnp.broadcast_to(columns[None], canvas.shape)
  row = jnp.concatenate([pairs.prompt_ids, canvas], axis=1)
  if types.block_causal(denoiser):
    clean = jnp.concatenate([pairs.prompt_ids, pairs.tokens], axis=1)
    states = denoiser.two_stream_states(
      params, clean, row, attention_mask, columns
    )
    logits = denoiser.unembed(params, states)
  else:
    logits = denoiser(params, row, attention_mask, columns)
  return sampling.token_logp(
    sampling.allowed_logits(logits, vocab), pairs.tokens
  )
