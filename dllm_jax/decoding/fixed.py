"""Fixed-schedule denoising: block by block, a set number of tokens a step.

LLaDA's semi-autoregressive sampler as diffu-GRPO uses it, with a mask and a
block pointer for every row, float32 gates, and [MASK] never proposed. Dims: B
rows, L completion columns, W columns of a block, S canvas columns.

References:
  Nie et al. 2025, LLaDA, arXiv:2502.09992; Zhao et al. 2025, d1,
  arXiv:2504.12216.
"""

import dataclasses
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.ops import sampling, schedules


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedConfig:
  """What is static about a fixed schedule.

  Attributes:
    gen_length: L.
    block_length: W; blocks are completed from left to right.
    order: 'confidence' commits the most probable proposals first, 'random'
      any of the block's.
    stop_at_eos: a row is done once everything up to its first EOS is decided;
      what follows becomes EOS. The tokens up to there are the same either way.
    suppress_eos: EOS is never proposed; its probability still counts in the
      confidences and in `logp`.
  """

  gen_length: int
  block_length: int
  order: Literal['confidence', 'random'] = 'confidence'
  stop_at_eos: bool = False
  suppress_eos: bool = False

  def __post_init__(self):
    if self.block_length < 1 or self.gen_length % self.block_length:
      raise ValueError(
        f'gen_length {self.gen_length} is not a multiple of block_length '
        f'{self.block_length}'
      )
    if self.order not in ('confidence', 'random'):
      raise ValueError(f"order {self.order!r} is not 'confidence' or 'random'")

  @property
  def num_blocks(self) -> int:
    return self.gen_length // self.block_length

  def steps_per_block(self, num_steps: int) -> int:
    """Denoising steps of a block, of `num_steps` in all; at least 1."""
    return max(1, num_steps // self.num_blocks)


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
  canvas: types.Canvas, vocab: types.Vocabulary, cfg: FixedConfig
) -> DecodeState:
  """The state before the first step."""
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
  state: DecodeState, vocab: types.Vocabulary, cfg: FixedConfig
) -> Bool[Array, 'B L']:
  """Completion positions that still hold [MASK]."""
  return state.tokens[:, -cfg.gen_length :] == vocab.mask_token


def is_done(
  state: DecodeState, vocab: types.Vocabulary, cfg: FixedConfig
) -> Bool[Array, ' B']:
  """Rows that need no further step."""
  masks = undecided(state, vocab, cfg)
  done = ~jnp.any(masks, axis=-1)
  if cfg.stop_at_eos:
    completion = state.tokens[:, -cfg.gen_length :]
    first_eos = schedules.first_true(completion == vocab.eos_token)
    first_mask = schedules.first_true(masks)
    done |= first_eos < first_mask
  return done


