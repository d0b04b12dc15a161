"""Completions of given prompts, row by row, as a user reads them.

Rows are decoded in batches, in their order. A row's completion depends on its
prompt, its place among the prompts and the seed, and on nothing else. Dims: B
rows, P prompt columns, L completion columns.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dllm_jax import types
from dllm_jax.ops import streams
from dllm_jax.rollout import answer_free, prompts
from dllm_jax.runtime import process_rows, sharding
from dllm_jax.text import tokenizer as tokenizer_lib

# Prompts are padded to a multiple of this, so that few shapes are compiled.
WIDTH = 32


class Completion(NamedTuple):
  """One completion.

  Attributes:
    prompt_ids: prompt tokens.
    completion_ids: the L completion tokens.
    text: their text up to the first stop token; None without a tokenizer.
    commit_step: 0-based step that committed each token.
    num_steps: denoiser calls of the row.
    logp: log-probability of each token when it was committed (nats).
  """

  prompt_ids: list[int]
  completion_ids: list[int]
  text: str | None
  commit_step: list[int]
  num_steps: int
  logp: list[float]


def complete(
  denoiser: types.Denoiser,
  params: types.Params,
  rows: Sequence[Sequence[int]],
  decoder: types.Decoder,
  *,
  vocab: types.Vocabulary,
  tokenizer: tokenizer_lib.Tokenizer | None,
  mesh: Mesh,
  seed: int,
  batch_size: int,
) -> Iterator[Completion]:
  """Decodes prompts, and yields their completions in order.

  Args:
    denoiser: the model.
    params: its parameters.
    rows: prompt ids.
    decoder: how to decode.
    vocab: special ids.
    tokenizer: writes the texts; None leaves them out.
    mesh: `data` and `fsdp` split the rows of a batch.
    seed: seed of the draws.
    batch_size: rows decoded together, rounded up to the shards of the mesh.
  """
  # As `eval.accuracy` draws, so that the same rows are decoded alike.
  key = streams.step_key(jax.random.key(seed), 'eval', 0)
  shards = sharding.num_row_shards(mesh)
  num_rows = -(-min(batch_size, len(rows)) // shards) * shards
  for start in range(0, len(rows), num_rows):
    chunk = rows[start : start + num_rows]
    width = -(-max(map(len, chunk)) // WIDTH) * WIDTH
    padded = prompts.pad_left(chunk, width, vocab.eos_token)
    row_id = np.arange(start, start + len(chunk), dtype=np.int32)
    placed = process_rows.place(
      prompts.RowPrompts(padded.ids, padded.mask, row_id), mesh, num_rows
    )
    trajectory = jax.device_get(
      answer_free.sample(
        denoiser, params, key, placed, decoder, mesh=mesh, vocab=vocab
      )
    )
    for i, ids in enumerate(chunk):
      tokens = trajectory.tokens[i].tolist()
      yield Completion(
        prompt_ids=list(ids),
        completion_ids=tokens,
        text=None if tokenizer is None else text(tokenizer, tokens),
        commit_step=trajectory.commit_step[i].tolist(),
        num_steps=int(trajectory.num_steps[i]),
        logp=trajectory.logp[i].tolist(),
      )


def text(tokenizer: tokenizer_lib.Tokenizer, ids: Sequence[int]) -> str:
  """The text of a completion up to its first stop token."""
  stop = set(tokenizer.special.stop)
  return spell(tokenizer, itertools.takewhile(lambda i: i not in stop, ids))


def spell(tokenizer: tokenizer_lib.Tokenizer | None, ids: Iterable[int]) -> str:
  """The text of ids; the ids themselves without a tokenizer.

  Ids beyond the tokenizer's, which a model may have, are left out.
  """
  if tokenizer is None:
    return ''.join(f'{i} ' for i in ids)
  return tokenizer.decode(i for i in ids if i < tokenizer.vocab_size)
