"""Confidence-gated denoising: commits the tokens that the model is sure of.

TA-GRPO-d's two decoders differ in the gate: 'bernoulli' commits a proposal with
a probability that grows with its confidence (training), 'threshold' commits
those above a threshold (testing). Deviations: a mask, a key and a block pointer
for each row, float32 gates (D6), a fallback restricted to eligible columns that
are not yet chosen (D9), [MASK] never proposed (D8), and the vocabulary sorted
for the nucleus only if tokens are sampled (D12). Dims: B rows, W columns of a
block, S canvas columns.

References:
  Kim and Kang 2026, TA-GRPO-d, ACL (2026.acl-long.1723).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dllm_jax import types, validation
from dllm_jax.decoding import block_decoder, blocks, fields
from dllm_jax.ops import sampling


def gate_probability(
  confidence: Float[Array, '*n'],
  threshold: Float[Array, ''],
  exponent: Float[Array, ''],
) -> Float[Array, '*n']:
  """p = ( max(c - tau, 0) / (1 - tau) )^eta; 0 where c <= tau.

  Args:
    confidence: c, probability of the proposal under the untempered model.
    threshold: tau.
    exponent: eta >= 0; 0 is the threshold gate.
  """
  passed = confidence > threshold
  scale = jnp.maximum(1.0 - threshold, jnp.finfo(jnp.float32).tiny)
  share = jnp.where(passed, (confidence - threshold) / scale, 1.0)
  return jnp.where(passed, jnp.minimum(share, 1.0) ** exponent, 0.0)


@fields.decoder
class Gated(block_decoder.BlockDecoder):
  """Commits the tokens that pass a gate; a `types.Decoder`."""

  gate: Literal['bernoulli', 'threshold'] = fields.static(
    'commit at random by confidence, or all above the threshold',
    default='threshold',
  )
  threshold: types.Scalar = fields.traced(
    'confidence above which a token passes; at 1 none does, and each step '
    'commits min_commits',
    default=1.0,
  )
  inclusive: bool = fields.static(
    "'threshold': whether a confidence equal to it passes", default=False
  )
  exponent: types.Scalar = fields.traced(
    "exponent of the 'bernoulli' gate; 0 makes it the threshold gate",
    default=0.5,
  )
  min_commits: int = fields.static(
    'least number of tokens that a step commits', default=1
  )
  top_p: float = fields.static(
    'probability of the nucleus that proposals are drawn from; 1 is the whole '
    'vocabulary',
    default=1.0,
  )

  def __post_init__(self):
    super().__post_init__()
    validation.choices(self, gate=('bernoulli', 'threshold'))
    if self.inclusive and self.gate != 'threshold':
      raise ValueError("inclusive is read with gate 'threshold' alone")
    validation.positive(self, 'min_commits')
    validation.nucleus(self)
    if not -float('inf') < self.threshold <= 1:
      raise ValueError(
        f'threshold {self.threshold} must be finite and at most 1'
      )
    validation.finite_not_negative(self, 'exponent')

  def largest_commit(self) -> int:
    """A whole block."""
    return self.block_length

  def greedy(self) -> 'Gated':
    """The deterministic gate at the same threshold."""
    return dataclasses.replace(
      self, temperature=0.0, gate='threshold', min_commits=1, top_p=1.0
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
    """What passes the gate, at least `min_commits` tokens.

    See `BlockDecoder.choose`.
    """
    temperature = jnp.float32(self.temperature)
    threshold = jnp.float32(self.threshold)
    pairs = jax.vmap(jax.random.split)(keys)
    gate_keys, draw_keys = pairs[:, 0], pairs[:, 1]
    choices = logits
    if self.top_p < 1.0:
      choices = jax.lax.cond(
        temperature > 0,
        lambda x: sampling.nucleus(x, self.top_p, temperature),
        lambda x: x,
        logits,
      )
    proposal = sampling.gumbel_argmax(draw_keys, choices, temperature)
    logp = sampling.token_logp(logits, proposal)
    confidence = jnp.exp(logp)

    if self.gate == 'threshold':
      passed = confidence > threshold
      if self.inclusive:
        passed |= confidence == threshold
    else:
      draw = lambda key: jax.random.uniform(key, (self.block_length,))
      uniform = jax.vmap(draw)(gate_keys)
      passed = (
        gate_probability(confidence, threshold, jnp.float32(self.exponent))
        > uniform
      )
    passed &= block.eligible
    missing = self.min_commits - jnp.sum(passed, axis=1)
    others = block.eligible & ~passed
    chosen = passed | sampling.top_quota(logp, others, missing)
    return blocks.Choice(chosen, proposal, logp)
