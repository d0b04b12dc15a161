"""The states of every row's active block, through a cache of its canvas.

A call on a row's whole canvas, when the row enters a block, gives the block's
first states and the keys and values of all columns. Until the next such call
only a window of columns is computed, and reads the others from the cache:

  prefix  the block and all that follows it
  dual    the block alone

What is read from the cache is stale: it is of the canvas as it was at that
call. `refresh_every` makes such calls within a block as well, and `vicinity`
widens the window on both sides of the block. Rows enter blocks on their own:
none waits for another, and what a row reads does not depend on the others.

Models that are causal over blocks need no call on the whole canvas: a finished
block is read once more, without masks, by the call that enters the next one
('block'). Nothing is stale then, and the tokens are those without a cache.

Dims: B rows, W columns of a block, S canvas columns, D model.

References:
  Wu et al. 2025, Fast-dLLM, section 3.2 (arXiv:2505.22618); Ma et al. 2025,
  dInfer, section 3 (arXiv:2510.08666); Arriola et al. 2025, BD3-LMs
  (arXiv:2503.09573).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dllm_jax import types
from dllm_jax.decoding import lockstep as lockstep_lib

# At most so many programs are compiled for the windows of one decoder.
MAX_WIDTHS = 8
# Rows that enter blocks are read in chunks: usually few of them do at a time.
NUM_CHUNKS = 8


def empty(
  denoiser: types.CachedDenoiser,
  params: types.Params,
  canvas: types.Canvas,
) -> types.Cache:
  """A cache of the canvas's size, all zeros."""
  query = jnp.zeros((len(canvas.tokens), 1), jnp.int32)
  _, cache = jax.eval_shape(denoiser.read, params, *canvas, query)
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), cache)


def whole(
  denoiser: types.CachedDenoiser,
  params: types.Params,
  canvas: types.Canvas,
) -> types.Cache:
  """The cache of the canvas as it is."""
  query = jnp.zeros((len(canvas.tokens), 1), jnp.int32)
  return denoiser.read(params, *canvas, query)[1]


def widths(
  kind: str, gen_length: int, block_length: int, vicinity: int
) -> tuple[int, ...]:
  """The widths of windows that are compiled, descending.

  Args:
    kind: 'prefix' or 'dual'.
    gen_length: completion columns.
    block_length: columns of a block.
    vicinity: columns on either side of a block that are computed with it.
  """
  if kind == 'dual':
    return (block_length + 2 * vicinity,)
  num_blocks = gen_length // block_length
  stride = -(-num_blocks // MAX_WIDTHS) * block_length
  return tuple(
    gen_length - first + vicinity for first in range(0, gen_length, stride)
  )


def widths_of_next(gen_length: int, block_length: int) -> tuple[int, ...]:
  """The widths of `read_next`'s windows, descending.

  A block with all that may come before it in the completion, with the finished
  block before it, and alone.
  """
  sizes = {gen_length + block_length, 2 * block_length, block_length}
  return tuple(sorted(sizes, reverse=True))


def read_blocks(
  denoiser: types.CachedDenoiser,
  params: types.Params,
  tokens: Int[Array, 'B S'],
  attention_mask: Bool[Array, 'B S'],
  column: Int[Array, 'B W'],
  cache: types.Cache,
  *,
  enters: Bool[Array, ' B'],
  stays: Bool[Array, ' B'],
  start: Int[Array, ' B'],
  stop: Int[Array, ' B'],
  widths: tuple[int, ...],
  lockstep: tuple[str, ...],
) -> tuple[Float[Array, 'B W D'], types.Cache]:
  """The states of columns, from whole canvases or from windows of them.

  Args:
    denoiser: the model.
    params: its parameters.
    tokens: the canvases.
    attention_mask: True on their real tokens.
    column: the columns to read.
    cache: of earlier calls.
    enters: rows whose whole canvas is computed.
    stays: rows of which columns [start, stop) are computed.
    start: first column of each row's window.
    stop: one past the last that has to be computed.
    widths: widths of windows to choose from, descending.
    lockstep: mesh axes whose devices make the same calls.

  Returns:
    The states, which mean nothing in rows that neither enter nor stay, and the
    cache, which is new in the rows that enter.
  """
  rows = len(tokens)
  of_block = jax.eval_shape(
    denoiser.states, params, tokens, attention_mask, column
  )
  states = jnp.zeros(of_block.shape, of_block.dtype)

  def read_chunk(carry):
    waiting, states, cache = carry
    (row,) = jnp.nonzero(waiting, size=-(-rows // NUM_CHUNKS), fill_value=rows)
    take = lambda x: x.at[row].get(mode='clip')
    own, new = denoiser.read(
      params, take(tokens), take(attention_mask), take(column)
    )
    return (
      waiting.at[row].set(False, mode='drop'),
      states.at[row].set(own, mode='drop'),
      denoiser.put(cache, new, row),
    )

  _, states, cache = lockstep_lib.loop_while(
    lambda carry: jnp.any(carry[0]),
    read_chunk,
    (enters, states, cache),
    lockstep,
  )

  def read_window(width):
    own, _ = denoiser.read_window(
      params, tokens, attention_mask, column, cache, start, width
    )
    return jnp.where(stays[:, None, None], own, states)

  needed = jnp.max(jnp.where(stays, stop - start, 0))
  calls = [lambda width=width: read_window(width) for width in widths]
  states = jax.lax.switch(
    _fitting(widths, needed, lockstep), [lambda: states, *calls]
  )
  return states, cache


def read_next(
  denoiser: types.CachedDenoiser,
  params: types.Params,
  tokens: Int[Array, 'B S'],
  attention_mask: Bool[Array, 'B S'],
  column: Int[Array, 'B W'],
  cache: types.Cache,
  *,
  unread: Int[Array, ' B'],
  widths: tuple[int, ...],
  lockstep: tuple[str, ...],
) -> tuple[Float[Array, 'B W D'], types.Cache]:
  """The states of columns of a model that is causal over blocks of W.

  Rows that enter a block read what precedes it and has changed since it was
  read: the last block that they were in, finished now, and any that was given
  after that. Keys and values of later columns may be of anything: they are not
  visible until they are read again.

  Args:
    denoiser: the model.
    params: its parameters.
    tokens: the canvases; padding lies before the prompts.
    attention_mask: True on their real tokens.
    column: the columns to read, a block; those beyond the canvas are none.
    cache: exact in all blocks before the unread ones.
    unread: blocks before the block to read with it; 0 in rows that stay.
    widths: widths of windows to choose from, descending; the last is W.
    lockstep: mesh axes whose devices make the same calls.

  Returns:
    The states, and the cache.
  """
  width = column.shape[1]
  start = column[:, 0] - unread * width
  query = jnp.clip(column, 0, tokens.shape[1] - 1)

  def read(size):
    states, new = denoiser.read_window(
      params, tokens, attention_mask, query, cache, start, size
    )
    return states, (new if size > width else cache)

  return jax.lax.switch(
    _fitting(widths, (jnp.max(unread) + 1) * width, lockstep) - 1,
    [lambda size=size: read(size) for size in widths],
  )


def _fitting(
  widths: tuple[int, ...], needed: Int[Array, ''], lockstep: tuple[str, ...]
) -> Int[Array, '']:
  """The number of the narrowest window that is wide enough, from 1.

  0 if nothing is needed. All devices along `lockstep` get the same.
  """
  if lockstep:
    needed = jax.lax.pmax(needed, lockstep)
  return jnp.sum(jnp.array(widths) >= needed) * (needed > 0)
