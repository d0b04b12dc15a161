"""Fixed-schedule denoising: block by block, a set number of tokens a step.

LLaDA's semi-autoregressive sampler as diffu-GRPO uses it, with an attention
mask and a block pointer for each row, float32 confidences, and [MASK] never
proposed. Dream's samplers are the same with one block, the 'linear' schedule
and any order. Deviations from Dream's: confidences are those of the model, not
of the tempered and truncated distribution; with more steps than columns, Dream
makes calls that commit nothing, whereas 'linear' takes W steps. Dims: B rows,
W columns of a block, S canvas columns, V vocabulary.

References:
  Nie et al. 2025, LLaDA, arXiv:2502.09992; Zhao et al. 2025, d1,
  arXiv:2504.12216; Ye et al. 2025, Dream, arXiv:2508.15487.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dllm_jax import types
from dllm_jax.decoding import block_decoder, blocks, fields
from dllm_jax.ops import sampling, schedules


def _random(
  keys: Key[Array, ' B'], logits: Float[Array, 'B W V'], _
) -> Float[Array, 'B W']:
  draw = lambda key: jax.random.uniform(key, logits.shape[1:2])
  return jax.vmap(draw)(keys)


# (keys, logits, log-probabilities of the proposals) -> scores; the columns with
# the highest scores are committed first.
ORDERS = {
  'confidence': lambda keys, logits, logp: logp,
  'random': _random,
  'entropy': lambda keys, logits, logp: -sampling.entropy(logits),
  'margin': lambda keys, logits, logp: sampling.margin(logits),
}
SCHEDULES = ('even', 'linear')


@fields.decoder
class Fixed(block_decoder.BlockDecoder):
  """Commits a fixed number of tokens per step; a `types.Decoder`.

  Orders: 'confidence' commits the most probable proposals first (Dream's
  maskgit_plus), 'entropy' the columns with the lowest entropy, 'margin' those
  with the largest gap between the two best tokens (Dream's topk_margin),
  'random' a random choice. With `suppress_eos`, confidences and `logp` are
  still those of the distribution that includes the stop tokens.
  """

  num_steps: types.Scalar = fields.traced('denoising steps in all', kind=int)
  order: Literal['confidence', 'random', 'entropy', 'margin'] = fields.static(
    'which tokens are committed first', default='confidence'
  )
  schedule: Literal['even', 'linear'] = fields.static(
    "how a block's tokens are distributed over its steps: evenly, or as Dream "
    'does',
    default='even',
  )
  suppress_eos: bool = fields.static(
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
    """Denoising steps per block."""
    return self.num_steps // self.num_blocks

  def largest_commit(self) -> int:
    """The largest quota of a step."""
    steps = self.block_steps()
    if self.schedule == 'linear':
      return schedules.largest_linear_quota(
        self.block_length, min(steps, self.block_length)
      )
    return schedules.largest_quota(self.block_length, steps)

  def resized(
    self, gen_length: int, block_length: int | None = None
  ) -> 'Fixed':
    """See `BlockDecoder.resized`; keeps the tokens per step if blocks allow."""
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

  def choose(
    self,
    keys: Key[Array, ' B'],
    state: blocks.DecodeState,
    block: blocks.Block,
    logits: Float[Array, 'B W V'],
    *,
    vocab: types.Vocabulary,
  ) -> blocks.Choice:
    """The quota of the active block; see `BlockDecoder.choose`.

    Confidence is the untempered probability of the proposal, whatever T is.
    """
    temperature = jnp.float32(self.temperature)
    block_steps = jnp.int32(self.block_steps())
    pairs = jax.vmap(jax.random.split)(keys)
    order_keys, draw_keys = pairs[:, 0], pairs[:, 1]
    choices = logits
    if self.suppress_eos:
      choices = logits.at[..., jnp.array(vocab.stop_tokens)].set(-jnp.inf)
    proposal = sampling.gumbel_argmax(draw_keys, choices, temperature)
    logp = sampling.token_logp(logits, proposal)
    score = ORDERS[self.order](order_keys, logits, logp)
    if self.schedule == 'linear':
      quota = schedules.linear_quota(
        jnp.sum(block.eligible, axis=1),
        # Never more than its masks, so that L steps are enough for a row.
        jnp.minimum(block_steps, jnp.maximum(state.block_masks, 1)),
        state.block_step,
      )
    else:
      quota = schedules.step_quota(
        state.block_masks, block_steps, state.block_step
      )
    chosen = sampling.top_quota(score, block.eligible, quota)
    return blocks.Choice(chosen, proposal, logp)
