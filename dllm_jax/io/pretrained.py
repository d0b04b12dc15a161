"""Pretrained models on disk: Hugging Face folders, and ours made from them.

A converted folder holds

  params/          a checkpoint, whose meta is the record of the model
  tokenizer.json   and whatever else of the tokenizer its source had
  special_ids.json the ids and sizes that its config.json had, for the tokenizer

`open_model` reads either kind, and `convert` makes the one from the other.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax
import jax
from jax.sharding import Mesh

from dllm_jax import digests, errors, types
from dllm_jax.io import (
  checkpoint,
  console,
  hf,
  hf_config,
  hf_families,
  peft,
  shards,
)
from dllm_jax.io import folder as folder_lib
from dllm_jax.models import config as model_config
from dllm_jax.models import lora
from dllm_jax.text import directory as text_directory

PARAMS = 'params'
ADAPTER = 'adapter'
FORMAT = 1
DTYPES = ('float32', 'bfloat16', 'float16')
# Text alone, and none of it is program code.
TOKENIZER_FILES = (
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
  'merges.txt',
  'added_tokens.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  'generation_config.json',
)


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
  return folder_lib.has(directory / PARAMS, checkpoint.MANIFEST_FILE)


def read_record(directory: pathlib.Path) -> hf_config.Record:
  """What a folder of either kind says of its model; no weight is read.

  Raises:
    UserError: it is neither, or is malformed or damaged.
  """
  if not directory.is_dir():
    raise errors.UserError(f'there is no folder {directory}; check the path')
  if not is_converted(directory):
    return hf_config.read(directory)
  meta = checkpoint.read_meta(directory / PARAMS)
  _check_files(directory, meta.get('files'))
  return _from_meta(meta, directory)


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
    checkpoint.check_params(directory / PARAMS, like)
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
    copied = copy_tokenizer(source, work)
    if exports:
      _export(work, model, screen)
    else:
      if screen:
        screen.line(f'writing {size / 1e9:.2f} GB')
      copied |= _keep_ids(model.record, work)
      meta = _to_meta(model.record, copied)
      checkpoint.save_params(work / PARAMS, model.params, meta)


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


def _open_converted(
  directory: pathlib.Path,
  record: hf_config.Record,
  mesh: Mesh,
  param_dtype: str | None,
) -> tuple[model_config.ModelConfig, types.Params]:
  cfg = record.model
  like = flax.traverse_util.unflatten_dict(hf.targets(cfg, mesh), sep='/')
  params, _ = checkpoint.load_params(directory / PARAMS, like)
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


def copy_tokenizer(source: pathlib.Path, work: pathlib.Path) -> dict[str, str]:
  """Copies what the folder has of a tokenizer; the digests, by name."""
  found = {}
  for name in TOKENIZER_FILES:
    if folder_lib.has(source, name):
      folder_lib.copy(source, name, work)
      found[name] = digests.of_file(work / name)
  return found


def _keep_ids(record: hf_config.Record, work: pathlib.Path) -> dict[str, str]:
  """Writes what a tokenizer reads of config.json; its digest, by name."""
  kept = {k: v for k, v in record.config.items() if k in text_directory.IDS}
  path = work / text_directory.IDS_FILE
  path.write_text(json.dumps(kept, indent=2) + '\n', 'utf-8')
  return {path.name: digests.of_file(path)}


def _check_files(directory: pathlib.Path, files: Any) -> None:
  """Refuses tokenizer files that are not as they were copied."""
  if not isinstance(files, dict):
    raise _damaged(directory, 'its record names no files')
  for name, digest in files.items():
    if digests.of_file(folder_lib.member(directory, name)) != digest:
      raise _damaged(directory, f'{name} is not as it was written')


def _damaged(directory: pathlib.Path, how: str) -> errors.UserError:
  return errors.UserError(
    f'converted model {directory} is damaged: {how}; convert it again'
  )


def _to_meta(
  record: hf_config.Record, files: Mapping[str, str]
) -> dict[str, Any]:
  return {
    'format': FORMAT,
    'family': record.family,
    'model': dataclasses.asdict(record.model),
    'special': dataclasses.asdict(record.special),
    'config': dict(record.config),
    'files': dict(files),
  }


def _from_meta(
  meta: Mapping[str, Any], directory: pathlib.Path
) -> hf_config.Record:
  if meta.get('format') != FORMAT:
    raise errors.UserError(
      f'converted model {directory} has format {meta.get("format")!r}, and '
      f'this program reads {FORMAT}; convert it again'
    )
  try:
    if meta['family'] not in hf_families.FAMILIES:
      raise ValueError(f'there is no family {meta["family"]!r}')
    model, special = dict(meta['model']), dict(meta['special'])
    if model['rope_scaling']:
      model['rope_scaling'] = model_config.RopeScaling(**model['rope_scaling'])
    special['eos_tokens'] = tuple(special['eos_tokens'])
    return hf_config.Record(
      family=meta['family'],
      model=model_config.ModelConfig(**model),
      special=hf_config.Special(**special),
      config=dict(meta['config']),
    )
  except (KeyError, TypeError, ValueError) as e:
    raise _damaged(directory, f'its record is malformed ({e})') from None


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
