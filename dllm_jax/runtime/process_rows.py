"""The rows of a batch that this process holds, and how all rows are gathered.

A batch is sharded over the devices by `sharding.rows`; a process encodes,
decodes and verifies the rows on its own devices, and the verdicts are gathered.
A row's draws depend on its number, not on the process that has it. A single
process has all rows. Dims: b rows held here, B rows of the batch.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from dllm_jax.runtime import processes, sharding

PyTree = Any


def held(mesh: Mesh, num_rows: int) -> Int[np.ndarray, ' b']:
  """The numbers of the rows on this process's devices, ascending.

  Args:
    mesh: of the batch.
    num_rows: B.
  """
  spec = sharding.rows(mesh)
  places = spec.addressable_devices_indices_map((num_rows,)).values()
  every = np.arange(num_rows, dtype=np.int32)
  return np.unique(np.concatenate([every[place] for place in places]))


def share(
  mesh: Mesh, num_rows: int, padded: int | None = None
) -> Int[np.ndarray, ' b']:
  """The numbers of the rows that this process works on; at least one.

  Args:
    mesh: of the batch.
    num_rows: B, without padding.
    padded: rows with the padding at the end; None if there is no padding.

  Returns:
    Its rows except for the padding. If it holds only padding, the last row,
    which another process has too.
  """
  own = held(mesh, padded or num_rows)
  own = own[own < num_rows]
  return own if own.size else np.array([num_rows - 1], np.int32)


def place(tree: PyTree, mesh: Mesh, num_rows: int) -> PyTree:
  """Puts the rows that this process works on onto the devices.

  Args:
    tree: arrays of its rows; the last row is repeated up to b.
    mesh: of the batch.
    num_rows: B, including the padding.

  Returns:
    Global arrays of all B rows.
  """
  spec = sharding.rows(mesh)
  count = len(held(mesh, num_rows))

  def put(x):
    padding = ((0, count - len(x)),) + ((0, 0),) * (x.ndim - 1)
    return jax.make_array_from_process_local_data(
      spec, np.pad(x, padding, mode='edge'), (num_rows, *x.shape[1:])
    )

  return jax.tree.map(put, tree)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Arrays that every process holds, whole on every device of a mesh.

  The caller makes sure that they are equal in all processes; unlike
  `jax.device_put`, this does not compare them, and NaN is a value.
  """
  whole = sharding.replicated(mesh)
  put = lambda x: jax.make_array_from_callback(x.shape, whole, lambda i: x[i])
  return jax.tree.map(put, tree)


def fetch(tree: PyTree) -> PyTree:
  """Copies the rows that this process holds to the host; scalars whole."""

  def pieces(x):
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
      return {0: x}
    first = lambda index: (index[0].start or 0) if index else 0
    return {first(s.index): s.data for s in x.addressable_shards}

  def join(parts):
    whole = [np.asarray(parts[start]) for start in sorted(parts)]
    return np.concatenate(whole) if whole[0].ndim else whole[0]

  leaves, structure = jax.tree.flatten(tree)
  on_host = jax.device_get([pieces(x) for x in leaves])
  return jax.tree.unflatten(structure, [join(parts) for parts in on_host])


def gather(tree: PyTree, index: Int[np.ndarray, ' b'], num_rows: int) -> PyTree:
  """All rows, in every process, from those of each; one exchange.

  Args:
    tree: arrays of b rows.
    index: their numbers; if several processes have a row, any one is taken.
    num_rows: B; some process must have each of the numbers below it.
  """
  leaves, structure = jax.tree.flatten(tree)
  leaves = [np.asarray(x) for x in leaves]
  packed = [
    np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1)
    for x in (index, *leaves)
  ]
  everyone = processes.all_gather(np.concatenate(packed, axis=1))
  rows = np.concatenate(everyone)
  ends = np.cumsum([p.shape[1] for p in packed])
  columns = np.split(rows, ends[:-1], axis=1)
  number = np.ascontiguousarray(columns[0]).view(index.dtype)[:, 0]

  def unpack(column, like):
    out = np.empty((num_rows, *like.shape[1:]), like.dtype)
    values = np.ascontiguousarray(column).view(like.dtype)
    out[number] = values.reshape(len(rows), *like.shape[1:])
    return out

  whole = [unpack(c, x) for c, x in zip(columns[1:], leaves, strict=True)]
  return jax.tree.unflatten(structure, whole)
