"""Runs a decoder on every device of a mesh, by `jax.shard_map`.

The only collectives inside the decoder's loop are those of `models.parts` and
`decoding.blocks`, and none is over `data`. So each `data` shard stops when its
own rows are done; devices of one `fsdp` group stop together.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dllm_jax import types
from dllm_jax.runtime import sharding

Decode = Callable[
  [types.Denoiser, types.Params, Any, Any, tuple[str, ...]], types.Trajectory
]


def run_sharded(
  mesh: Mesh,
  decode: Decode,
  denoiser: types.Denoiser,
  params: types.Params,
  *,
  shared: Any,
  by_row: Any,
) -> types.Trajectory:
  """Decodes rows that are split over `data` and `fsdp`.

  Args:
    mesh: device mesh.
    decode: (denoiser, params, shared, by_row, lockstep) -> trajectory, on the
      local arrays of a device; see `decoding.blocks.run` for `lockstep`.
    denoiser: the model; replicated unless it is a `types.Divisible`.
    params: its parameters; resharded if they are not placed by its rules.
    shared: tree of arrays that are replicated.
    by_row: tree of arrays with a leading axis of rows.

  Raises:
    errors.UserError: the mesh does not divide the model.
  """
  specs, lockstep = P(), ()
  if sharding.divides_params(mesh) and isinstance(denoiser, types.Divisible):
    places = sharding.param_shardings(params, mesh, denoiser.sharding_rules)
    specs = jax.tree.map(lambda place: place.spec, places)
    denoiser = denoiser.part(mesh)
  if mesh.shape['fsdp'] > 1:
    # Not over `tensor`, whose devices have the same rows and logits.
    lockstep = ('fsdp',)
  return jax.shard_map(
    lambda params, shared, by_row: decode(
      denoiser, params, shared, by_row, lockstep
    ),
    mesh=mesh,
    in_specs=(specs, P(), sharding.ROWS),
    out_specs=sharding.ROWS,
    # The checker rejects a loop whose carry starts from constants.
    check_vma=False,
  )(params, shared, by_row)


def placed(denoiser: types.Denoiser, mesh: Mesh) -> types.Denoiser:
  """The denoiser for use under `jit` over a mesh."""
  if sharding.divides_params(mesh) and isinstance(denoiser, types.Divisible):
    return denoiser.placed(mesh)
  return denoiser
