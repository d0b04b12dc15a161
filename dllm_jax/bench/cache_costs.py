"""What decoding through a cache costs: calls, operations and bytes.

A row takes calls of two kinds: on its whole canvas, and on a window of it.
Their operations are counted from compiled programs, and how often each is made
follows from the steps that the row spent in every block. Dims: B rows, N
blocks, L completion columns, S canvas columns, W columns of a block.
"""

import collections
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from dllm_jax import types
from dllm_jax.bench import hlo, hlo_counts
from dllm_jax.decoding import block_decoder, caching


class Calls(NamedTuple):
  """Calls of the model, over all rows.

  Attributes:
    whole: on whole canvases.
    windows: on windows, by their width.
  """

  whole: int
  windows: dict[int, int]


def calls(
  decoder: block_decoder.BlockDecoder, steps: Int[np.ndarray, 'B N']
) -> Calls:
  """The calls that rows need, each of which decodes on its own.

  In a batch, a window of 'prefix' is as wide as its longest row needs.

  Args:
    decoder: how rows are decoded.
    steps: that each row spends in each block.
  """
  if decoder.cache == 'none':
    return Calls(int(steps.sum()), {})
  every = decoder.refresh_every or max(1, int(steps.max()))
  whole = -(-steps // every)
  widths = caching.widths(
    decoder.cache, decoder.gen_length, decoder.block_length, decoder.vicinity
  )
  windows = collections.Counter()
  for index, count in enumerate((steps - whole).sum(0)):
    first = index * decoder.block_length - decoder.vicinity
    needed = decoder.gen_length - first
    if decoder.cache == 'dual':
      needed = widths[0]
    windows[min(width for width in widths if width >= needed)] += int(count)
  return Calls(int(whole.sum()), dict(+windows))


def block_steps(
  trajectory: types.Trajectory, block_length: int
) -> Int[np.ndarray, 'B N']:
  """The steps that each row spent in each block.

  Every step of a row commits a token of its active block, so they are as many
  as there are steps that committed tokens of the block.
  """
  commit_step = np.asarray(trajectory.commit_step)
  num_steps = np.asarray(trajectory.num_steps)
  parts = commit_step.reshape(len(commit_step), -1, block_length)
  count = lambda row, last: [len({*part} - {last}) for part in row.tolist()]
  return np.array([count(*pair) for pair in zip(parts, num_steps, strict=True)])


def program(
  denoiser: types.CachedDenoiser,
  params: types.Params,
  *,
  rows: int,
  columns: int,
  block: int,
  width: int | None,
) -> jax.stages.Lowered:
  """A call of the model with the logits of a block, lowered from shapes.

  Args:
    denoiser: the model.
    params: its parameters, or their shapes.
    rows: B.
    columns: S.
    block: W.
    width: of the window; None is a call on the whole canvas.
  """
  array = jax.ShapeDtypeStruct
  tokens = array((rows, columns), jnp.int32)
  mask = array((rows, columns), jnp.bool_)
  query = array((rows, block), jnp.int32)
  if width is None:

    def whole(params, tokens, mask, query):
      states, cache = denoiser.read(params, tokens, mask, query)
      return denoiser.unembed(params, states), cache

    return jax.jit(whole).lower(params, tokens, mask, query)

  def window(params, tokens, mask, query, cache, start):
    states, _ = denoiser.read_window(
      params, tokens, mask, query, cache, start, width
    )
    return denoiser.unembed(params, states)

  _, cache = jax.eval_shape(denoiser.read, params, tokens, mask, query)
  start = array((rows,), jnp.int32)
  return jax.jit(window).lower(params, tokens, mask, query, cache, start)


def flops(
  made: Calls,
  denoiser: types.CachedDenoiser,
  params: types.Params,
  *,
  columns: int,
  block: int,
) -> int:
  """Operations of calls, counted from the programs of one row.

  Args:
    made: the calls.
    denoiser: the model.
    params: its parameters, or their shapes.
    columns: S.
    block: W.
  """

  def one(width):
    lowered = program(
      denoiser, params, rows=1, columns=columns, block=block, width=width
    )
    return hlo_counts.flops(hlo.parse(lowered.compile().as_text()))

  total = made.whole * one(None)
  return total + sum(n * one(width) for width, n in made.windows.items())


def cache_bytes(
  denoiser: types.CachedDenoiser,
  params: types.Params,
  *,
  rows: int,
  columns: int,
) -> int:
  """Bytes of the keys and values of a batch of canvases."""
  tokens = jax.ShapeDtypeStruct((rows, columns), jnp.int32)
  mask = jax.ShapeDtypeStruct((rows, columns), jnp.bool_)
  query = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
  _, cache = jax.eval_shape(denoiser.read, params, tokens, mask, query)
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
