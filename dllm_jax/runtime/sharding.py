"""The device mesh, and where parameters and batches live on it.

Axes: `data` splits rows, `fsdp` splits rows and parameters, `tensor` splits
heads, hidden widths and the vocabulary. Rules are ordered (regex, spec) pairs
over the '/'-joined parameter path; the first full match wins. See
docs/scaling.md.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dllm_jax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """Sizes of the mesh; devices beyond their product stay idle.

  Attributes:
    data: shards of the rows; -1 takes all devices that the other axes leave.
    fsdp: shards of the parameters and of the rows; a layer is gathered where
      it is used.
    tensor: shards of heads, hidden widths and vocabulary, which work on the
      same rows.
    cpu_devices: number of devices that the launchers make of a CPU; one shard
      a core is faster there than many threads on small arrays.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  cpu_devices: int = 1


# A factor of an adapter is sharded like the side of the kernel that it shares.
RULES = (
  (r'embed_tokens', P('tensor', 'fsdp')),
  (r'lm_head/kernel', P('fsdp', 'tensor')),
  (r'layers/.*/(q|k|v|gate|up)_proj/kernel', P(None, 'fsdp', 'tensor')),
  (r'layers/.*/(o|down)_proj/kernel', P(None, 'tensor', 'fsdp')),
  (r'layers/.*/(q|k|v)_proj/bias', P(None, 'tensor')),
  (r'layers/.*/(q|k|v|gate|up)_proj/lora_a', P(None, 'fsdp', None)),
  (r'layers/.*/(q|k|v|gate|up)_proj/lora_b', P(None, None, 'tensor')),
  (r'layers/.*/(o|down)_proj/lora_a', P(None, 'tensor', None)),
  (r'layers/.*/(o|down)_proj/lora_b', P(None, None, 'fsdp')),
  (r'layers/self_attn/(q|k)_norm/weight', P()),
  (r'layers/(input|post_attention)_layernorm/weight', P()),
  (r'norm/weight', P()),
)
# Of a batch: devices along `tensor` work on the same rows.
ROWS = P(('data', 'fsdp'))


def make_mesh(cfg: MeshConfig) -> Mesh:
  """A (data, fsdp, tensor) mesh with Auto axes; Linen needs Auto.

  Raises:
    errors.UserError: the sizes do not multiply to the number of devices.
  """
  devices = jax.device_count()
  data = cfg.data
  if data == -1:
    data = devices // (cfg.fsdp * cfg.tensor)
  shape = (data, cfg.fsdp, cfg.tensor)
  if min(shape) < 1 or int(np.prod(shape)) > devices:
    raise errors.UserError(
      f'mesh.data={cfg.data}, mesh.fsdp={cfg.fsdp}, mesh.tensor={cfg.tensor} '
      f'does not fit {devices} device(s): change the mesh.* keys (on a CPU '
      'mesh.cpu_devices makes devices)'
    )
  return jax.make_mesh(
    shape,
    ('data', 'fsdp', 'tensor'),
    axis_types=(AxisType.Auto,) * 3,
    devices=jax.devices()[: int(np.prod(shape))],
  )


@functools.cache
def rule(path: str) -> tuple[str, P]:
  """The first rule that matches the end of a path, from a '/' on.

  Raises:
    ValueError: there is none.
  """
  for pattern, spec in RULES:
    if re.fullmatch(f'(.*/)?({pattern})', path):
      return pattern, spec
  raise ValueError(f'no sharding rule matches parameter {path!r}')


def specs(tree: Any) -> Any:
  """The PartitionSpec of every leaf of a tree that holds parameters.

  That is a parameter tree, or an optimiser's or training state, whose paths
  end in those of the parameters; scalars need no rule.

  Raises:
    ValueError: a leaf matches no rule, or has fewer axes than its rule.
  """

  def find(path, leaf):
    if not leaf.shape:
      return P()
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    pattern, spec = rule(name)
    if len(spec) > len(leaf.shape):
      raise ValueError(
        f'sharding rule {pattern!r} is for {len(spec)} axes, and parameter '
        f'{name!r} has the shape {leaf.shape}'
      )
    return spec

  return jax.tree_util.tree_map_with_path(find, tree)


def param_shardings(tree: Any, mesh: Mesh) -> Any:
  """The sharding of every leaf of a tree that holds parameters.

  Raises:
    ValueError: as `specs`.
    errors.UserError: an axis of the mesh does not divide a leaf.
  """

  def place(path, leaf, spec):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    _check_leaf(name, leaf.shape, spec, mesh)
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(place, tree, specs(tree))


def divides_params(mesh: Mesh) -> bool:
  """Whether a device holds less than all parameters."""
  return mesh.shape['fsdp'] * mesh.shape['tensor'] > 1


def constrain(tree: Any, mesh: Mesh) -> Any:
  """Constrains arrays, under jit, to the shardings of the rules.

  On a mesh that does not shard parameters they are replicated, and need no
  rule.
  """
  if divides_params(mesh):
    return jax.lax.with_sharding_constraint(tree, param_shardings(tree, mesh))
  whole = replicated(mesh)
  return jax.tree.map(
    lambda leaf: jax.lax.with_sharding_constraint(leaf, whole), tree
  )


def _check_leaf(path: str, shape: tuple[int, ...], spec: P, mesh: Mesh) -> None:
  for size, axis in zip(shape, spec, strict=False):
    if axis is not None and size % mesh.shape[axis]:
      raise errors.UserError(
        f'mesh.{axis}={mesh.shape[axis]} does not divide {size}, a dimension '
        f'of parameter {path}: change mesh.{axis} or the model.* keys'
      )


def rows(mesh: Mesh) -> NamedSharding:
  """The sharding of a batch: its leading axis over `data` and `fsdp`."""
  return NamedSharding(mesh, ROWS)


def num_row_shards(mesh: Mesh) -> int:
  """Into how many parts the rows of a batch are split."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds whole."""
  return NamedSharding(mesh, P())


def check_divides(num_rows: int, mesh: Mesh, what: str) -> None:
  """Refuses a number of rows that `num_row_shards` does not divide.

  Args:
    num_rows: B.
    mesh: of the batch.
    what: the config keys that give `num_rows`, for the message.

  Raises:
    errors.UserError: names `what`, the number, and the axes.
  """
  shards = num_row_shards(mesh)
  if num_rows % shards:
    raise errors.UserError(
      f'{what} is {num_rows}, which the {shards} shards of mesh.data * '
      f'mesh.fsdp do not divide: change it or these keys'
    )
