"""A decoder on every device of a mesh, with its rows and its part of a model.

Everything is manual: what devices say to each other inside the decoder's loop
is what `models.parts` and `decoding.blocks` write, and devices that differ in
`data` say nothing. So each of them stops when its own rows are done; those of
one `fsdp` group go on until all of theirs are.
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
  """Decodes rows, split over `data` and `fsdp`.

  Args:
    mesh: where.
    decode: (denoiser, params, shared, by_row, lockstep) -> trajectory of what
      one device has; `lockstep` is that of `decoding.blocks.run`.
    denoiser: the model; whole on every device unless it is a
      `types.Divisible`.
    params: its parameters; moved first where they are placed otherwise than the
      rules say.
    shared: arrays that every device has whole.
    by_row: arrays whose leading axis is the rows.

  Raises:
    errors.UserError: the mesh does not divide the model.
  """
  specs, lockstep = P(), ()
  if sharding.divides_params(mesh) and isinstance(denoiser, types.Divisible):
    specs = sharding.specs(params, denoiser.sharding_rules)
    denoiser = denoiser.part(mesh)
  if mesh.shape['fsdp'] > 1:
    # Not over `tensor`: its devices have the same rows and the same logits.
    lockstep = ('fsdp',)
  return jax.shard_map(
    lambda params, shared, by_row: decode(
      denoiser, params, shared, by_row, lockstep
    ),
    mesh=mesh,
    in_specs=(specs, P(), sharding.ROWS),
    out_specs=sharding.ROWS,
    # The loop's carry starts from constants, which the checker would call
    # unvarying.
    check_vma=False,
  )(params, shared, by_row)


def placed(denoiser: types.Denoiser, mesh: Mesh) -> types.Denoiser:
  """The denoiser for updates under `jit` over a mesh."""
  if sharding.divides_params(mesh) and isinstance(denoiser, types.Divisible):
    return denoiser.placed(mesh)
  return denoiser
