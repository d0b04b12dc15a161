"""Prompts and the completions to learn, as arrays on the devices.

Dims: B rows, P prompt columns, L completion columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int

from dllm_jax import errors
from dllm_jax.rollout import context
from dllm_jax.runtime import process_rows
from dllm_jax.tasks import task as task_lib


class Demonstrations(NamedTuple):
  """Prompts and the completions to learn.

  Attributes:
    prompt_ids: prompt ids, padded on the left.
    prompt_mask: True on prompt tokens, False on padding.
    tokens: completion ids, padded with EOS.
  """

  prompt_ids: Int[Array, 'B P']
  prompt_mask: Bool[Array, 'B P']
  tokens: Int[Array, 'B L']


def encode(
  ctx: context.Context, rows: Sequence[task_lib.Row], gen_length: int
) -> Demonstrations:
  """Tokenizes the demonstrations of this process's rows.

  Args:
    ctx: the run.
    rows: all rows of the batch.
    gen_length: L; demonstrations are padded to it with EOS.

  Raises:
    errors.UserError: a demonstration longer than `gen_length`.
  """
  num_rows = len(rows)
  index = process_rows.share(ctx.mesh, num_rows)
  encoded = ctx.encode(rows).take(index)
  rows = [rows[i] for i in index]
  tokens = np.full((len(rows), gen_length), ctx.vocab.eos_token, np.int32)
  texts = [ctx.task.demonstration(row) for row in rows]
  for i, ids in enumerate(ctx.tokenizer.encode_batch(texts)):
    if len(ids) > gen_length:
      raise errors.UserError(
        f'demonstration of row {rows[i]["id"]!r} has {len(ids)} tokens, more '
        f'than rollout.gen_length={gen_length}: increase it'
      )
    tokens[i, : len(ids)] = ids
  batch = Demonstrations(encoded.ids, encoded.mask, tokens)
  return process_rows.place(batch, ctx.mesh, num_rows)
