"""Answer-free rollouts: the fixed schedule under `shard_map` over `data`.

Every data shard runs its own while-loop and stops when its own rows are done;
there is no collective inside. Dims: B rows, P prompt columns, L completion
columns.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.decoding import fixed
from dllm_jax.ops import streams
from dllm_jax.rollout import context, prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
  """How completions are sampled for training.

  Attributes:
    num_prompts: prompts of a batch.
    group_size: G, completions of a prompt.
    max_prompt_length: P.
    gen_length: L.
    block_length: columns of a block.
    num_steps: denoising steps of a completion in all.
    temperature: of the proposals.
    order: 'confidence' or 'random'.
    stop_at_eos: leave a row once its text has ended.
  """

  num_prompts: int
  group_size: int
  max_prompt_length: int
  gen_length: int
  block_length: int
  num_steps: int
  temperature: float
  order: str = 'confidence'
  stop_at_eos: bool = False

  def __post_init__(self):
    for name in ('num_prompts', 'group_size', 'max_prompt_length', 'num_steps'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} {getattr(self, name)} is not positive')
    if self.temperature < 0:
      raise ValueError(f'temperature {self.temperature} is negative')
    self.schedule()  # checks lengths and order

  def schedule(self) -> fixed.FixedConfig:
    return fixed.FixedConfig(
      gen_length=self.gen_length,
      block_length=self.block_length,
      order=self.order,
      stop_at_eos=self.stop_at_eos,
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
  """Samples completions of the given rows; the result is on the host.

  Args:
    ctx: the run.
    params: of the policy.
    key: of the rollout; consumed.
    encoded: one prompt a row.
    row_id: global number of every row.
    cfg: how to sample.
    num_rows: rows to pad to, so that few shapes are compiled.
  """
  schedule = cfg.schedule()
  trajectory = sample(
    ctx.denoiser,
    params,
    key,
    prompts.pad_rows(encoded.ids, num_rows),
    prompts.pad_rows(encoded.mask, num_rows),
    prompts.pad_rows(row_id, num_rows),
    jnp.int32(schedule.steps_per_block(cfg.num_steps)),
    jnp.float32(cfg.temperature),
    mesh=ctx.mesh,
    vocab=ctx.vocab,
    schedule=schedule,
  )
  return jax.tree.map(lambda x: x[: len(row_id)], jax.device_get(trajectory))


@functools.partial(
  jax.jit, static_argnames=('denoiser', 'mesh', 'vocab', 'schedule')
)
def sample(
  denoiser: types.Denoiser,
  params: types.Params,
  key: Key[Array, ''],
  prompt_ids: Int[Array, 'B P'],
  prompt_mask: Bool[Array, 'B P'],
  row_id: Int[Array, ' B'],
  block_steps: Int[Array, ''],
  temperature: Float[Array, ''],
  *,
  mesh: Mesh,
  vocab: types.Vocabulary,
  schedule: fixed.FixedConfig,
) -> types.Trajectory:
  """Completions of the given prompts.

  Args:
    denoiser: the model.
    params: its parameters, whole on every data shard.
    key: of the rollout; a row draws from `fold_in(key, row_id)`.
    prompt_ids: left-padded prompts.
    prompt_mask: their real tokens.
    row_id: global number of every row.
    block_steps: denoising steps of a block, traced.
    temperature: of the proposals, traced.
    mesh: its `data` axis must divide B.
    vocab: special ids.
    schedule: blocks and order.
  """

  def local(params, key, ids, mask, row_id, block_steps, temperature):
    blank = jnp.full(
      (ids.shape[0], schedule.gen_length), vocab.mask_token, jnp.int32
    )
    return fixed.decode(
      denoiser,
      params,
      streams.row_keys(key, row_id),
      prompts.canvas(ids, mask, blank),
      block_steps,
      temperature,
      vocab=vocab,
      cfg=schedule,
    )

  rows = Spec('data')
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(Spec(), Spec(), rows, rows, rows, Spec(), Spec()),
    out_specs=rows,
    # The loop's carry starts from constants, which the checker would call
    # unvarying; nothing in it crosses shards.
    check_vma=False,
  )(params, key, prompt_ids, prompt_mask, row_id, block_steps, temperature)
