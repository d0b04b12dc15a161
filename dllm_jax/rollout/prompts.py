"""Prompts as left-padded id arrays; they are never truncated.

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

from dllm_jax import types

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
