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
from jaxtyping import Array, Bool, Float, Key

from dllm_jax import types
from dllm_jax.decoding import blocks, guidance
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


@blocks.decoder
class Fixed(blocks.BlockDecoder):
  """Commits a set number of tokens a step; a `types.Decoder`.

  Orders: 'confidence' commits the most probable proposals first (Dream's
  maskgit_plus), 'entropy' those whose distribution is the sharpest, 'margin'
  those whose best token is furthest ahead of the next (Dream's topk_margin),
  'random' any of the block's. With `suppress_eos` the stop tokens'
  probabilities still count in the confidences and in `logp`.
  """

  num_steps: types.Scalar = blocks.traced('denoising steps in all')
  order: Literal['confidence', 'random', 'entropy', 'margin'] = blocks.static(
    'which tokens come first', default='confidence'
  )
  schedule: Literal['even', 'linear'] = blocks.static(
    "how tokens are shared among a block's steps: evenly, or as Dream does",
    default='even',
  )
  suppress_eos: bool = blocks.static(
    'never propose a stop token', default=False
  )

  def __post_init__(self):
    super().__post_init__()
    if self.order not in ORDERS:
      raise ValueError(f'order {self.order!r}: expected one of {tuple(ORDERS)}')
    if self.schedule not in SCHEDULES:
      raise ValueError(
        f'schedule {self.schedule!r}: expected one of {SCHEDULES}'
      )
    if self.num_steps < 1 or self.num_steps % self.num_blocks:
      raise ValueError(
        f'num_steps {self.num_steps} is not a positive multiple of the '
        f'{self.num_blocks} blocks of gen_length {self.gen_length}'
      )

  def block_steps(self) -> types.Scalar:
    """Denoising steps of a block."""
    return self.num_steps // self.num_blocks

  def largest_commit(self) -> int:
    """The most tokens that a step commits."""
    steps = self.block_steps()
    if self.schedule == 'linear':
      return schedules.largest_linear_quota(
        self.block_length, min(steps, self.block_length)
      )
    return schedules.largest_quota(self.block_length, steps)

  def resized(
    self, gen_length: int, block_length: int | None = None
  ) -> 'Fixed':
    """As `BlockDecoder.resized`; as many tokens a step as blocks allow."""
    if block_length is None:
      block_length = min(self.block_length, gen_length)
    num_blocks = max(1, gen_length // max(1, block_length))
    steps = gen_length * self.num_steps // self.gen_length
    return dataclasses.replace(
      self,
      gen_length=gen_length,
      block_length=block_length,
      num_steps=max(1, steps // num_blocks) * num_blocks,
    )

  def __call__(
    self,
    denoiser: types.Denoiser,
    params: types.Params,
    row_keys: Key[Array, ' B'],
    canvas: types.Canvas,
    *,
    vocab: types.Vocabulary,
    lockstep: tuple[str, ...] = (),
  ) -> types.Trajectory:
    """Denoises every row of the canvas to its end; see `blocks.run`."""
    denoiser, params = guidance.guided(
      denoiser, params, self.cfg_scale, gen_length=self.gen_length, vocab=vocab
    )

    def step(keys, state):
      return fixed_step(
        denoiser, params, keys, state, canvas.attention_mask, self, vocab=vocab
      )

    return blocks.run(
      step, row_keys, canvas, vocab=vocab, cfg=self, lockstep=lockstep
    )


def fixed_step(
  denoiser: types.Denoiser,
  params: types.Params,
  keys: Key[Array, ' B'],
  state: blocks.DecodeState,
  attention_mask: Bool[Array, 'B S'],
  cfg: Fixed,
  *,
  vocab: types.Vocabulary,
) -> blocks.DecodeState:
  """One denoiser call, one commitment in the active block of every live row.

  Confidence is the untempered probability of the proposal, whatever T is.

  Args:
    denoiser: the model.
    params: its parameters.
    keys: one key a row, for this step; consumed.
    state: what the step before left.
    attention_mask: real tokens of the canvas.
    cfg: the schedule and its temperature.
    vocab: special ids.

  Returns:
    The next state; rows that were done are unchanged.
  """
  temperature = jnp.float32(cfg.temperature)
  block_steps = jnp.int32(cfg.block_steps())
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
