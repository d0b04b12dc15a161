"""The device mesh, and where parameters and batches live on it.

Axes: `data` splits rows, `fsdp` splits rows and parameters, `tensor` splits
heads, hidden widths and the vocabulary. Rules are ordered (regex, spec) pairs
over the '/'-joined parameter path; the first full match wins. A denoiser that
can be divided has its own; any other is whole on every device. See
docs/scaling.md.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dllm_jax import errors, types


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


Rules = tuple[tuple[str, P], ...]

# Those of the transformer. A factor of an adapter is divided as the side of the
# kernel that it shares.
RULES = (
  (r'embed_tokens', P('tensor', 'fsdp')),
  (r'embed_positions', P(None, 'fsdp')),
  (r'lm_head/kernel', P('fsdp', 'tensor')),
  # Experts are divided over `fsdp`, their widths over `tensor`.
  (
    r'layers/.*mlp/experts/(gate|up)_proj/kernel',
    P(None, 'fsdp', None, 'tensor'),
  ),
  (r'layers/.*mlp/experts/down_proj/kernel', P(None, 'fsdp', 'tensor', None)),
  (r'layers/.*mlp/experts/up_proj/bias', P(None, 'fsdp', 'tensor')),
  (r'layers/.*mlp/experts/down_proj/bias', P(None, 'fsdp', None)),
  (r'layers/.*mlp/(shared_expert_)?gate/kernel', P()),
  (r'layers/.*/(q|k|v|gate|up)_proj/kernel', P(None, 'fsdp', 'tensor')),
  (r'layers/.*/(o|down)_proj/kernel', P(None, 'tensor', 'fsdp')),
  (r'layers/.*/(q|k|v|up)_proj/bias', P(None, 'tensor')),
  (r'layers/.*/(o|down)_proj/bias', P()),
  (r'layers/.*/(q|k|v|gate|up)_proj/lora_a', P(None, 'fsdp', None)),
  (r'layers/.*/(q|k|v|gate|up)_proj/lora_b', P(None, None, 'tensor')),
  (r'layers/.*/(o|down)_proj/lora_a', P(None, 'tensor', None)),
  (r'layers/.*/(o|down)_proj/lora_b', P(None, None, 'fsdp')),
  # Scales of compressed kernels (`ops.quantize`); o_proj and down_proj have
  # scales of whole channels on every device, since inputs are what is divided.
  (r'layers/.*/(q|k|v|gate|up)_proj/(group_)?scale', P(None, None, 'tensor')),
  (r'layers/.*/(o|down)_proj/scale', P()),
  (r'layers/.*/(o|down)_proj/group_scale', P(None, 'tensor', None)),
  (r'layers/.*self_attn/(q|k)_norm/weight', P()),
  (r'layers/.*(input|post_attention)_layernorm/(weight|bias)', P()),
  (r'norm/(weight|bias)', P()),
)
# Of a batch: devices along `tensor` work on the same rows.
ROWS = P(('data', 'fsdp'))


def make_mesh(
  cfg: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A (data, fsdp, tensor) mesh with Auto axes; Linen needs Auto.

  Args:
    cfg: its sizes.
    devices: devices of the mesh; None is all.

  Raises:
    errors.UserError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  data = cfg.data
  if data == -1:
    data = len(devices) // (cfg.fsdp * cfg.tensor)
  shape = (data, cfg.fsdp, cfg.tensor)
  if min(shape) < 1 or math.prod(shape) > len(devices):
    raise errors.UserError(
      f'mesh.data={cfg.data}, mesh.fsdp={cfg.fsdp}, mesh.tensor={cfg.tensor} '
      f'does not fit {len(devices)} device(s): change the mesh.* keys (on a '
      'CPU mesh.cpu_devices makes devices)'
    )
  return jax.make_mesh(
    shape,
    ('data', 'fsdp', 'tensor'),
    axis_types=(AxisType.Auto,) * 3,
    devices=devices[: math.prod(shape)],
  )


def rules_of(denoiser: types.Denoiser) -> Rules:
  """How a denoiser's parameters are divided: not at all, if it cannot be."""
  if isinstance(denoiser, types.Divisible):
    return denoiser.sharding_rules
  return (('.*', P()),)


