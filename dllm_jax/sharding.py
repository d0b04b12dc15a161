"""The device mesh, and where parameters and batches live on it.

Axes: `data` splits rows, `fsdp` splits parameters, `tensor` splits heads and
hidden widths. Rules are ordered (regex, spec) pairs over the '/'-joined
parameter path; the first full match wins.
"""

import dataclasses
import re

import flax
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dllm_jax import errors, types


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """Sizes of the mesh; devices beyond their product stay idle.

  Attributes:
    data: -1 takes every device that the other axes leave.
    fsdp: shards of the parameters.
    tensor: shards of heads and hidden widths.
    cpu_devices: devices that the launchers make of a CPU; on the CPU a shard
      a core is faster than many threads on small arrays.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  cpu_devices: int = 1


RULES = (
  (r'embed_tokens', P('tensor', 'fsdp')),
  (r'lm_head/kernel', P('fsdp', 'tensor')),
  (r'layers/.*/(q|k|v|gate|up)_proj/kernel', P(None, 'fsdp', 'tensor')),
  (r'layers/.*/(o|down)_proj/kernel', P(None, 'tensor', 'fsdp')),
  (r'layers/.*/(q|k|v)_proj/bias', P(None, 'tensor')),
  (r'layers/.*/(q|k|v|gate|up)_proj/lora_b', P(None, None, 'tensor')),
  (r'layers/.*/(o|down)_proj/lora_a', P(None, 'tensor', None)),
  (r'layers/.*/lora_[ab]', P()),
  (r'(.*/)?(q_|k_)?(input_layer|post_attention_layer)?norm/weight', P()),
)


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
      f'does not fit {devices} device(s): change the mesh.* keys'
    )
  return jax.make_mesh(
    shape,
    ('data', 'fsdp', 'tensor'),
    axis_types=(AxisType.Auto,) * 3,
    devices=jax.devices()[: int(np.prod(shape))],
  )


def param_shardings(params: types.Params, mesh: Mesh):
  """The sharding of every leaf of a parameter tree.

  Raises:
    ValueError: a leaf that no rule names.
    errors.UserError: an axis of the mesh does not divide a leaf.
  """

  def find(path, leaf):
    for pattern, spec in RULES:
      if re.fullmatch(pattern, path):
        _check_leaf(path, leaf.shape, spec, mesh)
        return NamedSharding(mesh, spec)
    raise ValueError(f'no sharding rule matches parameter {path!r}')

  flat = flax.traverse_util.flatten_dict(params, sep='/')
  specs = {path: find(path, leaf) for path, leaf in flat.items()}
  return flax.traverse_util.unflatten_dict(specs, sep='/')


def _check_leaf(path: str, shape: tuple[int, ...], spec: P, mesh: Mesh) -> None:
  for size, axis in zip(shape, spec, strict=False):
    if axis is not None and size % mesh.shape[axis]:
      raise errors.UserError(
        f'mesh.{axis}={mesh.shape[axis]} does not divide {size}, a dimension '
        f'of parameter {path}: change mesh.{axis} or the model.* keys'
      )


def rows(mesh: Mesh) -> NamedSharding:
  """The sharding of a batch: its leading axis over `data`."""
  return NamedSharding(mesh, P('data'))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of what every device holds whole."""
  return NamedSharding(mesh, P())


def check_divides(num_rows: int, mesh: Mesh, what: str) -> None:
  """Refuses a number of rows that the data axis does not divide.

  Raises:
    errors.UserError: names `what`, the number, and the axis.
  """
  shards = mesh.shape['data']
  if num_rows % shards:
    raise errors.UserError(
      f'{what} is {num_rows}, which the {shards} shards of mesh.data do not '
      f'divide: change it or mesh.data'
    )
