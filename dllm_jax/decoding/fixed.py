"""Fixed-schedule denoising: block by block, a set number of tokens a step.

LLaDA's semi-autoregressive sampler as diffu-GRPO uses it, with a mask and a
block pointer for every row, float32 gates, and [MASK] never proposed. Dream's
samplers are the same with one block, its schedule and one of the orders that
read the whole distribution. Deviations from Dream's: its confidences are those
of the tempered and cut distribution, ours of the model; with more steps than
columns it makes calls that commit nothing, where 'linear' here takes W steps
and so times the whole schedule anew. Dims: B rows, W columns of a block,
S canvas columns, V vocabulary.

References:
  Nie et al. 2025, LLaDA, arXiv:2502.09992; Zhao et al. 2025, d1,
  arXiv:2504.12216; Ye et al. 2025, Dream, arXiv:2508.15487.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.decoding import blocks
from dllm_jax.ops import sampling, schedules


def _random(
  keys: Key[Array, ' B'], logits: Float[Array, 'B W V'], _
) -> Float[Array, 'B W']:
  draw = lambda key: jax.random.uniform(key, logits.shape[1:2])
  return jax.vmap(draw)(keys)


# Which columns come first: (keys, logits, log-probabilities of the proposals)
# -> scores, the highest first.
ORDERS = {
  'confidence': lambda keys, logits, logp: logp,
  'random': _random,
  'entropy': lambda keys, logits, logp: -sampling.entropy(logits),
  'margin': lambda keys, logits, logp: sampling.margin(logits),
}
SCHEDULES = ('even', 'linear')


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedConfig(blocks.BlockConfig):
  """What is static about a fixed schedule.

  Attributes:
    order: 'confidence' commits the most probable proposals first (Dream's
      maskgit_plus), 'entropy' where the distribution is the sharpest, 'margin'
      where the best token is furthest ahead of the next (Dream's topk_margin),
      'random' any of the block's.
    schedule: 'even' shares a block's masks evenly among its steps, 'linear'
      as Dream does (`schedules.linear_quota`).
    suppress_eos: stop tokens are never proposed; their probability still counts
      in the confidences and in `logp`.
  """

  order: Literal['confidence', 'random', 'entropy', 'margin'] = 'confidence'
  schedule: Literal['even', 'linear'] = 'even'
  suppress_eos: bool = False

  def __post_init__(self):
    super().__post_init__()
    if self.order not in ORDERS:
      raise ValueError(f'order {self.order!r} is not one of {tuple(ORDERS)}')
    if self.schedule not in SCHEDULES:
      raise ValueError(f'schedule {self.schedule!r} is not one of {SCHEDULES}')

  def steps_per_block(self, num_steps: int) -> int:
    """Denoising steps of a block, of `num_steps` in all; at least 1."""
    return max(1, num_steps // self.num_blocks)

  def largest_commit(self, num_steps: int) -> int:
    """The most tokens that a step of the schedule commits."""
    steps = self.steps_per_block(num_steps)
    if self.schedule == 'linear':
      return schedules.largest_linear_quota(
        self.block_length, min(steps, self.block_length)
      )
    return schedules.largest_quota(self.block_length, steps)


def fixed_step(
  denoiser: types.Denoiser,
  params: types.Params,
  keys: Key[Array, ' B'],
  state: blocks.DecodeState,
  attention_mask: Bool[Array, 'B S'],
  block_steps: Int[Array, ''],
  temperature: Float[Array, ''],
  *,
  vocab: types.Vocabulary,
  cfg: FixedConfig,
) -> blocks.DecodeState:
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
  block = blocks.active(state, vocab, cfg)
  logits = denoiser(params, state.tokens, attention_mask, block.column)
  logits = sampling.allowed_logits(logits, vocab)
  pairs = jax.vmap(jax.random.split)(keys)
  order_keys, draw_keys = pairs[:, 0], pairs[:, 1]
  choices = logits
  if cfg.suppress_eos:
    choices = logits.at[..., jnp.array(vocab.stop_tokens)].set(-jnp.inf)
  proposal = sampling.gumbel_argmax(draw_keys, choices, temperature)
  logp = sampling.token_logp(logits, proposal)
  score = ORDERS[cfg.order](order_keys, logits, logp)
  if cfg.schedule == 'linear':
    quota = schedules.linear_quota(
      jnp.sum(block.eligible, axis=1),
      jnp.minimum(block_steps, cfg.block_length),
      state.block_step,
    )
  else:
    quota = schedules.step_quota(
      state.block_masks, block_steps, state.block_step
    )
  chosen = sampling.top_quota(score, block.eligible, quota)
  return blocks.commit(
    state, block, chosen, proposal, logp, vocab=vocab, cfg=cfg
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
  """Denoises every row of the canvas to its end, as `blocks.run` does.

  Args:
    denoiser: the model.
    params: its parameters.
    row_keys: one key a row.
    canvas: prompts, and completions of L columns; only [MASK] is decided.
    block_steps: denoising steps of a block (`FixedConfig.steps_per_block`),
      traced: one compilation serves a sweep.
    temperature: T >= 0, traced; 0 is greedy.
    vocab: special ids.
    cfg: the schedule.

  Returns:
    The completions.
  """

  def step(keys, state):
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

  return blocks.run(step, row_keys, canvas, vocab=vocab, cfg=cfg)
