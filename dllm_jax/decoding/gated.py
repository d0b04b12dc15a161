"""Confidence-gated denoising: as many tokens a step as the model is sure of.

TA-GRPO-d's two decoders are one step with two gates: 'bernoulli' commits a
proposal with a probability that grows with its confidence (training), and
'threshold' commits those above a bar (testing). Deviations: a mask, a key and a
block pointer for every row, float32 gates (D6), a fallback that picks among
what is eligible and not yet chosen (D9), [MASK] never proposed (D8), the
nucleus sorted only where something is sampled (D12). Dims: B rows, W columns of
a block, S canvas columns.

References:
  Kim and Kang 2026, TA-GRPO-d, ACL (2026.acl-long.1723).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from dllm_jax import types
from dllm_jax.decoding import blocks, guidance
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


@blocks.decoder
class Gated(blocks.BlockDecoder):
  """Commits the tokens that pass a gate; a `types.Decoder`."""

  gate: Literal['bernoulli', 'threshold'] = blocks.static(
    'commit at random by confidence, or all above the threshold',
    default='threshold',
  )
  threshold: types.Scalar = blocks.traced(
    'confidence above which the gate passes; 1 commits min_commits a step',
    default=1.0,
  )
  exponent: types.Scalar = blocks.traced(
    "of the 'bernoulli' gate; 0 makes it the threshold gate", default=0.5
  )
  min_commits: int = blocks.static(
    'tokens that a step commits where the gate passes fewer', default=1
  )
  top_p: float = blocks.static(
    'nucleus that proposals are drawn from; 1 is the whole vocabulary',
    default=1.0,
  )

  def __post_init__(self):
    super().__post_init__()
    if self.gate not in ('bernoulli', 'threshold'):
      raise ValueError(
        f"gate {self.gate!r}: expected one of 'bernoulli', 'threshold'"
      )
    if self.min_commits < 1:
      raise ValueError(f'min_commits {self.min_commits} is not positive')
    if not 0.0 < self.top_p <= 1.0:
      raise ValueError(f'top_p {self.top_p} is outside (0, 1]')
    if not -float('inf') < self.threshold <= 1:
      raise ValueError(
        f'threshold {self.threshold} must be finite and at most 1'
      )
    if not 0 <= self.exponent < float('inf'):
      raise ValueError(
        f'exponent {self.exponent} must be finite and not negative'
      )

  def largest_commit(self) -> int:
    """The most tokens that a step commits: a whole block."""
    return self.block_length

  def greedy(self) -> 'Gated':
    """The deterministic gate at the same threshold."""
    return dataclasses.replace(
      self, temperature=0.0, gate='threshold', min_commits=1, top_p=1.0
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
      return gated_step(
        denoiser, params, keys, state, canvas.attention_mask, self, vocab=vocab
      )

    return blocks.run(
      step, row_keys, canvas, vocab=vocab, cfg=self, lockstep=lockstep
    )


def gated_step(
  denoiser: types.Denoiser,
  params: types.Params,
  keys: Key[Array, ' B'],
  state: blocks.DecodeState,
  attention_mask: Bool[Array, 'B S'],
  cfg: Gated,
  *,
  vocab: types.Vocabulary,
) -> blocks.DecodeState:
  """One denoiser call; commits what passes the gate, at least `min_commits`.

  Args:
    denoiser: the model.
    params: its parameters.
    keys: one key a row, for this step; consumed.
    state: what the step before left.
    attention_mask: real tokens of the canvas.
    cfg: the gate, with threshold tau, exponent eta and temperature.
    vocab: special ids.

  Returns:
    The next state; rows that were done are unchanged.
  """
  temperature = jnp.float32(cfg.temperature)
  threshold = jnp.float32(cfg.threshold)
  block = blocks.active(state, vocab, cfg)
  logits = denoiser(params, state.tokens, attention_mask, block.column)
  logits = sampling.allowed_logits(logits, vocab)
  pairs = jax.vmap(jax.random.split)(keys)
  gate_keys, draw_keys = pairs[:, 0], pairs[:, 1]
  choices = logits
  if cfg.top_p < 1.0:
    choices = jax.lax.cond(
      temperature > 0,
      lambda x: sampling.nucleus(x, cfg.top_p, temperature),
      lambda x: x,
      logits,
    )
  proposal = sampling.gumbel_argmax(draw_keys, choices, temperature)
  logp = sampling.token_logp(logits, proposal)
  confidence = jnp.exp(logp)

  if cfg.gate == 'threshold':
    passed = confidence > threshold
  else:
    draw = lambda key: jax.random.uniform(key, (cfg.block_length,))
    uniform = jax.vmap(draw)(gate_keys)
    passed = (
      gate_probability(confidence, threshold, jnp.float32(cfg.exponent))
      > uniform
    )
  passed &= block.eligible
  missing = cfg.min_commits - jnp.sum(passed, axis=1)
  others = block.eligible & ~passed
  chosen = passed | sampling.top_quota(logp, others, missing)
  return blocks.commit(
    state, block, chosen, proposal, logp, vocab=vocab, cfg=cfg
  )
