"""Model folders: what they say, and their weights as our parameters.

Everything is checked before a weight is read: names, shapes, missing and
unexpected tensors. A stacked leaf is allocated once, on the devices where it
lives, and its layers are written into it in place; so the host never holds
more than the model's own shards and one tensor. Dims of a kernel: ours
[in, out], Hugging Face's [out, in].
"""

import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dllm_jax import errors, types
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf import hub, peft, shards, sidecar
from dllm_jax.hf import table as table_lib
from dllm_jax.models import config as model_config
from dllm_jax.models import lora
from dllm_jax.runtime import console

# Of older versions: kept parameters, and what convert.py made.
_OLD = ('manifest.json', 'params/manifest.json')


class Folder(NamedTuple):
  """What a model folder says beside its weights.

  Attributes:
    path: of the folder.
    base: of the weights: `path`, or the folder that its adapters are for.
    record: of the model, its adapters included.
    text: of the tokenizer's files.
  """

  path: pathlib.Path
  base: pathlib.Path
  record: hf_config.Record
  text: pathlib.Path


def read(path: pathlib.Path) -> Folder:
  """What a folder of weights or of adapters says; no weight is read.

  Raises:
    UserError: it is neither, is malformed, or its base is missing.
  """
  if not path.is_dir():
    raise errors.UserError(f'there is no folder {path}; check the path')
  if any((path / name).exists() for name in _OLD):
    raise errors.UserError(
      f'{path} is not a Hugging Face folder but was written by an older '
      'version of this program: train it again, or export it with that version '
      '(launch/convert.py)'
    )
  if not peft.is_folder(path):
    return Folder(path, path, hf_config.read(path), path)
  name = peft.base_of(path)
  try:
    base = hub.locate(name)
  except errors.UserError as e:
    raise errors.UserError(
      f'{path} holds adapters for the base model {name}, which is missing '
      f'({e}): put it there, or change base_model_name_or_path in '
      f'{path / peft.CONFIG_FILE}'
    ) from None
  return with_adapters(read(base), path)


def with_adapters(folder: Folder, adapters: pathlib.Path) -> Folder:
  """The model of a folder with adapters of another on it.

  Raises:
    UserError: the model has adapters already, or those are malformed.
  """
  if folder.base != folder.path:
    raise errors.UserError(
      f'{folder.path} has adapters already: merge those first '
      '(launch/convert.py --merge_lora)'
    )
  rank, alpha = peft.rank_of(adapters)
  record = folder.record
  model = dataclasses.replace(record.model, lora_rank=rank, lora_alpha=alpha)
  has_text = any(folder_lib.has(adapters, n) for n in table_lib.TOKENIZERS)
  return Folder(
    path=adapters,
    base=folder.path,
    record=record._replace(model=model),
    text=adapters if has_text else folder.text,
  )


def check(folder: Folder, mesh: Mesh) -> None:
  """Refuses a folder that `load` would refuse; reads digests, not weights.

  Raises:
    UserError: names the file or the tensor that is not right.
  """
  sidecar.check(folder.path)
  if folder.base != folder.path:
    sidecar.check(folder.base)
    peft.load(folder.path, folder.record.family, folder.record.model, mesh)
  tensors = shards.list_tensors(folder.base)
  model = dataclasses.replace(folder.record.model, lora_rank=0)
  wanted = table_lib.tensors(
    folder.record.family, table_lib.targets(model, mesh)
  )
  _check_tensors(tensors, wanted, folder.record)


def load(
  folder: Folder,
  mesh: Mesh,
  *,
  dtype: str | None = None,
  param_dtype: str | None = None,
  screen: console.Console | None = None,
) -> tuple[model_config.ModelConfig, types.Params]:
  """The model of a folder: its config, and its parameters on the mesh.

  Args:
    folder: of `read`.
    mesh: each process reads what its devices hold.
    dtype: of activations; None: that of the parameters.
    param_dtype: of the parameters; None: as they are stored. Adapters are
      float32.
    screen: shows a bar while weights are read, and notices.

  Raises:
    UserError: as `check`.
  """
  cfg, leaves = iterate(folder, mesh, param_dtype=param_dtype, screen=screen)
  flat = dict(leaves)
  params = flax.traverse_util.unflatten_dict(flat, sep='/')
  if folder.base != folder.path:
    _, adapters = peft.load(folder.path, folder.record.family, cfg, mesh)
    params = lora.join(params, adapters)
  return dataclasses.replace(cfg, dtype=dtype or cfg.param_dtype), params


