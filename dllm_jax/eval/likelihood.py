"""Log-likelihoods of continuations, in nats.

Dims: B rows, P prompt columns, L continuation columns.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from dllm_jax import errors, types
from dllm_jax.eval import masked_likelihood
from dllm_jax.eval.masked_likelihood import Pairs, Scores
from dllm_jax.ops import sampling, streams
from dllm_jax.rollout import prompts, sharded
from dllm_jax.runtime import process_rows, sharding

WIDTH = 32  # columns are padded to a multiple, so that few shapes are compiled
CHUNK = 64  # columns whose logits are computed at a time


def score(
  denoiser: types.Denoiser,
  params: types.Params,
  pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
  *,
  vocab: types.Vocabulary,
  mesh: Mesh,
  estimate: masked_likelihood.Estimate,
  seed: int,
  batch_size: int,
  row_ids: Sequence[int] | None = None,
  advance: Callable[[int], None] | None = None,
) -> Scores:
  """log p(continuation | prompt) of every (prompt, continuation) pair.

  Args:
    denoiser: the model; a causal one is a `types.CausalLM`.
    params: its parameters.
    pairs: ids.
    vocab: special ids; a model without [MASK] is causal, and the value exact.
    mesh: device mesh; `data` and `fsdp` split the pairs of a batch.
    estimate: of a masked diffusion model; not read for a causal one.
    seed: seed of the masks; a pair's depend on its row id.
    batch_size: pairs scored together, rounded up to a multiple of the row
      shards of the mesh.
    row_ids: of each pair; None is its place.
    advance: called after each batch with its number of pairs.

  Raises:
    errors.UserError: the model is causal over blocks, and guidance is wanted.
  """
  if not pairs:
    return Scores(np.zeros(0, np.float32))
  if estimate.cfg_scale is not None and types.block_causal(denoiser):
    raise errors.UserError(
      'the likelihood of a model that is causal over blocks has no guidance: '
      'leave cfg_scale out'
    )
  key = streams.step_key(jax.random.key(seed), 'eval', 0)
  denoiser = sharded.placed(denoiser, mesh)
  shards = sharding.num_row_shards(mesh)
  num_rows = -(-min(batch_size, len(pairs)) // shards) * shards
  ids = np.arange(len(pairs)) if row_ids is None else np.array(row_ids)
  parts = []
  for start in range(0, len(pairs), num_rows):
    chunk = pairs[start : start + num_rows]
    own = process_rows.share(mesh, len(chunk), num_rows)
    before, after = zip(*chunk, strict=True)
    tokens = np.full((len(chunk), _width(after)), vocab.eos_token, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, row in enumerate(after):
      tokens[i, : len(row)], mask[i, : len(row)] = row, True
    row_id, *answers = process_rows.place(
      (ids[start + own].astype(np.int32), tokens[own], mask[own]),
      mesh,
      num_rows,
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
      scored = masked_likelihood.score(
        denoiser,
        params,
        streams.row_keys(key, row_id),
        Pairs(*prompt, *answers),
        vocab=vocab,
        estimate=estimate,
      )
    fetched = process_rows.fetch(scored)
    fetched = jax.tree.map(lambda x: x[: len(own)], fetched)  # noqa: B023
    parts.append(process_rows.gather(fetched, own, len(chunk)))
    if advance is not None:
      advance(len(chunk))
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


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


@functools.partial(jax.jit, static_argnames=('lm', 'vocab'))
def exact(
  lm: types.CausalLM,
  params: types.Params,
  pairs: Pairs,
  prompt_of: Int[Array, ' B'],
  *,
  vocab: types.Vocabulary,
) -> Scores:
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

  def judge(logits, tokens):
    logits = sampling.allowed_logits(logits, vocab)
    is_best = jnp.argmax(logits, axis=-1) == tokens
    return sampling.token_logp(logits, tokens), is_best

  if length > CHUNK and isinstance(lm, types.LayeredLM):
    states = lm.embed(params, new)
    states = lm.run_layers(params, states, is_new, cache, 0, lm.num_layers)
    at = jnp.arange(-(-length // CHUNK) * CHUNK).reshape(-1, CHUNK)
    at = jnp.minimum(at, length - 1)
    judged = jax.lax.map(
      lambda at: judge(lm.read_out(params, states[:, at]), pairs.tokens[:, at]),
      at,
    )
    logp, is_best = (
      jnp.moveaxis(x, 0, 1).reshape(len(prompt_of), -1)[:, :length]
      for x in judged
    )
  else:
    logits, _ = lm.extend(params, new, is_new, cache)
    logp, is_best = judge(logits, pairs.tokens)
  return Scores(
    jnp.sum(jnp.where(pairs.mask, logp, 0.0), axis=1),
    jnp.all(is_best | ~pairs.mask, axis=1),
  )
