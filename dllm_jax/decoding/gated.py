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
from dllm_jax.decoding import blocks
from dllm_jax.ops import sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedConfig(blocks.BlockConfig):
  """What is static about a gate.

  Attributes:
    gate: 'bernoulli' or 'threshold'.
    min_commits: n_min >= 1, tokens that a step commits where the gate passes
      fewer (all that the block has left, where that is less).
    top_p: nucleus that proposals are drawn from; 1 is the whole vocabulary.
  """

  gate: Literal['bernoulli', 'threshold'] = 'threshold'
  min_commits: int = 1
  top_p: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    if self.gate not in ('bernoulli', 'threshold'):
      raise ValueError(f"gate {self.gate!r} is not 'bernoulli' or 'threshold'")
    if self.min_commits < 1:
      raise ValueError(f'min_commits {self.min_commits} is not positive')
    if not 0.0 < self.top_p <= 1.0:
      raise ValueError(f'top_p {self.top_p} is outside (0, 1]')


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


def gated_step(
  denoiser: types.Denoiser,
  params: types.Params,
  keys: Key[Array, ' B'],
  state: blocks.DecodeState,
  attention_mask: Bool[Array, 'B S'],
  threshold: Float[Array, ''],
  exponent: Float[Array, ''],
  temperature: Float[Array, ''],
  *,
  vocab: types.Vocabulary,
  cfg: GatedConfig,
) -> blocks.DecodeState:
  """One denoiser call; commits what passes the gate, at least `min_commits`.

  Args:
    denoiser: the model.
    params: its parameters.
    keys: one key a row, for this step; consumed.
    state: what the step before left.
    attention_mask: real tokens of the canvas.
    threshold: tau.
    exponent: eta of the 'bernoulli' gate.
    temperature: T >= 0 of the proposals.
    vocab: special ids.
    cfg: the gate.

  Returns:
    The next state; rows that were done are unchanged.
  """
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
    passed = gate_probability(confidence, threshold, exponent) > uniform
  passed &= block.eligible
  missing = cfg.min_commits - jnp.sum(passed, axis=1)
  others = block.eligible & ~passed
  chosen = passed | sampling.top_quota(logp, others, missing)
  return blocks.commit(
    state, block, chosen, proposal, logp, vocab=vocab, cfg=cfg
  )


def decode(
  denoiser: types.Denoiser,
  params: types.Params,
  row_keys: Key[Array, ' B'],
  canvas: types.Canvas,
  threshold: Float[Array, ''],
  exponent: Float[Array, ''],
  temperature: Float[Array, ''],
  *,
  vocab: types.Vocabulary,
  cfg: GatedConfig,
) -> types.Trajectory:
  """Denoises every row of the canvas to its end, as `blocks.run` does.

  Args:
    denoiser: the model.
    params: its parameters.
    row_keys: one key a row.
    canvas: prompts, and completions of L columns; only [MASK] is decided.
    threshold: tau, traced: one compilation serves a sweep. 1 commits
      `min_commits` tokens a step, below 0 (threshold gate) a whole block.
    exponent: eta, traced.
    temperature: T >= 0, traced; 0 is greedy.
    vocab: special ids.
    cfg: the gate.

  Returns:
    The completions; `num_steps` counts a row's own denoiser calls.
  """

  def step(keys, state):
    return gated_step(
      denoiser,
      params,
      keys,
      state,
      canvas.attention_mask,
      threshold,
      exponent,
      temperature,
      vocab=vocab,
      cfg=cfg,
    )

  return blocks.run(step, row_keys, canvas, vocab=vocab, cfg=cfg)
