"""Prompt texts as left-padded id arrays. Prompts are never truncated.

A batch is as wide as its longest prompt, rounded up to one of a few widths, so
that long prompts elsewhere cost it nothing and few shapes are compiled. A row's
results do not depend on the width. With several processes the batch is that of
all of them: each encodes, or at least measures, every row.

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
  """The least of 32, 64, 128, ... and `max_length` that holds `longest`."""
  width = MIN_WIDTH
  while width < longest:
    width *= 2
  return min(width, max_length)


class Prompts(NamedTuple):
  """Prompts padded on the left to one width.

  Attributes:
    ids: their tokens.
    mask: True on real tokens.
    maskable: True on content: on no padding and on no chat template.
  """

  ids: Int[np.ndarray, 'N P']
  mask: Bool[np.ndarray, 'N P']
  maskable: Bool[np.ndarray, 'N P']

  def take(
    self, rows: Bool[np.ndarray, ' N'] | Int[np.ndarray, ' M'] | slice
  ) -> 'Prompts':
    """The prompts where `rows` is True, at its numbers, or of a slice."""
    return Prompts(*(x[rows] for x in self))


class RowPrompts(NamedTuple):
  """A prompt a row, as a decoder reads them.

  Attributes:
    ids: prompt ids, padded on the left.
    mask: True on real tokens.
    row_id: the row's number in the batch; it seeds the row's draws.
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
    sequences: ids.
    width: of the result.
    fill: id of the padding.
    content: which ids are maskable; None for all.
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
    task: it writes the user's message.
    tokenizer: text to ids.
    rows: the task's rows.
    max_length: the largest P.
    template: what stands around the message.
    prefill: how the completion is to begin; a part of the prompt.

  Raises:
    errors.UserError: a prompt of more than `max_length` tokens (cutting it
      would drop instructions), or with text that the tokenizer cannot spell.
  """
  try:
    encoded = tokenizer.encode_pieces(
      [template.render(task.prompt(row), prefill) for row in rows]
    )
  except ValueError as e:
    raise errors.UserError(
      f'a prompt of task {task.name!r} does not fit the lexicon: {e}; raise '
      'the bounds under the config group task'
    ) from e
  for row, sequence in zip(rows, encoded, strict=True):
    if len(sequence.ids) > max_length:
      raise errors.UserError(
        f'prompt of row {row["id"]!r} has {len(sequence.ids)} tokens, more '
        f'than rollout.max_prompt_length={max_length}: raise that key'
      )
  longest = max((len(sequence.ids) for sequence in encoded), default=0)
  return pad_left(
    [sequence.ids for sequence in encoded],
    width_for(longest, max_length),
    tokenizer.special.pad,
    content=[sequence.is_content for sequence in encoded],
  )


def pad_rows(x: np.ndarray, num_rows: int) -> np.ndarray:
  """Repeats the last row until there are `num_rows`."""
  return np.pad(
    x, ((0, num_rows - len(x)),) + ((0, 0),) * (x.ndim - 1), mode='edge'
  )


def canvas(
  ids: Int[Array, 'B P'],
  mask: Bool[Array, 'B P'],
  completion: Int[Array, 'B L'],
) -> types.Canvas:
  """Prompts with the given completions to their right."""
  return types.Canvas(
    jnp.concatenate([ids, completion], axis=1),
    jnp.concatenate([mask, jnp.ones(completion.shape, bool)], axis=1),
  )
