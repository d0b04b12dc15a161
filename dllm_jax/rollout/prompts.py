"""Prompt texts as left-padded id arrays. Prompts are never truncated.

A batch is as wide as its longest prompt, rounded up to one of a few widths to
limit the number of compilations. Results do not depend on the width. With
several processes, all agree on the width of the global batch: each encodes, or
at least measures, every row.

Dims: N prompts, P prompt columns, B rows, L completion columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from dllm_jax import errors, types
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import chat
from dllm_jax.text import tokenizer as tokenizer_lib

MIN_WIDTH = 32


def width_for(longest: int, max_length: int) -> int:
  """The smallest of 32, 64, 128, ... that fits, at most `max_length`."""
  width = MIN_WIDTH
  while width < longest:
    width *= 2
  return min(width, max_length)


class Prompts(NamedTuple):
  """Prompts padded on the left to one width.

  Attributes:
    ids: prompt ids.
    mask: True on prompt tokens, False on padding.
    maskable: True on content, False on padding and the chat template.
  """

  ids: Int[np.ndarray, 'N P']
  mask: Bool[np.ndarray, 'N P']
  maskable: Bool[np.ndarray, 'N P']

  def take(
    self, rows: Bool[np.ndarray, ' N'] | Int[np.ndarray, ' M'] | slice
  ) -> 'Prompts':
    """The prompts selected by a mask, indices or a slice."""
    return Prompts(*(x[rows] for x in self))


class RowPrompts(NamedTuple):
  """One prompt per row, as decoders read them.

  Attributes:
    ids: prompt ids, padded on the left.
    mask: True on prompt tokens, False on padding.
    row_id: index of the row in the batch; seeds the row's draws.
  """

  ids: Int[Array, 'B P']
  mask: Bool[Array, 'B P']
  row_id: Int[Array, ' B']


def pad_left(
  sequences: Sequence[Sequence[int]],
  width: int,
  fill: int,
  *,
  content: Sequence[Sequence[bool]] | None = None,
) -> Prompts:
  """Left-pads id sequences to `width`.

  Args:
    sequences: prompt ids.
    width: number of columns of the result.
    fill: padding id.
    content: True on maskable ids; None if all are.
  """
  ids = np.full((len(sequences), width), fill, np.int32)
  mask = np.zeros(ids.shape, bool)
  maskable = np.zeros(ids.shape, bool)
  for i, sequence in enumerate(sequences):
    if sequence:
      ids[i, -len(sequence) :] = sequence
      mask[i, -len(sequence) :] = True
      maskable[i, -len(sequence) :] = True if content is None else content[i]
  return Prompts(ids, mask, maskable)


def encode(
  task: task_lib.Task,
  tokenizer: tokenizer_lib.Tokenizer,
  rows: Sequence[dict],
  max_length: int,
  *,
  template: chat.ChatTemplate = chat.PLAIN,
  prefill: str = '',
) -> Prompts:
  """Tokenizes the prompts of `rows`.

  Args:
    task: writes the user's message.
    tokenizer: encodes text.
    rows: the task's rows.
    max_length: largest number of prompt tokens.
    template: chat template around the message.
    prefill: text that the completion starts with; part of the prompt.

  Raises:
    errors.UserError: a prompt has more than `max_length` tokens (truncation
      would drop instructions), or text that the tokenizer cannot encode.
  """
  try:
    encoded = tokenizer.encode_pieces(
      [template.render(task.prompt(row), prefill) for row in rows]
    )
  except ValueError as e:
    raise errors.UserError(
      f'cannot encode a prompt of task {task.name!r}: {e}; raise the bounds in '
      'the config group task'
    ) from e
  for row, sequence in zip(rows, encoded, strict=True):
    if len(sequence.ids) > max_length:
      raise errors.UserError(
        f'prompt of row {row["id"]!r} has {len(sequence.ids)} tokens, more '
        f'than rollout.max_prompt_length={max_length}: increase it'
      )
  longest = max((len(sequence.ids) for sequence in encoded), default=0)
  return pad_left(
    [sequence.ids for sequence in encoded],
    width_for(longest, max_length),
    tokenizer.special.pad,
    content=[sequence.is_content for sequence in encoded],
  )


def canvas(
  ids: Int[Array, 'B P'],
  mask: Bool[Array, 'B P'],
  completion: Int[Array, 'B L'],
) -> types.Canvas:
  """Prompts followed by the given completions."""
  return types.Canvas(
    jnp.concatenate([ids, completion], axis=1),
    jnp.concatenate([mask, jnp.ones(completion.shape, bool)], axis=1),
  )
