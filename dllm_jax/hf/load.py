"""Model folders, read: what they say, and their weights as parameters.

Names and shapes of all tensors are checked before a weight is read. A stacked
leaf is allocated once, on its devices, and its layers are written into it in
place: the host never holds more than its own shards and one tensor. Kernels are
[in, out] here and [out, in] in Hugging Face's folders.
"""

import collections
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
from dllm_jax.hf.families import FAMILIES
from dllm_jax.models import lora
from dllm_jax.runtime import console
from dllm_jax.state import workdir

# Files of folders that older versions wrote.
_OLD = ('manifest.json', 'params/manifest.json')

# Models that a run keeps in its workdir.
_OF_RUN = ('final', 'base')


class Folder(NamedTuple):
  """A model folder without its weights.

  Attributes:
    path: the folder.
    base: the folder of the base weights: `path`, unless it holds adapters.
    record: the model, with its adapters.
    text: the folder of the tokenizer's files.
  """

  path: pathlib.Path
  base: pathlib.Path
  record: hf_config.Record
  text: pathlib.Path


def read(path: pathlib.Path) -> Folder:
  """Describes a folder of weights or of adapters; no weight is read.

  Raises:
    UserError: it is neither, is malformed, or its base is missing.
  """
  if not path.is_dir():
    raise errors.UserError(f'there is no folder {path}; check the path')
  if workdir.read_config(path) is not None:
    kept = [n for n in _OF_RUN if (path / n).exists()] or _OF_RUN[:1]
    names = ' or '.join(str(path / name) for name in kept)
    raise errors.UserError(
      f'{path} is the workdir of a run; did you mean {names}?'
    )
  if any((path / name).exists() for name in _OLD):
    raise errors.UserError(
      f'{path} was written by an older version of this program, in a layout '
      'that is no longer read: take the original folder if it was converted, '
      'and train a model of a run anew, in another --workdir'
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
  """The model of one folder with the adapters of another.

  Raises:
    UserError: the model cannot have adapters or has some already, or the
      adapters are malformed.
  """
  if folder.base != folder.path:
    raise errors.UserError(
      f'{folder.path} has adapters already: merge those first '
      '(launch/convert.py --merge_lora)'
    )
  if folder.record.family == hf_config.NATIVE:
    raise errors.UserError(
      f'{folder.path} is a model of no Hugging Face family, and PEFT has no '
      'names for its adapters: use it without adapters'
    )
  rank, alpha = peft.rank_of(adapters)
  try:
    record = folder.record.replace(lora_rank=rank, lora_alpha=alpha)
  except ValueError as e:
    raise errors.UserError(f'{adapters}: {e}') from None
  has_text = any(folder_lib.has(adapters, n) for n in table_lib.TOKENIZERS)
  return Folder(
    path=adapters,
    base=folder.path,
    record=record,
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
  record = _base_record(folder)
  wanted = table_lib.tensors(
    record.family, table_lib.targets(record.denoiser, mesh)
  )
  _check_tensors(_list_tensors(folder), wanted, record)


def _list_tensors(folder: Folder) -> dict[str, shards.Tensor]:
  """The tensors of the base, without the prefix that names may have.

  Raises:
    UserError: as `shards.list_tensors`, or a tensor is there with the prefix
      and without it.
  """
  tensors = shards.list_tensors(folder.base)
  if folder.record.family == hf_config.NATIVE:
    return tensors
  prefix = FAMILIES[folder.record.family].names.prefix
  plain = {k.removeprefix(prefix): tensor for k, tensor in tensors.items()}
  if len(plain) < len(tensors):
    twice = next(k for k in plain if {k, prefix + k} <= tensors.keys())
    raise errors.UserError(
      f'{folder.base}: the tensor {folder_lib.short(twice)} is there with the '
      f'prefix {prefix} and without it: remove one of them'
    )
  return plain


def _base_record(folder: Folder) -> hf_config.Record:
  """The record of a folder's model without its adapters."""
  if folder.base == folder.path:
    return folder.record
  return folder.record.replace(lora_rank=0)


def load(
  folder: Folder,
  mesh: Mesh,
  *,
  dtype: str | None = None,
  param_dtype: str | None = None,
  screen: console.Console | None = None,
) -> tuple[types.Trainable, types.Params]:
  """The model of a folder, and its parameters on the mesh.

  Args:
    folder: result of `read`.
    mesh: devices for the parameters; a process reads what its own hold.
    dtype: dtype of activations; None is that of the parameters.
    param_dtype: dtype of the parameters; None is as they are stored. Adapters
      are float32.
    screen: shows progress and notices.

  Raises:
    UserError: as `check`, or a dtype is given for a model that is not a
      transformer.
  """
  record, leaves = iterate(folder, mesh, param_dtype=param_dtype, screen=screen)
  flat = dict(leaves)
  params = flax.traverse_util.unflatten_dict(flat, sep='/')
  if folder.base != folder.path:
    adapters = peft.load(folder.path, record.family, record.model, mesh)
    params = lora.join(params, adapters)
  if dtype or record.model:
    record = record.replace(dtype=dtype or record.model.param_dtype)
  return record.denoiser, params


def iterate(
  folder: Folder,
  mesh: Mesh,
  *,
  param_dtype: str | None = None,
  screen: console.Console | None = None,
) -> tuple[hf_config.Record, Iterator[tuple[str, jax.Array]]]:
  """`load` with one leaf of the base in memory at a time.

  Returns:
    The record, with the dtype of the leaves and the rank of the adapters; and
    (path, leaf) of every leaf of the base.
  """
  check(folder, mesh)
  record = folder.record
  screen = screen or console.Console(quiet=True)
  for notice in record.notices:
    screen.line(notice)
  tensors = _list_tensors(folder)
  if param_dtype or record.model:
    stored = param_dtype or stored_dtype(tensors, record.config)
    record = record.replace(param_dtype=stored)
  base = _base_record(folder._replace(record=record))
  leaves = table_lib.targets(base.denoiser, mesh)
  return record, _leaves(tensors, record.family, leaves, screen)


def stored_dtype(
  tensors: Mapping[str, shards.Tensor], config: Mapping[str, Any]
) -> str:
  """The dtype of the tensors; if they differ, the one in config.json.

  If config.json names none either, the dtype of most tensors.
  """
  kinds = collections.Counter(t.dtype for t in tensors.values())
  named = config.get('dtype') or config.get('torch_dtype')
  if len(kinds) > 1 and named in table_lib.DTYPES:
    return named
  return kinds.most_common(1)[0][0]


def _check_tensors(
  tensors: Mapping[str, shards.Tensor],
  wanted: Mapping[str, tuple[table_lib.Slot, ...]],
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
    shape = wanted[name][0].tensor_shape
    if tensors[name].shape != shape:
      raise errors.UserError(
        f'{where}: tensor {shown} has shape {list(tensors[name].shape)}, '
        f'expected {list(shape)} by its config.json'
      )


def _leaves(
  tensors: Mapping[str, shards.Tensor],
  family: str,
  leaves: Mapping[str, jax.ShapeDtypeStruct],
  screen: console.Console,
) -> Iterator[tuple[str, jax.Array]]:
  names = collections.defaultdict(list)
  wanted = table_lib.tensors(family, leaves)
  for name, slots in wanted.items():
    for slot in slots:
      names[slot.path].append((name, slot))
  with screen.stage('reading', sum(map(len, names.values()))) as bar:
    for path, leaf in leaves.items():
      yield path, _leaf(leaf, names[path], tensors, bar.add)


def _leaf(
  leaf: jax.ShapeDtypeStruct,
  parts: list[tuple[str, table_lib.Slot]],
  tensors: Mapping[str, shards.Tensor],
  advance: Callable[[], None],
) -> jax.Array:
  """One leaf: one tensor, or a tensor a layer, or a layer and expert."""
  place = leaf.sharding
  (name, slot), *_ = parts
  if not slot.index:
    convert = jax.jit(
      _convert, static_argnames=('is_transposed', 'dtype'), out_shardings=place
    )
    tensor = _fetch(tensors[name], place, slot)
    value = convert(tensor, is_transposed=slot.is_transposed, dtype=leaf.dtype)
    value.block_until_ready()
    advance()
    return value
  blank = jax.jit(jnp.zeros, static_argnums=(0, 1), out_shardings=place)
  put = jax.jit(
    _put,
    static_argnames='is_transposed',
    donate_argnums=0,
    out_shardings=place,
  )
  value = blank(leaf.shape, leaf.dtype)
  inner = NamedSharding(place.mesh, P(*place.spec[len(slot.index) :]))
  for name, slot in parts:
    tensor = _fetch(tensors[name], inner, slot)
    value = put(value, tensor, slot.index, is_transposed=slot.is_transposed)
    value.block_until_ready()  # else tensors pile up on the host
    advance()
  return value


def _fetch(
  tensor: shards.Tensor, place: NamedSharding, slot: table_lib.Slot
) -> jax.Array:
  """One tensor, in its own layout, on the devices that want parts of it."""
  if slot.is_transposed:
    spec = (*place.spec, *(None,) * (2 - len(place.spec)))
    place = NamedSharding(place.mesh, P(*reversed(spec)))

  def read(index):
    if slot.num_parts > 1:
      *outer, last = index
      start, stop, _ = last.indices(slot.shape[-1])
      first = slot.part * slot.shape[-1]
      index = (*outer, slice(first + start, first + stop))
    return shards.read(tensor, index)

  return jax.make_array_from_callback(slot.shape, place, read)


def _convert(tensor, *, is_transposed: bool, dtype):
  return (tensor.T if is_transposed else tensor).astype(dtype)


def _put(leaf, tensor, index, *, is_transposed: bool):
  value = _convert(tensor, is_transposed=is_transposed, dtype=leaf.dtype)
  value = value.reshape((1,) * len(index) + value.shape)
  start = (*index, *(0,) * (leaf.ndim - len(index)))
  return jax.lax.dynamic_update_slice(leaf, value, start)
