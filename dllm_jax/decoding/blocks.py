"""What semi-autoregressive denoising shares: rows, blocks and the loop.

The completion is split into blocks that are completed from left to right. Every
row has a block pointer of its own and is frozen once it is done, so that its
tokens depend on itself alone. A decoder is a step: it reads the active block,
and says which proposals to commit. Dims: B rows, L completion columns, W
columns of a block, S canvas columns.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.ops import schedules


def static(help: str, **field: Any) -> Any:
  """A decoder's field that is part of the compiled program."""
  return dataclasses.field(metadata={'help': help, 'static': True}, **field)


def traced(help: str, **field: Any) -> Any:
  """A decoder's field that is an input of the compiled program.

  A number, or None where `None` has a meaning of its own; one compilation
  serves a sweep over it.
  """
  return dataclasses.field(metadata={'help': help, 'static': False}, **field)


def decoder(cls: type) -> type:
  """Makes a class of `static` and `traced` fields a decoder.

  It becomes a frozen dataclass and a pytree whose leaves are the traced fields.
  Values are checked where a decoder is made, not where JAX rebuilds one.
  """
  cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
  names = {True: [], False: []}
  for field in dataclasses.fields(cls):
    names[field.metadata['static']].append(field.name)

  def values(self, is_static):
    return tuple(getattr(self, name) for name in names[is_static])

  def rebuild(static_values, leaves):
    self = object.__new__(cls)
    for name, value in zip(
      names[True] + names[False], (*static_values, *leaves), strict=True
    ):
      object.__setattr__(self, name, value)
    return self

  jax.tree_util.register_pytree_node(
    cls, lambda self: (values(self, False), values(self, True)), rebuild
  )
  return cls


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockDecoder:
  """The fields that every decoder here has; each one is a flag of a command.

  A decoder is a frozen dataclass and a pytree (`decoder`). It is called as

    trajectory = decoder(denoiser, params, row_keys, canvas, vocab=vocab)

  and says `largest_commit()`, the most tokens that one of its steps commits.
  """

  gen_length: int = static('completion tokens')
  block_length: int = static('tokens of a block; blocks go from left to right')
  stop_at_eos: bool = static(
    'leave a row once its text has ended; the tokens up to there are the same',
    default=False,
  )
  temperature: types.Scalar = traced(
    'of the proposals; 0 is greedy', default=0.0
  )
  cfg_scale: types.Scalar | None = traced(
    'of classifier-free guidance; 0 is off', default=None
  )

  def __post_init__(self):
    length, width = self.gen_length, self.block_length
    if length < 1 or width < 1 or length % width:
      raise ValueError(
        f'gen_length {length} is not a positive multiple of block_length '
        f'{width}'
      )
    if not 0 <= self.temperature < float('inf'):
      raise ValueError(
        f'temperature {self.temperature} must be finite and not negative'
      )
    if self.cfg_scale is not None and not 0 <= self.cfg_scale < float('inf'):
      raise ValueError(
        f'cfg_scale {self.cfg_scale} must be finite and not negative'
      )
    if self.cfg_scale == 0:  # No leaf, so that nothing is computed for it.
      object.__setattr__(self, 'cfg_scale', None)

  @property
  def num_blocks(self) -> int:
    return self.gen_length // self.block_length

  def greedy(self) -> 'BlockDecoder':
    """The same decoder without any randomness."""
    return dataclasses.replace(self, temperature=0.0)

  def resized(
    self, gen_length: int, block_length: int | None = None
  ) -> 'BlockDecoder':
    """The same decoder for completions of another length, or other blocks.

    Args:
      gen_length: L of the result.
      block_length: of its blocks; None is its own, or L where that is less.
    """
    if block_length is None:
      block_length = min(self.block_length, gen_length)
    return dataclasses.replace(
      self, gen_length=gen_length, block_length=block_length
    )


class DecodeState(NamedTuple):
  """The carry of the loop.

  Attributes:
    tokens: the canvas.
    logp: log-probability at commitment.
    commit_step: step of commitment; -1 while undecided.
    block: block that the row works on.
    block_masks: masks of that block when the row entered it.
    block_step: steps that the row has spent in it.
    num_steps: steps that the row has taken.
    step: steps that the loop has taken.
  """

  tokens: Int[Array, 'B S']
  logp: Float[Array, 'B L']
  commit_step: Int[Array, 'B L']
  block: Int[Array, ' B']
  block_masks: Int[Array, ' B']
  block_step: Int[Array, ' B']
  num_steps: Int[Array, ' B']
  step: Int[Array, '']


def init_state(
  canvas: types.Canvas, vocab: types.Vocabulary, cfg: BlockDecoder
) -> DecodeState:
  """The state before the first step.

  Raises:
    ValueError: the vocabulary has no [MASK].
  """
  vocab.need_mask()
  chex.assert_equal_shape([canvas.tokens, canvas.attention_mask])
  rows = canvas.tokens.shape[0]
  zeros = jnp.zeros(rows, jnp.int32)
  completion = jnp.zeros((rows, cfg.gen_length))
  state = DecodeState(
    tokens=canvas.tokens,
    logp=completion,
    commit_step=jnp.full(completion.shape, -1, jnp.int32),
    block=zeros - 1,
    block_masks=zeros,
    block_step=zeros,
    num_steps=zeros,
    step=jnp.int32(0),
  )
  return _enter_block(state, vocab, cfg)