def iterate(
  folder: Folder,
  mesh: Mesh,
  *,
  param_dtype: str | None = None,
  screen: console.Console | None = None,
) -> tuple[model_config.ModelConfig, Iterator[tuple[str, jax.Array]]]:
  """(config, the leaves of the base one by one), none of which is kept here.

  The config has the dtype of the leaves, and the rank of the adapters.
  """
  check(folder, mesh)
  record = folder.record
  for notice in record.notices if screen else ():
    screen.line(notice)
  tensors = shards.list_tensors(folder.base)
  stored = param_dtype or stored_dtype(tensors, record.config)
  cfg = dataclasses.replace(record.model, param_dtype=stored)
  leaves = table_lib.targets(dataclasses.replace(cfg, lora_rank=0), mesh)
  return cfg, _leaves(tensors, record.family, leaves, screen)


def stored_dtype(
  tensors: Mapping[str, shards.Tensor], config: Mapping[str, Any]
) -> str:
  """The dtype of all tensors; of several, the one that config.json names.

  Where it names none, that of most tensors.
  """
  kinds = collections.Counter(t.dtype for t in tensors.values())
  named = config.get('dtype') or config.get('torch_dtype')
  if len(kinds) > 1 and named in table_lib.DTYPES:
    return named
  return kinds.most_common(1)[0][0]


def _check_tensors(
  tensors: Mapping[str, shards.Tensor],
  wanted: Mapping[str, table_lib.Slot],
  record: hf_config.Record,
) -> None:
  """Refuses tensors that are missing, unexpected, or of another shape."""
  where = next(iter(tensors.values())).file.parent
  for name in dict.fromkeys([*wanted, *tensors]):
    shown = folder_lib.short(name)
    if name not in tensors:
      raise errors.UserError(
        f'{where}: tensor {shown} is missing; is the folder complete, and is '
        'its config.json its own?'
      )
    if name not in wanted:
      if table_lib.is_harmless(name, record):
        continue
      raise errors.UserError(
        f'{where}: unexpected tensor {shown}: the model of its config.json '
        'has none of that name'
      )
    shape = wanted[name].shape
    if tensors[name].shape != shape:
      raise errors.UserError(
        f'{where}: tensor {shown} has shape {list(tensors[name].shape)}, '
        f'expected {list(shape)} by its config.json'
      )


def _leaves(
  tensors: Mapping[str, shards.Tensor],
  family: str,
  leaves: Mapping[str, jax.ShapeDtypeStruct],
  screen: console.Console | None,
) -> Iterator[tuple[str, jax.Array]]:
  names = collections.defaultdict(list)
  wanted = table_lib.tensors(family, leaves)
  for name, slot in wanted.items():
    names[slot.path].append((name, slot))
  with stage(screen, 'reading', len(wanted)) as advance:
    # The tables first: they are the largest tensors, and there is room yet.
    for path in sorted(leaves, key=lambda path: path.startswith('layers/')):
      yield path, _leaf(leaves[path], names[path], tensors, advance)


def _leaf(
  leaf: jax.ShapeDtypeStruct,
  parts: list[tuple[str, table_lib.Slot]],
  tensors: Mapping[str, shards.Tensor],
  advance: Callable[[], None],
) -> jax.Array:
  """One leaf: one tensor, or a tensor a layer."""
  place = leaf.sharding
  (name, slot), *_ = parts
  if slot.layer is None:
    convert = jax.jit(
      _convert, static_argnames=('turned', 'dtype'), out_shardings=place
    )
    tensor = _fetch(tensors[name], place, slot.turned)
    value = convert(tensor, turned=slot.turned, dtype=leaf.dtype)
    value.block_until_ready()
    advance()
    return value
  blank = jax.jit(_blank, static_argnums=(0, 1), out_shardings=place)
  put = jax.jit(
    _put_layer,
    static_argnames='turned',
    donate_argnums=0,
    out_shardings=place,
  )
  value = blank(leaf.shape, leaf.dtype)
  inner = NamedSharding(place.mesh, P(*place.spec[1:]))
  for name, slot in parts:
    tensor = _fetch(tensors[name], inner, slot.turned)
    value = put(value, tensor, slot.layer, turned=slot.turned)
    value.block_until_ready()  # else tensors pile up on the host
    advance()
  return value


@contextlib.contextmanager
def stage(
  screen: console.Console | None, title: str, total: int
) -> Iterator[Callable[[], None]]:
  """A function to call after each of `total` tensors."""
  if screen is None:
    yield lambda: None
    return
  with screen.stage(title, total) as bar:
    yield bar.step


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
