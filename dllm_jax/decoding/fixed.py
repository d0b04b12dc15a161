"""Fixed-schedule denoising: block by block, a set number of tokens a step.

LLaDA's semi-autoregressive sampler as diffu-GRPO uses it, with an attention
mask and a block pointer for each row, float32 confidences, and [MASK] never
proposed. Dream's samplers are the same with one block, the 'linear' schedule
and any order. Deviations from Dream's: confidences are those of the model, not
of the tempered and truncated distribution, unless `tempered`; with more steps
than columns, Dream makes calls that commit nothing, whereas 'linear' takes W
steps. Dims: B rows, W columns of a block, S canvas columns, V vocabulary.

References:
  Nie et al. 2025, LLaDA, arXiv:2502.09992; Zhao et al. 2025, d1,
  arXiv:2504.12216; Ye et al. 2025, Dream, arXiv:2508.15487.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dllm_jax import types, validation
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


@fields.decoder
class Fixed(block_decoder.BlockDecoder):
  """Commits a fixed number of tokens per step; a `types.Decoder`.

  Orders: 'confidence' commits the most probable proposals first (Dream's
  maskgit_plus), 'entropy' the columns with the lowest entropy, 'margin' those
  with the largest gap between the two best tokens (Dream's topk_margin),
  'random' a random choice. `logp` is that of the model's distribution, and so
  are confidences, unless `eos_rule` or `tempered` say otherwise.
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
  eos_rule: Literal['none', 'logits', 'confidence'] = fields.static(
    "LLaDA's rules: 'logits' leaves EOS out of the distribution; 'confidence' "
    'commits stop tokens last, and leaves them out of the confidences',
    default='none',
  )
  tempered: bool = fields.static(
    'order by the tempered distribution of the nucleus, as Dream does',
    default=False,
  )
  top_p: float = fields.static(
    'probability of the nucleus that proposals are drawn from; 1 is the whole '
    'vocabulary',
    default=1.0,
  )

  def __post_init__(self):
    super().__post_init__()
    validation.choices(self, 'order', 'schedule', 'eos_rule')
    validation.nucleus(self)
    if self.eos_rule == 'confidence' and (
      self.tempered or self.order != 'confidence'
    ):
      raise ValueError(
        "eos_rule 'confidence' is read with order 'confidence', not tempered"
      )
    if self.num_steps < 1 or self.num_steps % self.num_blocks:
      raise ValueError(
        f'num_steps {self.num_steps} is not a positive multiple of the '
        f'{self.num_blocks} blocks of gen_length {self.gen_length}'
      )

  def greedy(self) -> 'Fixed':
    """Without randomness, and without the nucleus of what is drawn."""
    return dataclasses.replace(self, temperature=0.0, tempered=False, top_p=1.0)

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

    Confidence is the untempered probability of the proposal, whatever T is,
    unless `tempered`.
    """
    temperature = jnp.float32(self.temperature)
    block_steps = jnp.int32(self.block_steps())
    pairs = jax.vmap(jax.random.split)(keys)
    order_keys, draw_keys = pairs[:, 0], pairs[:, 1]
    stop = jnp.array(vocab.stop_tokens)
    scale = jnp.where(temperature > 0, temperature, 1.0)
    judged = choices = logits
    if self.eos_rule == 'logits':
      judged = choices = logits.at[..., vocab.eos_token].set(-jnp.inf)
    if self.suppress_eos:
      choices = choices.at[..., stop].set(-jnp.inf)
    if self.top_p < 1.0:
      nucleus = lambda x: sampling.nucleus(x, self.top_p, scale)
      choices = jax.lax.cond(
        (temperature > 0) | self.tempered, nucleus, lambda x: x, choices
      )
    proposal = sampling.gumbel_argmax(draw_keys, choices, temperature)
    logp = confidence = sampling.token_logp(logits, proposal)
    if self.tempered:
      # A probability, of which many tie where T is small, as published.
      judged = choices / scale
      confidence = jnp.exp(sampling.token_logp(judged, proposal))
    elif self.eos_rule != 'none':
      if self.eos_rule == 'confidence':
        judged = logits.at[..., stop].set(-jnp.inf)
      confidence = sampling.token_logp(judged, proposal)
    score = ORDERS[self.order](order_keys, judged, confidence)
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
