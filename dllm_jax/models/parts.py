"""A model divided among the devices of a mesh.

Along `fsdp` devices have different rows, and gather the parameters where they
use them, one layer at a time. Along `tensor` they have the same rows: each has
some heads, some columns of the MLP and some of the vocabulary, and partial
results are added (Megatron). Inside `jax.shard_map` the functions here are the
collectives; under `jit` over a mesh they are sharding constraints, from which
the compiler derives the same collectives and those of the gradient.

References:
  Zhao et al. 2023, PyTorch FSDP (arXiv:2304.11277); Shoeybi et al. 2019,
  Megatron-LM, section 3 (arXiv:1909.08053).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from dllm_jax import errors, types
from dllm_jax.models import config
from dllm_jax.runtime import sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """How a model is divided; static.

  Attributes:
    fsdp: inside `jax.shard_map`, size of that axis; 1 needs no collective.
    tensor: likewise.
    mesh: under `jit`, the mesh; the code sees whole arrays.
  """

  fsdp: int = 1
  tensor: int = 1
  mesh: Mesh | None = None


WHOLE = Layout()


def layout_on(mesh: Mesh, cfg: config.ModelConfig) -> Layout:
  """The layout of a model inside `jax.shard_map` over a mesh.

  Raises:
    errors.UserError: `tensor` does not divide the key heads; a key head is on
      one device, with the query heads that read it.
  """
  layout = Layout(fsdp=mesh.shape['fsdp'], tensor=mesh.shape['tensor'])
  if cfg.num_kv_heads % layout.tensor:
    raise errors.UserError(
      f'mesh.tensor={layout.tensor} does not divide the {cfg.num_kv_heads} key '
      'heads of the model: lower mesh.tensor (mesh.fsdp has no such bound)'
    )
  if cfg.qk_norm_joint and layout.tensor > 1:
    raise errors.UserError(
      f'mesh.tensor={layout.tensor} divides heads, over all of which the model '
      'norms its queries and keys: use mesh.tensor=1 (mesh.fsdp has no such '
      'bound)'
    )
  return layout


def local_config(cfg: config.ModelConfig, layout: Layout) -> config.ModelConfig:
  """The model that one device computes."""
  return dataclasses.replace(
    cfg,
    vocab_size=cfg.vocab_size // layout.tensor,
    num_heads=cfg.num_heads // layout.tensor,
    num_kv_heads=cfg.num_kv_heads // layout.tensor,
    mlp_size=cfg.mlp_size // layout.tensor,
    shared_size=cfg.shared_size // layout.tensor,
  )


def gather(
  params: types.Params, layout: Layout, dtype: str, *, of_layer: bool = False
) -> types.Params:
  """The parameters gathered over `fsdp`, weights in `dtype`.

  Args:
    params: those of a model except for its layers, or of one layer.
    layout: how the model is divided over devices.
    dtype: compute dtype; narrower weights are fewer bytes to send.
    of_layer: whether they are of a layer, whose leaves have no axis of layers.
  """
  gathers = layout.fsdp > 1 or layout.mesh is not None
  if not gathers and layout.tensor == 1:
    return params

  def one(path, leaf):
    if layout.tensor > 1 and _is_added(path):
      # Results are added over `tensor`: one device has the bias.
      leaf = jnp.where(jax.lax.axis_index('tensor') == 0, leaf, 0)
    if not gathers:
      return leaf
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    _, spec = sharding.rule(f'layers/{name}' if of_layer else name)
    axes = tuple(spec)[1:] if of_layer else tuple(spec)
    if 'fsdp' not in axes:
      return leaf
    is_weight = path[-1].key in ('kernel', 'embed_tokens', 'embed_positions')
    if is_weight and jnp.issubdtype(leaf.dtype, jnp.floating):
      leaf = leaf.astype(dtype)  # whole numbers are narrower as they are
    if layout.mesh is not None:
      axes = [None if axis == 'fsdp' else axis for axis in axes]
      return _lie(leaf, P(*axes), layout.mesh)
    return jax.lax.all_gather(leaf, 'fsdp', axis=axes.index('fsdp'), tiled=True)

  return jax.tree_util.tree_map_with_path(one, params)


def _is_added(path: tuple[jax.tree_util.DictKey, ...]) -> bool:
  """Whether a leaf is a bias of a projection whose results `add` sums."""
  *_, linear, leaf = (None, *(key.key for key in path))
  return leaf == 'bias' and linear in ('o_proj', 'down_proj')


def add(x: Float[Array, '*n D'], layout: Layout) -> Float[Array, '*n D']:
  """The sum of partial results over `tensor`."""
  if layout.mesh is not None:
    return _lie(x, sharding.ROWS, layout.mesh)
  return x if layout.tensor == 1 else jax.lax.psum(x, 'tensor')


def join(x: Float[Array, '*n v'], layout: Layout) -> Float[Array, '*n V']:
  """The columns of all devices along `tensor`, concatenated."""
  if layout.tensor == 1:
    return x
  return jax.lax.all_gather(x, 'tensor', axis=x.ndim - 1, tiled=True)


def look_up(
  table: Float[Array, 'v D'],
  tokens: Int[Array, 'B S'],
  layout: Layout,
  dtype: str,
) -> Float[Array, 'B S D']:
  """Rows of an embedding table that is divided over `tensor`."""
  if layout.tensor == 1:
    return add(table[tokens].astype(dtype), layout)
  size = table.shape[0]
  place = tokens - jax.lax.axis_index('tensor') * size
  here = (place >= 0) & (place < size)
  rows = table[jnp.clip(place, 0, size - 1)].astype(dtype)
  return add(jnp.where(here[..., None], rows, 0), layout)


def _lie(x: Array, spec: P, mesh: Mesh) -> Array:
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
