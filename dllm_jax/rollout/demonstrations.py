"""Prompts and the completions to learn, as arrays on the devices.

Dims: B rows, P prompt columns, L completion columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int

from dllm_jax import errors
from dllm_jax.rollout import context, prompts
from dllm_jax.runtime import process_rows
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import conversations


class Demonstrations(NamedTuple):
  """Prompts and the completions to learn.

  Attributes:
    prompt_ids: prompt ids, padded on the left.
    prompt_mask: True on prompt tokens, False on padding.
    tokens: completion ids, padded with EOS.
    learnt: True on the tokens that the loss is of. None: all; of a causal model
      those up to the first stop token.
    mask: True on real tokens, False on padding that nothing reads. None: all.
  """

  prompt_ids: Int[Array, 'B P']
  prompt_mask: Bool[Array, 'B P']
  tokens: Int[Array, 'B L']
  learnt: Bool[Array, 'B L'] | None = None
  mask: Bool[Array, 'B L'] | None = None


def tokenized(
  ctx: context.Context, rows: Sequence[task_lib.Row]
) -> list[task_lib.Row]:
  """Conversations with their tokens as `row['conversation']`.

  Raises:
    errors.UserError: names the first row that the template or the tokenizer
      does not take.
  """
  encoded = conversations.encode(
    [row['messages'] for row in rows], ctx.template, ctx.tokenizer
  )
  if encoded and isinstance(encoded[-1], str):
    raise errors.UserError(f'{rows[len(encoded) - 1]["id"]}: {encoded[-1]}')
  return [
    {**row, 'conversation': found}
    for row, found in zip(rows, encoded, strict=True)
  ]


def encode(
  ctx: context.Context,
  rows: Sequence[task_lib.Row],
  gen_length: int,
  *,
  eos_padding: bool = True,
  num_rows: int | None = None,
) -> Demonstrations:
  """Tokenizes the demonstrations of this process's rows.

  Args:
    ctx: the run.
    rows: all rows of the batch; conversations are `tokenized` ones.
    gen_length: L; demonstrations are padded to it with EOS.
    eos_padding: whether the padding is learnt, where the model is one of masked
      diffusion.
    num_rows: B; of conversations, rows that are missing are padding, of which
      nothing is learnt. None: the number of rows.

  Raises:
    errors.UserError: a demonstration longer than `gen_length`.
  """
  count, num_rows = len(rows), num_rows or len(rows)
  held = process_rows.held(ctx.mesh, num_rows)
  index = np.minimum(held, count - 1)
  own = [rows[i] for i in index]
  has_turns = 'conversation' in rows[0]
  if has_turns:
    found = [row['conversation'] for row in own]
    longest = max(len(row['conversation'].prompt) for row in rows)
    encoded = prompts.pad_left(
      [of.prompt for of in found],
      prompts.width_for(longest, ctx.max_prompt_length),
      ctx.tokenizer.special.pad,
    )
    completions = [of.completion for of in found]
    learnt = [of.learnt for of in found]
  else:
    encoded = ctx.encode(rows).take(index)
    texts = [ctx.task.demonstration(row) for row in own]
    completions = ctx.tokenizer.encode_batch(texts)
    learnt = [[True] * (len(ids) + 1) for ids in completions]  # and EOS
  tokens = np.full((len(own), gen_length), ctx.vocab.eos_token, np.int32)
  for i, ids in enumerate(completions):
    if len(ids) > gen_length:
      raise errors.UserError(
        f'demonstration of row {own[i]["id"]!r} has {len(ids)} tokens, more '
        f'than rollout.gen_length={gen_length}: increase it'
      )
    tokens[i, : len(ids)] = ids
  batch = Demonstrations(encoded.ids, encoded.mask, tokens)
  if has_turns or not eos_padding:
    is_filled = eos_padding and ctx.vocab.mask_token is not None
    of_loss = np.full(tokens.shape, is_filled)
    mask = np.full(tokens.shape, is_filled)
    for i, is_learnt in enumerate(learnt):
      of_loss[i, : len(is_learnt)] = is_learnt[:gen_length]
      mask[i, : len(is_learnt)] = True
    of_loss &= (held < count)[:, None]
    batch = batch._replace(learnt=of_loss, mask=mask)
  return process_rows.place(batch, ctx.mesh, num_rows)