@functools.cache
def rule(path: str, rules: Rules = RULES) -> tuple[str, P]:
  """The first rule that matches the end of a path, from a '/' on.

  Raises:
    errors.UserError: no rule matches.
  """
  for pattern, spec in rules:
    if re.fullmatch(f'(.*/)?({pattern})', path):
      return pattern, spec
  raise errors.UserError(
    f'no sharding rule matches parameter {path!r}: use mesh.fsdp=1 and '
    'mesh.tensor=1, or add one to the rules of its model'
  )


def specs(tree: Any, rules: Rules = RULES) -> Any:
  """The PartitionSpec of every leaf of a tree that holds parameters.

  That is a parameter tree, or an optimiser's or training state, whose paths
  end in those of the parameters; scalars need no rule.

  Raises:
    errors.UserError: no rule matches a leaf, or its rule is for more axes than
      it has.
  """

  def find(path, leaf):
    if not leaf.shape:
      return P()
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    pattern, spec = rule(name, rules)
    if len(spec) > len(leaf.shape):
      raise errors.UserError(
        f'sharding rule {pattern!r} is for {len(spec)} axes, but parameter '
        f'{name!r} has the shape {leaf.shape}: change the rule'
      )
    return spec

  return jax.tree_util.tree_map_with_path(find, tree)


def param_shardings(tree: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
  """The sharding of every leaf of a tree that holds parameters.

  On a mesh that does not divide parameters all leaves are whole on every
  device, and need no rule.

  Raises:
    errors.UserError: as `specs`, or an axis of the mesh does not divide a leaf.
  """
  if not divides_params(mesh):
    whole = replicated(mesh)
    return jax.tree.map(lambda leaf: whole, tree)

  def place(path, leaf, spec):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    for size, axis in zip(leaf.shape, spec, strict=False):
      if axis is not None and size % mesh.shape[axis]:
        raise errors.UserError(
          f'mesh.{axis}={mesh.shape[axis]} does not divide {size}, a dimension '
          f'of parameter {name}: change mesh.{axis} or the model.* keys'
        )
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(place, tree, specs(tree, rules))


def targets(shapes: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
  """Shape, dtype and sharding of every leaf of a tree that holds parameters.

  Args:
    shapes: anything with the leaves' shapes and dtypes.
    mesh: mesh of the shardings.
    rules: sharding rules of the parameters.

  Raises:
    errors.UserError: as `param_shardings`.
  """
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=place
    ),
    shapes,
    param_shardings(shapes, mesh, rules),
  )


def param_targets(denoiser: types.Trainable, mesh: Mesh) -> types.Params:
  """Shape, dtype and sharding of every parameter; nothing is computed.

  Raises:
    errors.UserError: as `param_shardings`.
  """
  shapes = jax.eval_shape(lambda: denoiser.init(jax.random.key(0)))
  return targets(shapes, mesh, rules_of(denoiser))


def divides_params(mesh: Mesh) -> bool:
  """Whether a device holds less than all parameters."""
  return mesh.shape['fsdp'] * mesh.shape['tensor'] > 1


def constrain(tree: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
  """The same arrays, under jit, placed as `param_shardings` says."""
  return jax.lax.with_sharding_constraint(
    tree, param_shardings(tree, mesh, rules)
  )


def rows(mesh: Mesh) -> NamedSharding:
  """The sharding of a batch: its leading axis over `data` and `fsdp`."""
  return NamedSharding(mesh, ROWS)


def num_row_shards(mesh: Mesh) -> int:
  """Number of shards that the rows of a batch are split into."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds whole."""
  return NamedSharding(mesh, P())


def check_divides(num_rows: int, mesh: Mesh, what: str) -> None:
  """Refuses a number of rows that is no multiple of `num_row_shards`.

  Args:
    num_rows: B.
    mesh: mesh that the batch is sharded over.
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
