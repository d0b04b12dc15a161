"""Folders of mixtures of experts, made of those of dense models."""

import pathlib

import jax

from dllm_jax import errors
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf import load, save
from dllm_jax.models import transformer, upcycle
from dllm_jax.runtime import console, sharding


def convert(
  source: pathlib.Path,
  target: pathlib.Path,
  mesh: jax.sharding.Mesh,
  *,
  num_experts: int,
  sparse_every: int = 1,
  dtype: str | None = None,
  seed: int = 0,
  screen: console.Console | None = None,
) -> None:
  """Writes the model that computes what a dense one does, with experts.

  Every expert is a copy of the MLP, one expert serves a token, and no gate
  scales its output, so that the next-token loss alone does not train the random
  routers (`upcycle.upcycle`). Both models are in memory, divided over the mesh.

  Args:
    source: folder of a dense transformer.
    target: path that does not exist; it appears complete or not at all.
    mesh: devices that hold the models.
    num_experts: experts of a layer that has some.
    sparse_every: the last of every so many layers has experts.
    dtype: dtype of the written weights; None keeps the stored one.
    seed: of the routers.
    screen: shows progress bars and notices.

  Raises:
    UserError: as `save.convert`, or the model is not dense or has adapters.
  """
  folder_lib.check_new(target)
  folder = load.read(source)
  if folder.base != folder.path:
    raise errors.UserError(
      f'{source} has adapters: merge them first, with --merge_lora'
    )
  if folder.record.model is None:
    raise errors.UserError(f'{source} is no transformer: it has no MLPs')
  try:
    cfg = folder.record.model.with_experts(num_experts, sparse_every)
  except ValueError as e:
    raise errors.UserError(f'{source}: {e}') from None
  record = hf_config.Record(
    hf_config.family_of(cfg),
    transformer.of_config(cfg),
    folder.record.special,
  )
  # Refused before weights are read: a folder that could not be read again.
  hf_config.parse(hf_config.render(record, 'float32'), str(target))
  dense, params = load.load(folder, mesh, param_dtype=dtype, screen=screen)
  record = record.replace(param_dtype=dense.cfg.param_dtype)
  places = sharding.param_targets(record.denoiser, mesh)
  # Of the fresh parameters the compiler keeps the routers alone.
  make = jax.jit(
    lambda params, key: upcycle.upcycle(params, record.denoiser.init(key)),
    out_shardings=jax.tree.map(lambda leaf: leaf.sharding, places),
  )
  made = make(params, jax.random.key(seed))
  save.save(target, made, record, text=folder.text, screen=screen)
