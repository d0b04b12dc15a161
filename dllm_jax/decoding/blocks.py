"""Semi-autoregressive denoising: rows, blocks and the loop.

The completion is split into blocks that are completed from left to right. Each
row has its own block pointer and is frozen once it is done, so that its tokens
depend on nothing but itself. `block_decoder` has the step that reads the active
block. Dims: B rows, L completion columns, W columns of a block, S canvas
columns.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types, validation
from dllm_jax.decoding import fields
from dllm_jax.decoding import lockstep as lockstep_lib
from dllm_jax.ops import schedules


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
  """The lengths and options of a `block_decoder.BlockDecoder`."""

  gen_length: int = fields.static('completion tokens')
  block_length: int = fields.static(
    'tokens of a block, decoded from left to right'
  )
  stop_at_eos: bool = fields.static(
    'stop a row once its text has ended; the text is the same',
    default=False,
  )
  temperature: types.Scalar = fields.traced(
    'sampling temperature of the proposals; 0 is greedy', default=0.0
  )
  cfg_scale: types.Scalar | None = fields.traced(
    'scale of classifier-free guidance; 0 is off', default=None
  )
  cache: Literal['none', 'prefix', 'dual', 'block'] = fields.static(
    'what a step computes: the canvas; the block and what follows it; the '
    'block; or the block of a model that is causal over blocks',
    default='none',
  )
  refresh_every: int = fields.static(
    'steps from one call on the whole canvas to the next; 0: one per block',
    default=0,
  )
  vicinity: int = fields.static(
    'columns on either side of the block that are computed with it', default=0
  )
  published: Literal['none', 'llada', 'dream'] = fields.static(
    "with a cache, make the calls of Fast-dLLM's sampler of that model, for "
    'comparison with its figures',
    default='none',
  )

  def __post_init__(self):
    length, width = self.gen_length, self.block_length
    if length < 1 or width < 1 or length % width:
      raise ValueError(
        f'gen_length {length} is not a positive multiple of block_length '
        f'{width}'
      )
    validation.finite_not_negative(self, 'temperature')
    if self.cfg_scale is not None:
      validation.finite_not_negative(self, 'cfg_scale')
    if self.cfg_scale == 0:  # No leaf, so that nothing is computed for it.
      object.__setattr__(self, 'cfg_scale', None)
    validation.choices(self, 'cache', 'published')
    validation.not_negative(self, 'refresh_every', 'vicinity')
    for name in ('refresh_every', 'vicinity', 'published'):
      value = getattr(self, name)
      if value not in (0, 'none') and self.cache not in ('prefix', 'dual'):
        raise ValueError(
          f"{name} {value}: read with cache 'prefix' or 'dual' alone, not "
          f'{self.cache!r}'
        )

  @property
  def num_blocks(self) -> int:
    return self.gen_length // self.block_length


class DecodeState(NamedTuple):
  """The carry of the loop.

  Attributes:
    tokens: the canvas.
    logp: log-probability of each token when it was committed (nats).
    commit_step: 0-based step that committed each token; -1 while undecided.
    block: index of the row's active block.
    last_block: the block before it that the row was in; itself at first.
    block_masks: number of masks in that block when the row entered it.
    block_step: steps that the row has taken in that block.
    num_steps: steps that the row has taken.
    step: steps that the loop has taken.
    offset: columns by which the row's first block begins before its completion.
    cache: keys and values of the canvas; None without a cache.
  """

  tokens: Int[Array, 'B S']
  logp: Float[Array, 'B L']
  commit_step: Int[Array, 'B L']
  block: Int[Array, ' B']
  last_block: Int[Array, ' B']
  block_masks: Int[Array, ' B']
  block_step: Int[Array, ' B']
  num_steps: Int[Array, ' B']
  step: Int[Array, '']
  offset: Int[Array, ' B']
  cache: types.Cache | None = None


def init_state(
  canvas: types.Canvas,
  vocab: types.Vocabulary,
  cfg: BlockConfig,
  block_causal: int = 0,
) -> DecodeState:
  """The state before the first step.

  Args:
    canvas: prompts followed by L completion columns; only [MASK] is decided,
      other completion tokens (an anchor, finished reasoning) are kept.
    vocab: special ids.
    cfg: the decoder, for its lengths.
    block_causal: block of a model that is causal over blocks, which counts them
      from the row's first real token; 0: blocks begin with the completion.

  Raises:
    ValueError: the vocabulary has no [MASK].
  """
  vocab.need_mask()
  chex.assert_equal_shape([canvas.tokens, canvas.attention_mask])
  rows = canvas.tokens.shape[0]
  zeros = jnp.zeros(rows, jnp.int32)
  completion = jnp.zeros((rows, cfg.gen_length))
  offset = zeros
  if block_causal:
    prompt = canvas.attention_mask[:, : -cfg.gen_length]
    offset = jnp.sum(prompt, axis=1, dtype=jnp.int32) % block_causal
  state = DecodeState(
    tokens=canvas.tokens,
    logp=completion,
    commit_step=jnp.full(completion.shape, -1, jnp.int32),
    block=zeros - 1,
    last_block=zeros,
    block_masks=zeros,
    block_step=zeros,
    num_steps=zeros,
    step=jnp.int32(0),
    offset=offset,
  )
  return _enter_block(state, vocab, cfg)


def undecided(
  state: DecodeState, vocab: types.Vocabulary, cfg: BlockConfig
) -> Bool[Array, 'B L']:
  """Completion positions that still hold [MASK]."""
  return state.tokens[:, -cfg.gen_length :] == vocab.mask_token


def is_done(
  state: DecodeState, vocab: types.Vocabulary, cfg: BlockConfig
) -> Bool[Array, ' B']:
  """Rows that need no further step."""
  masks = undecided(state, vocab, cfg)
  done = ~jnp.any(masks, axis=-1)
  if cfg.published == 'llada':
    done &= state.block_step >= 2
  if cfg.stop_at_eos:
    completion = state.tokens[:, -cfg.gen_length :]
    first_stop = schedules.first_true(vocab.ends(completion))
    first_mask = schedules.first_true(masks)
    done |= first_stop < first_mask
  return done


class Block(NamedTuple):
  """The active block of every row.

  Attributes:
    index: completion columns of the block; a row's first block may begin, and
      its last end, beyond the completion.
    column: canvas columns of the block.
    tokens: canvas tokens of the block.
    eligible: True on masks of rows that are not done.
    live: True on those rows.
  """

  index: Int[Array, 'B W']
  column: Int[Array, 'B W']
  tokens: Int[Array, 'B W']
  eligible: Bool[Array, 'B W']
  live: Bool[Array, ' B']


class Choice(NamedTuple):
  """What a step commits of the active block.

  Attributes:
    chosen: True on the eligible columns to commit.
    proposal: proposed token of each column.
    logp: log-probability of each proposal (nats).
  """

  chosen: Bool[Array, 'B W']
  proposal: Int[Array, 'B W']
  logp: Float[Array, 'B W']


def active(
  state: DecodeState, vocab: types.Vocabulary, cfg: BlockConfig
) -> Block:
  """The leftmost unfinished block of each row."""
  first = state.block * cfg.block_length - state.offset
  index = first[:, None] + jnp.arange(cfg.block_length)[None]
  column = state.tokens.shape[1] - cfg.gen_length + index
  tokens = jnp.take_along_axis(state.tokens, column, axis=1, mode='clip')
  live = ~is_done(state, vocab, cfg)
  exists = (index >= 0) & (index < cfg.gen_length)
  eligible = (tokens == vocab.mask_token) & exists & live[:, None]
  return Block(index, column, tokens, eligible, live)


def commit(
  state: DecodeState,
  block: Block,
  choice: Choice,
  *,
  vocab: types.Vocabulary,
  cfg: BlockConfig,
) -> DecodeState:
  """The state after a step that commits a choice of its active block."""
  chosen, proposal, logp = choice
  row = jnp.arange(state.tokens.shape[0])[:, None]
  size = state.tokens.shape[1]
  put = lambda old, column, new: old.at[
    row, jnp.where(chosen, column, size)
  ].set(new, mode='drop')
  took_step = block.live.astype(jnp.int32)
  state = state._replace(
    tokens=put(state.tokens, block.column, proposal),
    logp=put(state.logp, block.index, logp),
    commit_step=put(state.commit_step, block.index, state.step),
    block_step=state.block_step + took_step,
    num_steps=state.num_steps + took_step,
    step=state.step + 1,
  )
  return _enter_block(state, vocab, cfg)


def _enter_block(
  state: DecodeState, vocab: types.Vocabulary, cfg: BlockConfig
) -> DecodeState:
  """Moves each row to its leftmost block with masks, and counts those."""
  masks = undecided(state, vocab, cfg)
  first = schedules.first_true(masks)
  column = jnp.minimum(first, cfg.gen_length - 1)
  block = (state.offset + column) // cfg.block_length
  if cfg.published == 'llada':  # a block has two calls, whatever the first did
    stays = (state.block >= 0) & (state.block_step < 2)
    block = jnp.where(stays, state.block, block)
  number = state.offset[:, None] + jnp.arange(cfg.gen_length)[None]
  own = number // cfg.block_length == block[:, None]
  left = jnp.sum(masks & own, axis=1)
  moved = block != state.block
  is_first = state.block < 0
  return state._replace(
    block=block,
    last_block=jnp.where(
      is_first, block, jnp.where(moved, state.block, state.last_block)
    ),
    block_masks=jnp.where(moved, left, state.block_masks).astype(jnp.int32),
    block_step=jnp.where(moved, 0, state.block_step),
  )


def finish(
  state: DecodeState, vocab: types.Vocabulary, cfg: BlockConfig
) -> types.Trajectory:
  """The trajectory of a finished loop; masks left by early exit become EOS."""
  completion = state.tokens[:, -cfg.gen_length :]
  left = completion == vocab.mask_token
  never = state.commit_step < 0
  return types.Trajectory(
    tokens=jnp.where(left, vocab.eos_token, completion),
    logp=state.logp,
    commit_step=jnp.where(never, state.num_steps[:, None], state.commit_step),
    num_steps=state.num_steps,
  )


def run(
  step: Callable[[Key[Array, ' B'], DecodeState], DecodeState],
  row_keys: Key[Array, ' B'],
  start: DecodeState,
  *,
  vocab: types.Vocabulary,
  cfg: BlockConfig,
  lockstep: tuple[str, ...] = (),
) -> types.Trajectory:
  """Steps until every row is done.

  Args:
    step: (keys of the step, state) -> state; commits at least one token in
      every row that is not done, so that L steps are enough.
    row_keys: one key per row; step t draws from `fold_in(row_key, t)`, so that
      a row's tokens depend neither on its batch nor on its place in it.
    start: the state before the first step.
    vocab: special ids.
    cfg: the decoder, for its lengths and early exit.
    lockstep: mesh axes whose devices take equally many steps, because their
      denoisers use collectives; rows that are done stay frozen meanwhile.

  Returns:
    The completions. Tokens that the canvas already had get
    `commit_step == num_steps` and logp 0.
  """

  most_steps = cfg.gen_length * (2 if cfg.published == 'llada' else 1)

  def goes_on(state):
    return (state.step < most_steps) & ~jnp.all(is_done(state, vocab, cfg))

  def keyed(state):
    keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, state.step)
    return step(keys, state)

  state = lockstep_lib.loop_while(goes_on, keyed, start, lockstep)
  return finish(state, vocab, cfg)
