"""Answer-free rollouts: a decoder run on every device of the mesh.

Dims: B rows, P prompt columns, L completion columns.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Key

from dllm_jax import types
from dllm_jax.ops import streams
from dllm_jax.rollout import batch, context, prompts, sharded
from dllm_jax.tasks import task as task_lib


def groups(
  ctx: context.Context,
  params: types.Params,
  rows: Sequence[task_lib.Row],
  step: int,
  cfg: batch.RolloutConfig,
) -> batch.Rollouts:
  """Samples G completions of every row.

  Args:
    ctx: the run.
    params: parameters of the policy.
    rows: the task's rows; row i is prompt i and group i.
    step: 0-based step of the run; seeds the draws.
    cfg: group size and decoder.
  """
  requests = batch.request_groups(ctx, rows, cfg.group_size)
  key = streams.step_key(ctx.root, 'rollout', step)
  return batch.Rollouts(
    requests=requests,
    trajectory=rollout(ctx, params, key, requests.prompts, cfg.decoder),
  )


def rollout(
  ctx: context.Context,
  params: types.Params,
  key: Key[Array, ''],
  encoded: prompts.RowPrompts,
  decoder: types.Decoder,
) -> types.Trajectory:
  """Samples a completion of every row; see `sample`."""
  return sample(
    ctx.denoiser,
    decoder.prepare(ctx.denoiser, params),
    key,
    encoded,
    decoder,
    mesh=ctx.mesh,
    vocab=ctx.vocab,
  )


@functools.partial(jax.jit, static_argnames=('denoiser', 'mesh', 'vocab'))
def sample(
  denoiser: types.Denoiser,
  params: types.Params,
  key: Key[Array, ''],
  encoded: prompts.RowPrompts,
  decoder: types.Decoder,
  *,
  mesh: Mesh,
  vocab: types.Vocabulary,
) -> types.Trajectory:
  """Samples a completion of every row; arguments and result are on the mesh.

  Args:
    denoiser: the model.
    params: the result of `decoder.prepare`, sharded by the model's rules.
    key: PRNG key of the rollout, consumed; a row draws from
      `fold_in(key, row_id)`.
    encoded: prompts of B rows; the mesh axes `data` and `fsdp` must divide B.
    decoder: how to decode; traced fields change without recompilation.
    mesh: device mesh.
    vocab: special ids.
  """

  def decode(denoiser, params, shared, by_row, lockstep):
    key, decoder = shared
    blank = jnp.full(
      (by_row.ids.shape[0], decoder.gen_length), vocab.blank, jnp.int32
    )
    return decoder(
      denoiser,
      params,
      streams.row_keys(key, by_row.row_id),
      prompts.canvas(by_row.ids, by_row.mask, blank),
      vocab=vocab,
      lockstep=lockstep,
    )

  return sharded.run_sharded(
    mesh,
    decode,
    denoiser,
    params,
    shared=(key, decoder),
    by_row=encoded,
  )
