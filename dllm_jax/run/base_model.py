"""The base model of a run, and the models that are evaluated: model folders."""

import dataclasses
import pathlib

import jax

from dllm_jax import errors, types
from dllm_jax import model as model_lib
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import hub, load, table
from dllm_jax.models import lora, transformer
from dllm_jax.ops import streams
from dllm_jax.rollout import context
from dllm_jax.run import settings
from dllm_jax.runtime import console


def resolve_base_path(cfg: settings.Settings) -> settings.Settings:
  """The settings with `base.path` a path: a name is downloaded.

  Raises:
    errors.UserError: there is no such folder, or it cannot be downloaded.
  """
  if not cfg.base.path:
    return cfg
  try:
    path = hub.locate(cfg.base.path)
  except errors.UserError as e:
    raise errors.UserError(
      f'config key base.path names {cfg.base.path}: {e}; give a model folder, '
      "such as the base or final of a run, or '' to train one"
    ) from e
  base = dataclasses.replace(cfg.base, path=str(path))
  return dataclasses.replace(cfg, base=base)


def describe_base(cfg: settings.Settings) -> model_lib.Model | None:
  """The model that `base.path` names; None where the run trains its own.

  Raises:
    errors.UserError: it has no tokenizer.
  """
  if not cfg.base.path:
    return None
  folder = load.read(pathlib.Path(cfg.base.path))
  return check_usable(model_lib.of_folder(folder))


def check_usable(model: model_lib.Model) -> model_lib.Model:
  """The model, if tasks can be decoded with it.

  Raises:
    errors.UserError: it has no tokenizer.
  """
  if model.tokenizer is None:
    raise errors.UserError(
      f'{model.folder.path} has neither tokenizer.json nor vocab.json: put '
      "the tokenizer's files there"
    )
  return model


def check_params(folder: load.Folder, ctx: context.Context) -> None:
  """Refuses a folder whose weights are not those of the run's model.

  Raises:
    errors.UserError: as `hf.load.check`, or it holds another model, or
      adapters that the run does not have.
  """
  _check_same_model(folder, ctx)
  load.check(folder, ctx.mesh)


def _check_same_model(folder: load.Folder, ctx: context.Context) -> None:
  own = folder.record.model
  wanted = transformer.config_of(ctx.denoiser)
  if own is None or wanted is None:
    is_same = folder.record.denoiser == ctx.denoiser
  else:
    is_same = hf_config.plain(own) == hf_config.plain(wanted)
  if not is_same:
    raise errors.UserError(
      f'{folder.path} holds another model than the one of this run'
    )
  if own is None:
    return
  has = (own.lora_rank, own.lora_alpha)
  if own.lora_rank and has != (wanted.lora_rank, wanted.lora_alpha):
    raise errors.UserError(
      f'{folder.path} has adapters of rank {has[0]} and alpha {has[1]}; set '
      'model.lora_rank and model.lora_alpha so, or merge them with '
      'launch/convert.py --merge_lora'
    )


def load_params(
  folder: load.Folder, ctx: context.Context, screen: console.Console
) -> types.Params:
  """The weights of a folder, with fresh adapters where the run wants some.

  Raises:
    errors.UserError: as `check_params`.
  """
  _check_same_model(folder, ctx)
  wanted = transformer.config_of(ctx.denoiser)
  _, params = load.load(
    folder,
    ctx.mesh,
    param_dtype=wanted and wanted.param_dtype,
    screen=screen,
  )
  has_adapters = folder.base != folder.path
  if wanted is None or not wanted.lora_rank or has_adapters:
    return params
  key = streams.step_key(ctx.root, 'init', 0)
  leaves = table.targets(ctx.denoiser, ctx.mesh)
  names = jax.eval_shape(lambda key: lora.fresh(key, wanted), key)
  places = {name: leaves[name].sharding for name in names}
  fresh = jax.jit(lora.fresh, static_argnums=1, out_shardings=places)
  return lora.join(params, fresh(key, wanted))
