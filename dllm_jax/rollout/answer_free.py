"""Answer-free rollouts: a decoder on every device (`rollout.spread`).

Dims: B rows, P prompt columns, L completion columns.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Key, Shaped

from dllm_jax import types
from dllm_jax.decoding import blocks, fixed, gated, guidance
from dllm_jax.ops import streams
from dllm_jax.rollout import batch, context, prompts, sharded
from dllm_jax.runtime import process_rows
from dllm_jax.tasks import task as task_lib

DECODERS = {
  fixed.FixedConfig: fixed.decode,
  gated.GatedConfig: gated.decode,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
  """How completions are sampled for training.

  Attributes:
    num_prompts: prompts of a batch.
    group_size: G, completions of a prompt.
    max_prompt_length: the largest P; a batch is as wide as its own prompts.
    gen_length: L.
    block_length: columns of a block.
    temperature: of the proposals.
    stop_at_eos: leave a row once its text has ended.
    cfg_scale: of classifier-free guidance; 0 is off. The policy that is trained
      is the model without it.
    decode: 'fixed' or 'gated'.
    num_steps: fixed: denoising steps of a completion in all.
    order: fixed: one of `decoding.fixed.ORDERS`.
    schedule: fixed: one of `decoding.fixed.SCHEDULES`.
    gate: gated: 'bernoulli' or 'threshold'.
    threshold: gated: tau, the confidence that the gate wants.
    exponent: gated: eta of the 'bernoulli' gate.
    min_commits: gated: n_min, tokens that a step commits at least.
    top_p: gated: nucleus of the proposals.
  """

  num_prompts: int
  group_size: int
  max_prompt_length: int
  gen_length: int
  block_length: int
  temperature: float
  stop_at_eos: bool = False
  cfg_scale: float = 0.0
  decode: Literal['fixed', 'gated'] = 'fixed'
  num_steps: int = 1
  order: str = 'confidence'
  schedule: str = 'even'
  gate: str = 'threshold'
  threshold: float = 1.0
  exponent: float = 0.5
  min_commits: int = 1
  top_p: float = 1.0

  def __post_init__(self):
    for name in ('num_prompts', 'group_size', 'max_prompt_length', 'num_steps'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} {getattr(self, name)} is not positive')
    for name in ('temperature', 'exponent', 'cfg_scale'):
      if getattr(self, name) < 0:
        raise ValueError(f'{name} {getattr(self, name)} is negative')
    if not self.threshold <= 1:
      raise ValueError(f'threshold {self.threshold} is above 1, a probability')
    if not math.isfinite(self.cfg_scale):
      raise ValueError(f'cfg_scale {self.cfg_scale} is not finite')
    if self.decode not in ('fixed', 'gated'):
      raise ValueError(f"decode {self.decode!r} is not 'fixed' or 'gated'")
    self.fixed()  # these check lengths, order, schedule and gate
    self.gated()

  def fixed(self) -> fixed.FixedConfig:
    """What is static about the fixed schedule."""
    return fixed.FixedConfig(
      gen_length=self.gen_length,
      block_length=self.block_length,
      stop_at_eos=self.stop_at_eos,
      order=self.order,
      schedule=self.schedule,
    )

  def gated(self) -> gated.GatedConfig:
    """What is static about the gate."""
    return gated.GatedConfig(
      gen_length=self.gen_length,
      block_length=self.block_length,
      stop_at_eos=self.stop_at_eos,
      gate=self.gate,
      min_commits=self.min_commits,
      top_p=self.top_p,
    )

  def decoder(self) -> blocks.BlockConfig:
    """What is static about the decoder: a key type of `DECODERS`."""
    return self.fixed() if self.decode == 'fixed' else self.gated()

  def dials(self) -> tuple[Array, ...]:
    """What the decoder takes traced, in its order, the temperature last."""
    temperature = jnp.float32(self.temperature)
    if self.decode == 'fixed':
      block_steps = self.fixed().steps_per_block(self.num_steps)
      return jnp.int32(block_steps), temperature
    return jnp.float32(self.threshold), jnp.float32(self.exponent), temperature

  def largest_commit(self) -> int:
    """The most tokens that a denoising step commits."""
    if self.decode == 'fixed':
      return self.fixed().largest_commit(self.num_steps)
    return self.block_length

  def greedy(self) -> 'RolloutConfig':
    """The same with temperature 0 and the deterministic gate of one token."""
    return dataclasses.replace(
      self, temperature=0.0, gate='threshold', min_commits=1, top_p=1.0
    )


def groups(
  ctx: context.Context,
  params: types.Params,
  rows: Sequence[task_lib.Row],
  step: int,
  cfg: RolloutConfig,
) -> batch.Rollouts:
  """G completions of every row, at one step of the run.

  Args:
    ctx: the run.
    params: of the policy.
    rows: the task's rows; their place is their prompt id.
    step: of the run; it seeds the draws.
    cfg: how to sample.
  """
  num_rows = len(rows) * cfg.group_size
  row_id = process_rows.share(ctx.mesh, num_rows)
  prompt_id = row_id // cfg.group_size
  encoded = ctx.encode_at(rows, prompt_id, cfg.max_prompt_length)
  key = streams.step_key(ctx.root, 'rollout', step)
  return batch.Rollouts(
    prompts=encoded,
    trajectory=rollout(
      ctx, params, key, encoded, row_id, cfg, num_rows=num_rows
    ),
    prompt_id=prompt_id,
    guided=np.zeros(len(row_id), bool),
    row_id=row_id,
    num_rows=num_rows,
  )


def rollout(
  ctx: context.Context,
  params: types.Params,
  key: Key[Array, ''],
  encoded: prompts.Prompts,
  row_id: Int[np.ndarray, ' B'],
  cfg: RolloutConfig,
  *,
  num_rows: int,
) -> types.Trajectory:
  """Samples completions of this process's rows; the result is on the host.

  Args:
    ctx: the run.
    params: of the policy.
    key: of the rollout; consumed.
    encoded: one prompt a row, of this process's share of the batch
      (`local_rows.share`).
    row_id: global number of every row.
    cfg: how to sample.
    num_rows: of the batch of all processes, padded so that few shapes are
      compiled.
  """
  denoiser, params = guidance.guided(
    ctx.denoiser,
    params,
    cfg.cfg_scale,
    gen_length=cfg.gen_length,
    vocab=ctx.vocab,
  )
  ids, mask, row_ids = process_rows.place(
    (encoded.ids, encoded.mask, row_id), ctx.mesh, num_rows
  )
  trajectory = sample(
    denoiser,
    params,
    key,
    ids,
    mask,
    row_ids,
    cfg.dials(),
    mesh=ctx.mesh,
    vocab=ctx.vocab,
    decoder=cfg.decoder(),
  )
  return jax.tree.map(
    lambda x: x[: len(row_id)], process_rows.fetch(trajectory)
  )


@functools.partial(
  jax.jit, static_argnames=('denoiser', 'mesh', 'vocab', 'decoder')
)
def sample(
  denoiser: types.Denoiser,
  params: types.Params,
  key: Key[Array, ''],
  prompt_ids: Int[Array, 'B P'],
  prompt_mask: Bool[Array, 'B P'],
  row_id: Int[Array, ' B'],
  dials: tuple[Shaped[Array, ''], ...],
  *,
  mesh: Mesh,
  vocab: types.Vocabulary,
  decoder: blocks.BlockConfig,
) -> types.Trajectory:
  """Completions of the given prompts.

  Args:
    denoiser: the model.
    params: its parameters, lying as `sharding.RULES` say.
    key: of the rollout; a row draws from `fold_in(key, row_id)`.
    prompt_ids: left-padded prompts.
    prompt_mask: their real tokens.
    row_id: global number of every row.
    dials: what the decoder takes traced.
    mesh: its axes `data` and `fsdp` must divide B.
    vocab: special ids.
    decoder: what is static about it.
  """

  def decode(denoiser, params, shared, by_row, lockstep):
    (key, dials), (ids, mask, row_id) = shared, by_row
    blank = jnp.full(
      (ids.shape[0], decoder.gen_length), vocab.need_mask(), jnp.int32
    )
    return DECODERS[type(decoder)](
      denoiser,
      params,
      streams.row_keys(key, row_id),
      prompts.canvas(ids, mask, blank),
      *dials,
      vocab=vocab,
      cfg=dataclasses.replace(decoder, lockstep=lockstep),
    )

  return sharded.over(
    mesh,
    decode,
    denoiser,
    params,
    shared=(key, dials),
    by_row=(prompt_ids, prompt_mask, row_id),
  )
