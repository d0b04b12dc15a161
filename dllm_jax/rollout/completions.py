"""Completions of given prompts, one record per prompt.

Prompts are decoded in batches, in order. A completion depends only on its
prompt, the index of the prompt and the seed. Dims: L completion columns.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dllm_jax import errors, types
from dllm_jax.ops import streams
from dllm_jax.rollout import answer_free, prompts
from dllm_jax.runtime import process_rows, processes, sharding
from dllm_jax.text import tokenizer as tokenizer_lib

# Prompts are padded to a multiple of this, to limit the number of compilations.
WIDTH = 32


class Completion(NamedTuple):
  """One completion.

  Attributes:
    prompt_ids: prompt tokens.
    completion_ids: all L completion tokens.
    text: text up to the first stop token; None without a tokenizer.
    commit_step: 0-based step that committed each token.
    num_steps: number of denoiser calls.
    logp: log-probability of each token when it was committed (nats).
    drafted: what was drafted in its place, -1 where nothing was; None where
      the decoder drafts nothing.
  """

  prompt_ids: list[int]
  completion_ids: list[int]
  text: str | None
  commit_step: list[int]
  num_steps: int
  logp: list[float]
  drafted: list[int] | None = None

  def row(self) -> dict[str, Any]:
    """The completion as a JSON row: `drafted` where the decoder drafts."""
    values = self._asdict()
    if self.drafted is None:
      del values['drafted']
    return values


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
    rows: prompt ids of each row.
    decoder: how to decode.
    vocab: special ids.
    tokenizer: decodes the texts; None leaves them out.
    mesh: device mesh; `data` and `fsdp` split the rows of a batch.
    seed: seed of the draws.
    batch_size: rows decoded together, rounded up to a multiple of the row
      shards of the mesh.

  Raises:
    errors.UserError: there are several processes.
  """
  if processes.several():
    raise errors.UserError(
      'prompts are completed by one process, and this run has several: start '
      'it alone'
    )
  if not rows:
    return
  # The key of `eval.accuracy`, so that equal rows get equal completions.
  key = streams.step_key(jax.random.key(seed), 'eval', 0)
  shards = sharding.num_row_shards(mesh)
  num_rows = -(-min(batch_size, len(rows)) // shards) * shards
  params = decoder.prepare(denoiser, params)
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
    drafted = trajectory.drafted
    drafted = None if drafted is None else drafted.tolist()
    for i, ids in enumerate(chunk):
      tokens = trajectory.tokens[i].tolist()
      yield Completion(
        prompt_ids=list(ids),
        completion_ids=tokens,
        text=None if tokenizer is None else text(tokenizer, tokens),
        commit_step=trajectory.commit_step[i].tolist(),
        num_steps=int(trajectory.num_steps[i]),
        logp=trajectory.logp[i].tolist(),
        drafted=drafted and drafted[i],
      )


def text(tokenizer: tokenizer_lib.Tokenizer, ids: Sequence[int]) -> str:
  """The text of a completion up to its first stop token."""
  stop = set(tokenizer.special.stop)
  return spell(tokenizer, itertools.takewhile(lambda i: i not in stop, ids))


def spell(tokenizer: tokenizer_lib.Tokenizer | None, ids: Iterable[int]) -> str:
  """The text of ids, or the ids as numbers without a tokenizer.

  A model's vocabulary may be larger than its tokenizer's; such ids are dropped.
  """
  if tokenizer is None:
    return ''.join(f'{i} ' for i in ids)
  return tokenizer.decode(i for i in ids if i < tokenizer.vocab_size)
