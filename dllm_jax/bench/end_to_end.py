"""Measures whole steps of RL: prompts, rollout, verdicts, update.

The task of a config and the method run as in training, on host and device,
except that advantages alternate between +1 and -1. PyTorch decodes and updates
at the same shapes. It neither judges nor samples, so the comparison favours it.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from dllm_jax import errors
from dllm_jax.bench import cases, programs, suites
from dllm_jax.data import pipeline
from dllm_jax.decoding import fixed
from dllm_jax.ops import streams
from dllm_jax.run import settings, setup
from dllm_jax.train import optim, policy_config
from dllm_jax.train import state as state_lib
from dllm_jax.train.methods import diffu_grpo


def end_to_end(
  cfg: settings.Settings, *, reference: Any, rounds: int
) -> dict[str, Any]:
  """diffu-GRPO with the one-step estimator, one inner step and no KL term.

  Args:
    cfg: settings; its task, model, rollout and micro-batches are used.
    reference: the module `torch_reference`, or None.
    rounds: number of measured calls.

  Raises:
    errors.UserError: the rollout is gated, so its number of steps depends on
      the weights.
  """
  if not isinstance(cfg.rollout.decoder, fixed.Fixed):
    raise errors.UserError(
      f'config key rollout.decode is {cfg.rollout.decode}, under which the '
      'work of a step depends on the weights; use rollout.decode=fixed'
    )
  if cfg.method is None:
    raise errors.UserError(
      "config key method.name is 'sft', which has no RL step; name another "
      'config'
    )
  policy = dataclasses.replace(
    cfg.method.policy,
    estimator='one_step',
    num_inner=1,
    beta=0.0,
    guided_beta=None,
  )
  ctx = setup.make_context(cfg, None)
  optimizer = optim.make(cfg.optim)
  method = diffu_grpo.DiffuGrpo(
    cfg=policy_config.GroupConfig(
      reward=cfg.method.reward,
      advantage=cfg.method.advantage,
      policy=policy,
    ),
    ctx=ctx,
    rollout=cfg.rollout,
    optimizer=optimizer,
    reference={},
  )
  batches = pipeline.Batches(
    setup.load_rows(cfg).prompts,
    seed=streams.host_seed(cfg.seed, 'rollout'),
    batch_size=cfg.rollout.num_prompts,
  )
  params = setup.fresh_params(ctx)
  weights = jax.tree.map(np.asarray, params)
  held = {'state': state_lib.create(params, optimizer), 'step': 0}

  def ours():
    step = held['step']
    batch, _ = method.collect(held['state'], batches.rows(step), step)
    # Fresh weights solve nothing, and rows of tied groups would be skipped.
    batch = batch._replace(advantage=signs)
    held['state'], _ = method.update(held['state'], batch, step)
    held['step'] = step + 1
    jax.block_until_ready(held['state'])

  case = programs.Case(
    name=f'{cfg.task.name}, {cfg.rollout.num_prompts} prompts x '
    f'{cfg.rollout.group_size}',
    model=programs.model_of(ctx.denoiser),
    rollout=cfg.rollout,
    policy=policy,
    optimizer=cfg.optim,
  )
  signs = cases.rollouts(case).advantage
  theirs = lambda name, tuned: _theirs(case, weights, reference, tuned=tuned)
  calls = {'ours': ours} | suites.reference_calls(reference, theirs)
  taken = suites.in_turns(calls, rounds)
  least = case.minimum()
  return suites.rates(
    case,
    taken,
    steps=1,
    minimum=case.decoder.num_steps * least['rollout'] + least['inner_step'],
    facts={},
  )


def _theirs(case: programs.Case, weights: Any, reference: Any, *, tuned: bool):
  model = reference.Model(cfg=case.model, params=reference.leaves(weights))
  trainer = reference.Trainer(model, case)
  batch, key = cases.rollouts(case), jax.random.key(2)
  views = jax.tree.map(np.asarray, case.estimator()(key, batch, case.vocab))
  prompts = np.asarray(batch.prompt_ids)

  def call():
    reference.decode(model, case, prompts, tuned=tuned)
    trainer.step(
      views,
      np.asarray(batch.sampler_logp),
      np.asarray(batch.advantage),
      np.asarray(batch.completion_mask),
      tuned=tuned,
    )

  return call
