"""Folders of mixtures of experts, made of those of dense models."""

import dataclasses
import pathlib

import jax

from dllm_jax import errors
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import load, save
from dllm_jax.models import transformer, upcycle
from dllm_jax.runtime import console

_WITH_EXPERTS = {'swiglu': 'experts', 'gelu': 'gelu_experts'}


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
  """Writes the model that computes what a dense one does with experts.

  Every expert is a copy of the MLP, one expert serves a token, and no gate
  scales its output; routers are random (`upcycle.upcycle`). The whole new model
  is in memory.

  Args:
    source: folder of a dense transformer.
    target: path that does not exist; it appears complete or not at all.
    mesh: devices that hold the model.
    num_experts: experts of a layer that has some.
    sparse_every: the last of every so many layers has experts.
    dtype: dtype of the written weights; None keeps the stored one.
    seed: of the routers.
    screen: shows progress bars and notices.

  Raises:
    UserError: as `save.convert`, or the model is not dense or has adapters.
  """
  folder = load.read(source)
  if folder.base != folder.path:
    raise errors.UserError(
      f'{source} has adapters: merge them first, with --merge_lora'
    )
  dense = folder.record.model
  if dense is None or dense.num_experts:
    raise errors.UserError(
      f'{source} is not a dense transformer, which experts are made of'
    )
  try:
    # Refused before the weights are read.
    cfg = dataclasses.replace(
      dense,
      feed_forward=_WITH_EXPERTS[dense.feed_forward],
      num_experts=num_experts,
      experts_per_token=1,
      sparse_every=sparse_every,
      gate_scale='none',
    )
  except ValueError as e:
    raise errors.UserError(str(e)) from None
  read, params = load.load(folder, mesh, param_dtype=dtype, screen=screen)
  cfg = dataclasses.replace(cfg, param_dtype=read.cfg.param_dtype)
  sparse = transformer.of_config(cfg)
  # Of the fresh parameters the compiler keeps the routers alone.
  make = jax.jit(lambda params, key: upcycle.upcycle(params, sparse.init(key)))
  save.save(
    target,
    make(params, jax.random.key(seed)),
    hf_config.Record(hf_config.family_of(cfg), sparse, folder.record.special),
    text=folder.text,
    screen=screen,
  )
