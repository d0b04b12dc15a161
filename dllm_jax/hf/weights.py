"""Weights between Hugging Face folders and our parameters, tensor by tensor.

Everything is checked before anything is read: names, shapes, dtypes, missing
and left-over tensors. A stacked leaf is allocated once, on the devices where
it lives, and its layers are written into it in place; so the host never holds
more than the model's own shards and one tensor. Dims of a kernel: ours
[in, out], theirs [out, in].
"""

import collections
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dllm_jax import errors, types
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf import names as hf_names
from dllm_jax.hf import shards
from dllm_jax.models import config as model_config
from dllm_jax.models import parts, transformer
from dllm_jax.runtime import sharding

MAX_SHARD_BYTES = 5 * 10**9


def targets(
  cfg: model_config.ModelConfig, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """{'layers/.../kernel': shape, dtype and sharding} of every leaf.

  Raises:
    UserError: the mesh does not divide the model.
  """
  parts.layout_on(mesh, cfg)
  leaves = sharding.targets(transformer.shapes(cfg), mesh)
  return flax.traverse_util.flatten_dict(leaves, sep='/')


def tensor_shapes(
  family: str, leaves: Mapping[str, Any]
) -> dict[str, tuple[str, int | None, tuple[int, ...]]]:
  """{their tensor: (our leaf, layer, their shape)} of a model of the family."""
  names, found = hf_names.NAMES[family], {}
  for path, leaf in leaves.items():
    stacked = path.startswith('layers/')
    shape = leaf.shape[1:] if stacked else leaf.shape
    shape = tuple(reversed(shape)) if _turned(path) else tuple(shape)
    for layer in range(leaf.shape[0]) if stacked else [None]:
      found[names.tensor(path, layer)] = (path, layer, shape)
  return found


def stored_dtype(tensors: Mapping[str, shards.Tensor], where: str) -> str:
  """The one dtype of all tensors.

  Raises:
    UserError: there are several.
  """
  kinds = collections.Counter(t.dtype for t in tensors.values())
  if len(kinds) > 1:
    raise errors.UserError(
      f'{where} holds tensors of {" and ".join(sorted(kinds))}; say with '
      '--dtype which it shall be'
    )
  return next(iter(kinds))


def check(
  tensors: Mapping[str, shards.Tensor],
  wanted: Mapping[str, tuple[str, int | None, tuple[int, ...]]],
  where: str,
) -> None:
  """Refuses tensors that are missing, left over, or of another shape.

  Raises:
    UserError: names the first such tensor.
  """
  for name in dict.fromkeys([*wanted, *tensors]):
    shown = folder_lib.short(name)
    if name not in tensors:
      raise errors.UserError(
        f'{where}: the tensor {shown} is missing; is the folder whole, and is '
        'its config.json its own?'
      )
    if name not in wanted:
      raise errors.UserError(
        f'{where}: the tensor {shown} is left over; the model of its '
        'config.json has none of that name'
      )
    shape = wanted[name][2]
    if tensors[name].shape != shape:
      raise errors.UserError(
        f'{where}: the tensor {shown} has the shape '
        f'{list(tensors[name].shape)}, and {list(shape)} by its config.json'
      )


def load(
  tensors: Mapping[str, shards.Tensor],
  family: str,
  cfg: model_config.ModelConfig,
  mesh: Mesh,
  *,
  where: str,
  advance: Callable[[], None] = lambda: None,
) -> types.Params:
  """The parameters of `cfg`, in `cfg.param_dtype`, sharded over the mesh.

  Args:
    tensors: from `shards.list_tensors`.
    family: of the names.
    cfg: without adapters.
    mesh: each process reads what its devices hold.
    where: the folder, for messages.
    advance: called after every tensor.

  Raises:
    UserError: as `check`, or a file cannot be read.
  """
  leaves = targets(cfg, mesh)
  wanted = tensor_shapes(family, leaves)
  check(tensors, wanted, where)
  names, flat = hf_names.NAMES[family], {}
  # The tables first: they are the largest tensors, and there is room yet.
  stacked_last = sorted(
    leaves.items(), key=lambda x: x[0].startswith('layers/')
  )
  for path, leaf in stacked_last:
    turned, place = _turned(path), leaf.sharding
    if not path.startswith('layers/'):
      tensor = _fetch(tensors[names.tensor(path, None)], place, turned)
      convert = jax.jit(
        _convert, static_argnames=('turned', 'dtype'), out_shardings=place
      )
      flat[path] = convert(tensor, turned=turned, dtype=leaf.dtype)
      flat[path].block_until_ready()
      advance()
      continue
    blank = jax.jit(_blank, static_argnums=(0, 1), out_shardings=place)
    put = jax.jit(
      _put_layer,
      static_argnames='turned',
      donate_argnums=0,
      out_shardings=place,
    )
    flat[path] = blank(leaf.shape, leaf.dtype)
    inner = NamedSharding(mesh, P(*place.spec[1:]))
    for layer in range(leaf.shape[0]):
      tensor = _fetch(tensors[names.tensor(path, layer)], inner, turned)
      flat[path] = put(flat[path], tensor, layer, turned=turned)
      flat[path].block_until_ready()  # else tensors pile up on the host
      advance()
  return flax.traverse_util.unflatten_dict(flat, sep='/')


def save(
  folder: pathlib.Path,
  params: types.Params,
  record: hf_config.Record,
  *,
  max_shard_bytes: int = MAX_SHARD_BYTES,
  advance: Callable[[], None] = lambda: None,
) -> None:
  """Writes config.json and the weights; the inverse of `load`.

  Args:
    folder: to write in.
    params: without adapters; merge them, or save them apart.
    record: of the model.
    max_shard_bytes: of one file.
    advance: called after every tensor.

  Raises:
    UserError: the model has adapters, or no form in its family.
  """
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  if any('/lora_' in path for path in flat):
    raise errors.UserError(
      'the model has adapters, which its family has no names for: merge them '
      '(--merge_lora)'
    )
  save_leaves(
    folder,
    iter(flat.items()),
    flat,
    record,
    max_shard_bytes=max_shard_bytes,
    advance=advance,
  )


def save_leaves(
  folder: pathlib.Path,
  leaves: Iterator[tuple[str, jax.Array]],
  like: Mapping[str, Any],
  record: hf_config.Record,
  *,
  max_shard_bytes: int = MAX_SHARD_BYTES,
  advance: Callable[[], None] = lambda: None,
) -> None:
  """`save` of leaves that come one by one, of which one at a time is held.

  Args:
    folder: to write in.
    leaves: (path, leaf) of all, in the order of `like`.
    like: what has their shapes.
    record: of the model.
    max_shard_bytes: of one file.
    advance: called after every tensor.
  """
  dtype = record.model.param_dtype
  config = hf_config.render(record, dtype)
  wanted = tensor_shapes(record.family, like)
  by_path = collections.defaultdict(list)
  for name, (path, layer, _) in wanted.items():
    by_path[path].append((name, layer))

  def tensors() -> Iterator[tuple[str, np.ndarray]]:
    for path, leaf in leaves:
      for name, layer in by_path[path]:
        array = np.asarray(leaf if layer is None else leaf[layer])
        advance()
        yield name, array.T if _turned(path) else array
      del leaf, array  # before the next one comes

  shapes = {name: shape for name, (_, _, shape) in wanted.items()}
  shards.write(folder, shapes, tensors(), dtype, max_bytes=max_shard_bytes)
  text = json.dumps(config, indent=2) + '\n'
  (folder / hf_config.CONFIG_FILE).write_text(text, 'utf-8')


def _turned(path: str) -> bool:
  return path.endswith('kernel')


def _fetch(
  tensor: shards.Tensor, place: NamedSharding, turned: bool
) -> jax.Array:
  """One tensor, in its own layout, on the devices that want parts of it."""
  if turned:
    spec = (*place.spec, *(None,) * (2 - len(place.spec)))
    place = NamedSharding(place.mesh, P(*reversed(spec)))
  return jax.make_array_from_callback(
    tensor.shape, place, lambda index: shards.read(tensor, index)
  )


def _convert(tensor, *, turned: bool, dtype):
  return (tensor.T if turned else tensor).astype(dtype)


def _blank(shape, dtype):
  return jnp.zeros(shape, dtype)


def _put_layer(leaf, tensor, layer, *, turned: bool):
  value = _convert(tensor, turned=turned, dtype=leaf.dtype)
  return jax.lax.dynamic_update_index_in_dim(leaf, value, layer, 0)
