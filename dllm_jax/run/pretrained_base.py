"""Pretrained folders as the base of a run, and as models to evaluate.

Such a folder is Hugging Face's, or a converted one (`hf.pretrained`). A run
that began with one keeps in WORKDIR/pretrained what its own models need beside
their parameters: the config.json and the tokenizer's files, no weights.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import jax

from dllm_jax import errors, types
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import converted, hub, pretrained
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf import weights as hf
from dllm_jax.models import lora
from dllm_jax.ops import streams
from dllm_jax.rollout import context
from dllm_jax.run import settings
from dllm_jax.runtime import console
from dllm_jax.state import checkpoint, workdir
from dllm_jax.text import chat
from dllm_jax.text import tokenizer as tokenizer_lib

FOLDER = 'pretrained'
_WEIGHTS = ('*.safetensors', '*.safetensors.index.json', '*.bin')


class Origin(NamedTuple):
  """What a pretrained folder says beside its weights.

  Attributes:
    folder: with the config.json, or the record of a converted model, and the
      tokenizer's files.
    record: family and shape.
    tokenizer: its own.
    template: of chats; that of the family where the folder has none.
  """

  folder: pathlib.Path
  record: hf_config.Record
  tokenizer: tokenizer_lib.Tokenizer
  template: chat.ChatTemplate


def is_folder(path: pathlib.Path) -> bool:
  """Whether that is a pretrained folder, sound or not.

  Kept parameters and workdirs are none.
  """
  if pretrained.is_converted(path) or any(
    next(path.glob(pattern), None) for pattern in _WEIGHTS
  ):
    return True
  is_run = folder_lib.has(path, workdir.LOCK_FILE) or workdir.read_config(path)
  return folder_lib.has(path, hf_config.CONFIG_FILE) and not is_run


def located(cfg: settings.Settings) -> settings.Settings:
  """The settings with `base.path` a path: a name is downloaded.

  Raises:
    errors.UserError: it is neither there nor to be had.
  """
  if not cfg.base.path:
    return cfg
  try:
    path = hub.locate(cfg.base.path)
  except errors.UserError as e:
    raise errors.UserError(
      f'config key base.path names {cfg.base.path}: {e}; give a pretrained '
      "folder, the base directory of a finished run, or '' to train one"
    ) from e
  base = dataclasses.replace(cfg.base, path=str(path))
  return dataclasses.replace(cfg, base=base)


def of_run(cfg: settings.Settings, directory: pathlib.Path) -> Origin | None:
  """What the models of a run come from; None where they are of the config.

  In this order: 1. kept in the workdir; 2. the folder that `base.path` names;
  3. kept in the workdir whose parameters it names.

  Raises:
    errors.UserError: as `read`.
  """
  if not cfg.base.path:
    return None
  path = pathlib.Path(cfg.base.path)
  if (directory / FOLDER).is_dir():
    return read(directory / FOLDER)
  if is_folder(path):
    return read(path)
  if (path.parent / FOLDER).is_dir() and folder_lib.has(
    path, checkpoint.MANIFEST_FILE
  ):
    return read(path.parent / FOLDER)
  return None


def read(folder: pathlib.Path) -> Origin:
  """What is known of a pretrained model before its weights are read.

  Raises:
    errors.UserError: the folder is malformed, its tokenizer is of another
      model, or the model is not one of masked diffusion.
  """
  record = pretrained.read_record(folder)
  if record.model.causal:
    raise errors.UserError(
      f'{folder} holds a causal model ({record.family}); training and decoding '
      'here are by masked diffusion: take a LLaDA or Dream model'
    )
  tokenizer = tokenizer_lib.Tokenizer.from_directory(
    folder, model=record.config
  )
  tokenizer.check_rows(record.model.vocab_size, str(folder))
  template = chat.from_directory(folder) or chat.FAMILIES[record.family]
  return Origin(folder, record, tokenizer, template)


def keep(origin: Origin, directory: pathlib.Path) -> None:
  """Puts what models need beside their parameters into the workdir, once."""
  target = directory / FOLDER
  if target.exists():
    return
  with folder_lib.new(target) as work:
    converted.copy_tokenizer(origin.folder, work)
    workdir.write_json(work / hf_config.CONFIG_FILE, origin.record.config)


def check(path: pathlib.Path, ctx: context.Context) -> None:
  """Refuses a folder whose weights are not those of the run's model.

  Raises:
    errors.UserError: as `hf.pretrained.check`, or adapters that the run does
      not have, or a folder that has changed since the run began.
  """
  own, wanted = pretrained.read_record(path).model, ctx.denoiser.cfg
  if hf_config.plain(own) != hf_config.plain(wanted):
    raise errors.UserError(
      f'{path} holds another model than the one that the run began with'
    )
  has = (own.lora_rank, own.lora_alpha)
  if own.lora_rank and has != (wanted.lora_rank, wanted.lora_alpha):
    raise errors.UserError(
      f'{path} has adapters of rank {has[0]} and alpha {has[1]}; set '
      'model.lora_rank and model.lora_alpha so, or merge them with '
      'launch/convert.py --merge_lora'
    )
  pretrained.check(path, ctx.mesh)


def load(
  path: pathlib.Path, ctx: context.Context, screen: console.Console
) -> types.Params:
  """The weights of a folder, with fresh adapters where the run wants some.

  Raises:
    errors.UserError: as `check`.
  """
  cfg = ctx.denoiser.cfg
  model = pretrained.open_model(
    path,
    ctx.mesh,
    dtype=cfg.dtype,
    param_dtype=cfg.param_dtype,
    screen=screen,
  )
  if model.cfg.lora_rank or not cfg.lora_rank:
    return model.params
  return lora.join(model.params, _fresh_adapters(ctx))


def _fresh_adapters(ctx: context.Context) -> lora.Adapters:
  key, cfg = streams.step_key(ctx.root, 'init', 0), ctx.denoiser.cfg
  leaves = hf.targets(cfg, ctx.mesh)
  names = jax.eval_shape(lambda key: lora.fresh(key, cfg), key)
  places = {name: leaves[name].sharding for name in names}
  fresh = jax.jit(lora.fresh, static_argnums=1, out_shardings=places)
  return fresh(key, cfg)
