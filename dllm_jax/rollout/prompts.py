"""Prompt texts as left-padded id arrays. Prompts are never truncated.

Dims: N prompts, P prompt columns, B rows, L completion columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from dllm_jax import errors, types
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import tokenizer as tokenizer_lib


class Prompts(NamedTuple):
  """Ids padded on the left to one width, and which of them are real."""

  ids: Int[np.ndarray, 'N P']
  mask: Bool[np.ndarray, 'N P']

  def take(self, rows: Bool[np.ndarray, ' N']) -> 'Prompts':
    """The prompts where `rows` is True."""
    return Prompts(self.ids[rows], self.mask[rows])

  def repeat(self, times: int) -> 'Prompts':
    """Every prompt `times` times in a row."""
    return Prompts(
      np.repeat(self.ids, times, axis=0), np.repeat(self.mask, times, axis=0)
    )


def pad_left(
  sequences: Sequence[Sequence[int]], width: int, fill: int
) -> Prompts:
  """Left-pads id sequences to `width`."""
  ids = np.full((len(sequences), width), fill, np.int32)
  mask = np.zeros(ids.shape, bool)
  for i, sequence in enumerate(sequences):
    if sequence:
      ids[i, -len(sequence) :] = sequence
      mask[i, -len(sequence) :] = True
  return Prompts(ids, mask)


def encode(
  task: task_lib.Task,
  tokenizer: tokenizer_lib.Tokenizer,
  rows: Sequence[dict],
  max_length: int,
) -> Prompts:
  """Tokenizes the prompts of `rows`.

  Raises:
    errors.UserError: a prompt of more than `max_length` tokens (cutting it
      would drop instructions), or with text that the tokenizer cannot spell.
  """
  try:
    sequences = tokenizer.encode_batch([task.prompt(row) for row in rows])
  except ValueError as e:
    raise errors.UserError(
      f'a prompt of task {task.name!r} does not fit the lexicon: {e}; raise '
      'the bounds under the config group task'
    ) from e
  for row, sequence in zip(rows, sequences, strict=True):
    if len(sequence) > max_length:
      raise errors.UserError(
        f'prompt of row {row["id"]!r} has {len(sequence)} tokens, more than '
        f'rollout.max_prompt_length={max_length}: raise that key'
      )
  return pad_left(sequences, max_length, tokenizer.eos_token)


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