def fixed_step(
  denoiser: types.Denoiser,
  params: types.Params,
  keys: Key[Array, ' B'],
  state: DecodeState,
  attention_mask: Bool[Array, 'B S'],
  block_steps: Int[Array, ''],
  temperature: Float[Array, ''],
  *,
  vocab: types.Vocabulary,
  cfg: FixedConfig,
) -> DecodeState:
  """One denoiser call, one commitment in the active block of every live row.

  Confidence is the untempered probability of the proposal, whatever T is.

  Args:
    denoiser: the model.
    params: its parameters.
    keys: one key a row, for this step; consumed.
    state: what the step before left.
    attention_mask: real tokens of the canvas.
    block_steps: denoising steps of a block.
    temperature: T >= 0 of the proposals.
    vocab: special ids.
    cfg: the schedule.

  Returns:
    The next state; rows that were done are unchanged.
  """
  width, length = cfg.block_length, cfg.gen_length
  rows, size = state.tokens.shape
  in_block = state.block[:, None] * width + jnp.arange(width)[None]  # [B, W]
  column = size - length + in_block
  live = ~is_done(state, vocab, cfg)

  logits = denoiser(params, state.tokens, attention_mask, column)
  logits = sampling.allowed_logits(logits, vocab)
  pairs = jax.vmap(jax.random.split)(keys)
  order_keys, draw_keys = pairs[:, 0], pairs[:, 1]
  choices = logits
  if cfg.suppress_eos:
    choices = logits.at[..., vocab.eos_token].set(-jnp.inf)
  proposal = sampling.gumbel_argmax(draw_keys, choices, temperature)
  logp = sampling.token_logp(logits, proposal)
  if cfg.order == 'random':
    draw = lambda key: jax.random.uniform(key, (width,))
    score = jax.vmap(draw)(order_keys)
  else:
    score = logp

  current = jnp.take_along_axis(state.tokens, column, axis=1)
  eligible = (current == vocab.mask_token) & live[:, None]
  quota = schedules.step_quota(state.block_masks, block_steps, state.block_step)
  commit = sampling.top_quota(score, eligible, quota)

  row = jnp.arange(rows)[:, None]
  old_logp = jnp.take_along_axis(state.logp, in_block, axis=1)
  old_step = jnp.take_along_axis(state.commit_step, in_block, axis=1)
  took_step = live.astype(jnp.int32)
  state = state._replace(
    tokens=state.tokens.at[row, column].set(
      jnp.where(commit, proposal, current)
    ),
    logp=state.logp.at[row, in_block].set(jnp.where(commit, logp, old_logp)),
    commit_step=state.commit_step.at[row, in_block].set(
      jnp.where(commit, state.step, old_step)
    ),
    block_step=state.block_step + took_step,
    num_steps=state.num_steps + took_step,
    step=state.step + 1,
  )
  return _enter_block(state, vocab, cfg)


def _enter_block(
  state: DecodeState, vocab: types.Vocabulary, cfg: FixedConfig
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
  state: DecodeState, vocab: types.Vocabulary, cfg: FixedConfig
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


def decode(
  denoiser: types.Denoiser,
  params: types.Params,
  row_keys: Key[Array, ' B'],
  canvas: types.Canvas,
  block_steps: Int[Array, ''],
  temperature: Float[Array, ''],
  *,
  vocab: types.Vocabulary,
  cfg: FixedConfig,
) -> types.Trajectory:
  """Denoises every row of the canvas to its end.

  Args:
    denoiser: the model.
    params: its parameters.
    row_keys: one key a row; step t draws from `fold_in(row_key, t)`, so that a
      row's tokens depend neither on its batch nor on its place in it.
    canvas: prompts, and completions of L columns; only [MASK] is decided, so
      tokens already there (an anchor, a finished reasoning) stay.
    block_steps: denoising steps of a block (`FixedConfig.steps_per_block`),
      traced: one compilation serves a sweep.
    temperature: T >= 0, traced; 0 is greedy.
    vocab: special ids.
    cfg: the schedule.

  Returns:
    The completions. Positions that the canvas already held keep
    `commit_step == num_steps` and logp 0.
  """

  def body(state):
    keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, state.step)
    return fixed_step(
      denoiser,
      params,
      keys,
      state,
      canvas.attention_mask,
      block_steps,
      temperature,
      vocab=vocab,
      cfg=cfg,
    )

  state = jax.lax.while_loop(
    # Every step commits a token of every live row.
    lambda state: (
      (state.step < cfg.gen_length) & ~jnp.all(is_done(state, vocab, cfg))
    ),
    body,
    init_state(canvas, vocab, cfg),
  )
  return finish(state, vocab, cfg)


def largest_commit(cfg: FixedConfig, num_steps: int) -> int:
  """The most tokens that a step of the schedule commits."""
  return schedules.largest_quota(
    cfg.block_length, cfg.steps_per_block(num_steps)
  )


def replay(
  trajectory: types.Trajectory, step: Int[Array, ' B'], mask_token: int
) -> Int[Array, 'B L']:
  """The completion that denoising step `step` of each row read.

  where(commit_step < t, tokens, mask_token); valid since no step remasks.
  """
  seen = trajectory.commit_step < step[:, None]
  return jnp.where(seen, trajectory.tokens, mask_token)
