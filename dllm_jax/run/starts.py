"""How the base of a run is trained: by supervision, or as MoE-ERL starts."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import optax

from dllm_jax import types
from dllm_jax.models import transformer, upcycle
from dllm_jax.rollout import context
from dllm_jax.run import setup
from dllm_jax.train import loop
from dllm_jax.train.methods import moe_erl, sft, specialists


class Start(NamedTuple):
  """How a base is trained.

  Attributes:
    ctx: the run, with the model that is trained.
    method: of the loop.
    finish: what the base is made of, once the loop has ended.
  """

  ctx: context.Context
  method: loop.Method
  finish: Callable[[types.Params], types.Params]


def of(run: setup.Run, optimizer: optax.GradientTransformation) -> Start:
  """The start that the config names; supervised training of most methods."""
  cfg, ctx = run.cfg, run.ctx
  own = cfg.method if isinstance(cfg.method, moe_erl.MoeErlConfig) else None
  name = own.start if own else ''
  # Not those that the base begins with.
  new = lambda: setup.fresh_params(run.ctx, draw=1)
  if name == 'merged':
    method = specialists.Specialists(
      ctx=ctx,
      optimizer=optimizer,
      gen_length=cfg.base_sft.gen_length,
      num_micro=cfg.base_sft.num_micro,
    )
    finish = lambda params: run.ctx.denoiser.with_routers(params, new())
    return Start(ctx, method, finish)
  if name == 'trained':
    method = moe_erl.MoeErl(
      cfg=dataclasses.replace(own, rl_weight=0.0, path_weight=0.0),
      ctx=ctx,
      rollout=cfg.rollout,
      optimizer=optimizer,
      reference={},
    )
    return Start(ctx, method, lambda params: params)
  finish = lambda params: params
  if name == 'upcycled':
    dense = transformer.config_of(ctx.denoiser).dense()
    ctx = dataclasses.replace(ctx, denoiser=transformer.of_config(dense))
    finish = lambda params: upcycle.upcycle(params, new())
  return Start(
    ctx, sft.Sft(ctx=ctx, optimizer=optimizer, cfg=cfg.base_sft), finish
  )