def undecided(
  state: DecodeState, vocab: types.Vocabulary, cfg: BlockDecoder
) -> Bool[Array, 'B L']:
  """Completion positions that still hold [MASK]."""
  return state.tokens[:, -cfg.gen_length :] == vocab.mask_token


def is_done(
  state: DecodeState, vocab: types.Vocabulary, cfg: BlockDecoder
) -> Bool[Array, ' B']:
  """Rows that need no further step."""
  masks = undecided(state, vocab, cfg)
  done = ~jnp.any(masks, axis=-1)
  if cfg.stop_at_eos:
    completion = state.tokens[:, -cfg.gen_length :]
    first_stop = schedules.first_true(vocab.ends(completion))
    first_mask = schedules.first_true(masks)
    done |= first_stop < first_mask
  return done


class Block(NamedTuple):
  """Where the active block of every row lies, and what may be decided there.

  Attributes:
    index: completion columns of the block.
    column: the same as canvas columns.
    tokens: what the canvas holds there.
    eligible: masks of rows that are not done.
  """

  index: Int[Array, 'B W']
  column: Int[Array, 'B W']
  tokens: Int[Array, 'B W']
  eligible: Bool[Array, 'B W']


def active(
  state: DecodeState, vocab: types.Vocabulary, cfg: BlockDecoder
) -> Block:
  """The block that each row works on."""
  index = state.block[:, None] * cfg.block_length
  index = index + jnp.arange(cfg.block_length)[None]
  column = state.tokens.shape[1] - cfg.gen_length + index
  tokens = jnp.take_along_axis(state.tokens, column, axis=1)
  live = ~is_done(state, vocab, cfg)
  return Block(
    index, column, tokens, (tokens == vocab.mask_token) & live[:, None]
  )


def commit(
  state: DecodeState,
  block: Block,
  chosen: Bool[Array, 'B W'],
  proposal: Int[Array, 'B W'],
  logp: Float[Array, 'B W'],
  *,
  vocab: types.Vocabulary,
  cfg: BlockDecoder,
) -> DecodeState:
  """The state after a step that commits the chosen proposals.

  Args:
    state: before the step.
    block: of `active`.
    chosen: eligible columns to commit.
    proposal: token of each column.
    logp: its log-probability.
    vocab: special ids.
    cfg: blocks.
  """
  row = jnp.arange(state.tokens.shape[0])[:, None]
  old_logp = jnp.take_along_axis(state.logp, block.index, axis=1)
  old_step = jnp.take_along_axis(state.commit_step, block.index, axis=1)
  took_step = jnp.any(block.eligible, axis=1).astype(jnp.int32)
  state = state._replace(
    tokens=state.tokens.at[row, block.column].set(
      jnp.where(chosen, proposal, block.tokens)
    ),
    logp=state.logp.at[row, block.index].set(jnp.where(chosen, logp, old_logp)),
    commit_step=state.commit_step.at[row, block.index].set(
      jnp.where(chosen, state.step, old_step)
    ),
    block_step=state.block_step + took_step,
    num_steps=state.num_steps + took_step,
    step=state.step + 1,
  )
  return _enter_block(state, vocab, cfg)


def _enter_block(
  state: DecodeState, vocab: types.Vocabulary, cfg: BlockDecoder
) -> DecodeState:
  """Points each row at its leftmost block with masks; counts them on entry."""
  masks = undecided(state, vocab, cfg)
  first = schedules.first_true(masks)
  block = jnp.minimum(first // cfg.block_length, cfg.num_blocks - 1)
  per_block = masks.reshape(-1, cfg.num_blocks, cfg.block_length).sum(-1)
  left = jnp.take_along_axis(per_block, block[:, None], axis=1)[:, 0]
  moved = block != state.block
  return state._replace(
    block=block,
    block_masks=jnp.where(moved, left, state.block_masks).astype(jnp.int32),
    block_step=jnp.where(moved, 0, state.block_step),
  )


def finish(
  state: DecodeState, vocab: types.Vocabulary, cfg: BlockDecoder
) -> types.Trajectory:
  """The trajectory of a finished loop; what an early exit left becomes EOS."""
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
  canvas: types.Canvas,
  *,
  vocab: types.Vocabulary,
  cfg: BlockDecoder,
  lockstep: tuple[str, ...] = (),
) -> types.Trajectory:
  """Steps until every row is done.

  Args:
    step: (keys of the step, state) -> state; L steps finish every row.
    row_keys: one key a row; step t draws from `fold_in(row_key, t)`, so that a
      row's tokens depend neither on its batch nor on its place in it.
    canvas: prompts, and completions of L columns; only [MASK] is decided, so
      tokens already there (an anchor, a finished reasoning) stay.
    vocab: special ids.
    cfg: lengths of completion and blocks.
    lockstep: mesh axes whose devices take equally many steps, since their
      denoisers meet in collectives; rows that are done are frozen meanwhile.

  Returns:
    The completions. Positions that the canvas already held keep
    `commit_step == num_steps` and logp 0.
  """

  def unfinished(state):
    here = (state.step < cfg.gen_length) & ~jnp.all(is_done(state, vocab, cfg))
    if not lockstep:
      return here
    return jax.lax.psum(here.astype(jnp.int32), lockstep) > 0

  def body(carry):
    state, _ = carry
    keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, state.step)
    state = step(keys, state)
    return state, unfinished(state)

  # The condition is carried, so that collectives are in the body alone.
  start = init_state(canvas, vocab, cfg)
  state, _ = jax.lax.while_loop(
    lambda carry: carry[1], body, (start, unfinished(start))
  )
  return finish(state, vocab, cfg)
