"""Pretrained models on disk: Hugging Face folders, and ours made from them.

A converted folder holds

  params/          a checkpoint, whose meta is the record of the model
  tokenizer.json   and whatever else of the tokenizer its source had
  special_ids.json the ids and sizes that its config.json had, for the tokenizer

`open_model` reads either kind, and `convert` makes the one from the other.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import flax
import jax
from jax.sharding import Mesh

from dllm_jax import errors, types
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import converted, peft, shards
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf import weights as hf
from dllm_jax.models import config as model_config
from dllm_jax.models import lora
from dllm_jax.runtime import console
from dllm_jax.state import checkpoint

ADAPTER = 'adapter'
DTYPES = ('float32', 'bfloat16', 'float16')


class Model(NamedTuple):
  """A model that was opened.

  Attributes:
    cfg: the transformer; its dtypes are those in use.
    params: on the mesh, adapters included where `cfg.lora_rank` says so.
    record: family, special ids and the config.json it came with.
  """

  cfg: model_config.ModelConfig
  params: types.Params
  record: hf_config.Record


def is_converted(directory: pathlib.Path) -> bool:
  """Whether the folder is one of ours, finished or not."""
  return folder_lib.has(directory / converted.PARAMS, checkpoint.MANIFEST_FILE)


def read_record(directory: pathlib.Path) -> hf_config.Record:
  """What a folder of either kind says of its model; no weight is read.

  Raises:
    UserError: it is neither, or is malformed or damaged.
  """
  if not directory.is_dir():
    raise errors.UserError(f'there is no folder {directory}; check the path')
  if not is_converted(directory):
    return hf_config.read(directory)
  return converted.read_record(directory)


def open_model(
  directory: pathlib.Path,
  mesh: Mesh,
  *,
  dtype: str | None = None,
  param_dtype: str | None = None,
  screen: console.Console | None = None,
) -> Model:
  """Reads a Hugging Face folder or a converted one.

  Args:
    directory: of either kind.
    mesh: where the parameters go, by the rules of `sharding`.
    dtype: of activations; None: that of the parameters.
    param_dtype: of the parameters; None: as they are stored.
    screen: shows a bar while weights are read, and notices.

  Raises:
    UserError: what is there is not a model that we can run; names what and
      where.
  """
  record = read_record(directory)
  if screen:
    for notice in record.notices:
      screen.line(notice)
  if is_converted(directory):
    cfg, params = _open_converted(directory, record, mesh, param_dtype)
  else:
    tensors = shards.list_tensors(directory)
    stored = param_dtype or hf.stored_dtype(tensors, str(directory))
    cfg = dataclasses.replace(record.model, param_dtype=stored)
    with _stage(screen, 'reading', len(tensors)) as advance:
      params = hf.load(
        tensors,
        record.family,
        cfg,
        mesh,
        where=str(directory),
        advance=advance,
      )
  cfg = dataclasses.replace(cfg, dtype=dtype or cfg.param_dtype)
  return Model(cfg, params, record._replace(model=cfg))


def check(directory: pathlib.Path, mesh: Mesh) -> None:
  """Raises the UserError that `open_model` would, and reads no weight."""
  record = read_record(directory)
  targets = hf.targets(record.model, mesh)
  if is_converted(directory):
    like = flax.traverse_util.unflatten_dict(targets, sep='/')
    checkpoint.check_params(directory / converted.PARAMS, like)
  else:
    tensors = shards.list_tensors(directory)
    wanted = hf.tensor_shapes(record.family, targets)
    hf.check(tensors, wanted, str(directory))


def convert(
  source: pathlib.Path,
  target: pathlib.Path,
  mesh: Mesh,
  *,
  dtype: str | None = None,
  adapter: pathlib.Path | None = None,
  merge: bool = False,
  screen: console.Console | None = None,
) -> None:
  """A Hugging Face folder to one of ours, or one of ours to Hugging Face's.

  Adapters that are not merged stay in the parameters of the former, and become
  a folder in PEFT's layout inside the latter.

  Args:
    source: of either kind.
    target: must not exist; it is there whole, or not at all.
    mesh: where parameters live on their way.
    dtype: to cast the parameters to; None keeps theirs.
    adapter: a folder in PEFT's layout, to put on the model.
    merge: adds the adapters to the kernels.
    screen: shows bars and notices.

  Raises:
    UserError: as `open_model`, or the target is there, or the disk is full.
  """
  exports = is_converted(source)
  if dtype is not None and dtype not in DTYPES:
    raise errors.UserError(f'dtype is {dtype!r}; there are {", ".join(DTYPES)}')
  with folder_lib.new(target) as work:
    if exports and adapter is None and not merge:
      record = read_record(source)
      if not record.model.lora_rank:
        _export_streamed(source, target, work, record, mesh, dtype, screen)
        return
    model = open_model(source, mesh, param_dtype=dtype, screen=screen)
    if adapter is not None:
      model = _adapted(model, adapter, mesh)
    if merge:
      if not model.cfg.lora_rank:
        raise errors.UserError(
          f'{source} has no adapters to merge; give them, or leave '
          '--merge_lora out'
        )
      params, cfg = lora.merge(model.params, model.cfg, donate=True)
      model = Model(cfg, params, model.record._replace(model=cfg))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    folder_lib.check_space(target, size)
    copied = converted.copy_tokenizer(source, work)
    if exports:
      _export(work, model, screen)
    else:
      if screen:
        screen.line(f'writing {size / 1e9:.2f} GB')
      copied |= converted.keep_ids(model.record, work)
      meta = converted.to_meta(model.record, copied)
      checkpoint.save_params(work / converted.PARAMS, model.params, meta)


def _adapted(model: Model, adapter: pathlib.Path, mesh: Mesh) -> Model:
  if model.cfg.lora_rank:
    raise errors.UserError(
      'the model has adapters already; merge those before others are put on it'
    )
  cfg, adapters = peft.load(adapter, model.record.family, model.cfg, mesh)
  params = lora.join(model.params, adapters)
  return Model(cfg, params, model.record._replace(model=cfg))


def _export(
  work: pathlib.Path, model: Model, screen: console.Console | None
) -> None:
  adapters, plain = lora.split(model.params)
  total = len(hf.tensor_shapes(model.record.family, _flat(plain)))
  with _stage(screen, 'writing', total) as advance:
    hf.save(work, plain, model.record, advance=advance)
  if adapters:
    peft.save(work / ADAPTER, adapters, model.record.family, model.cfg)


def _export_streamed(
  source: pathlib.Path,
  target: pathlib.Path,
  work: pathlib.Path,
  record: hf_config.Record,
  mesh: Mesh,
  dtype: str | None,
  screen: console.Console | None,
) -> None:
  """`_export` of a converted folder, leaf by leaf: none needs another."""
  stored = record.model
  cfg = dataclasses.replace(stored, param_dtype=dtype or stored.param_dtype)
  like, wanted = hf.targets(stored, mesh), hf.targets(cfg, mesh)
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in wanted.values())
  folder_lib.check_space(target, size)
  converted.copy_tokenizer(source, work)
  tree = flax.traverse_util.unflatten_dict(like, sep='/')
  # In the order in which jax lists the leaves of a tree.
  paths = [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  ]
  leaves = checkpoint.iterate_params(source / converted.PARAMS, tree)
  # No name is given to a leaf, which would keep it while the next one is read.
  arrays = ((path, next(leaves).astype(wanted[path].dtype)) for path in paths)
  total = len(hf.tensor_shapes(record.family, wanted))
  with _stage(screen, 'writing', total) as advance:
    hf.save_leaves(
      work,
      arrays,
      {path: wanted[path] for path in paths},
      record._replace(model=cfg),
      advance=advance,
    )


def _open_converted(
  directory: pathlib.Path,
  record: hf_config.Record,
  mesh: Mesh,
  param_dtype: str | None,
) -> tuple[model_config.ModelConfig, types.Params]:
  cfg = record.model
  like = flax.traverse_util.unflatten_dict(hf.targets(cfg, mesh), sep='/')
  params, _ = checkpoint.load_params(directory / converted.PARAMS, like)
  if param_dtype in (None, cfg.param_dtype):
    return cfg, params
  cfg = dataclasses.replace(cfg, param_dtype=param_dtype)
  flat, places = _flat(params), hf.targets(cfg, mesh)
  del params
  cast = jax.jit(lambda x, dtype: x.astype(dtype), static_argnums=1)
  for path in flat:  # one at a time, so that no two whole trees are held
    flat[path] = cast(flat[path], places[path].dtype)
  return cfg, flax.traverse_util.unflatten_dict(flat, sep='/')


def _flat(params: types.Params) -> dict[str, jax.Array]:
  return flax.traverse_util.flatten_dict(params, sep='/')


@contextlib.contextmanager
def _stage(
  screen: console.Console | None, title: str, total: int
) -> Iterator[Callable[[], None]]:
  """A function to call after each of `total` tensors."""
  if screen is None:
    yield lambda: None
    return
  with screen.stage(title, total) as bar:
    yield bar.step
