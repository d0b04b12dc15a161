"""How the base of a run is trained: by supervision, or as MoE-ERL starts."""

import dataclasses
from collections.abc import Callable

import optax

from dllm_jax import types
from dllm_jax.models import transformer, upcycle
from dllm_jax.rollout import context
from dllm_jax.run import setup
from dllm_jax.train import loop
from dllm_jax.train.methods import moe_erl, sft, specialists


def of(
  run: setup.Run, optimizer: optax.GradientTransformation
) -> tuple[
  context.Context, loop.Method, Callable[[types.Params], types.Params]
]:
  """The start that the config names; supervised training of most methods.

  Returns:
    The run's context with the model that is trained; the method of the loop;
    and what makes the base of its parameters, once the loop has ended.
  """
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
    return ctx, method, finish
  if name == 'trained':
    method = moe_erl.MoeErl(
      cfg=dataclasses.replace(own, rl_weight=0.0, path_weight=0.0),
      ctx=ctx,
      rollout=cfg.rollout,
      optimizer=optimizer,
      reference={},
    )
    return ctx, method, lambda params: params
  finish = lambda params: params
  if name == 'upcycled':
    dense = transformer.config_of(ctx.denoiser).dense()
    ctx = dataclasses.replace(ctx, denoiser=transformer.of_config(dense))
    finish = lambda params: upcycle.upcycle(params, new())
  return ctx, sft.Sft(ctx=ctx, optimizer=optimizer, cfg=cfg.base_sft), finish
