"""The study of routing that ends a run of MoE-ERL.

The arms of the config are trained from the same base on the same batches, and
the routing of every model is measured on held-out rows. It writes routing.json:
what `eval.routing.evaluate` says of each model, by name.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dllm_jax import errors, types
from dllm_jax.analysis import routing_charts
from dllm_jax.data import pipeline
from dllm_jax.eval import routing
from dllm_jax.ops import streams
from dllm_jax.rl import routing as paths_lib
from dllm_jax.rollout import context, demonstrations
from dllm_jax.run import settings, setup
from dllm_jax.runtime import console, processes, sharding
from dllm_jax.state import workdir
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import grad, loop, optim
from dllm_jax.train import state as state_lib
from dllm_jax.train.methods import moe_erl

FILE = 'routing.json'


def applies(cfg: settings.Settings) -> bool:
  """Whether the run is one of MoE-ERL."""
  return isinstance(cfg.method, moe_erl.MoeErlConfig)


def check(cfg: settings.Settings, ctx: context.Context) -> None:
  """Refuses a run whose routing could not be measured, before any work.

  Raises:
    errors.UserError: the mesh does not divide the held-out rows, there are
      several processes, or training may end early and the arms do not.
  """
  if not applies(cfg):
    return
  if processes.several():
    raise errors.UserError(
      'the routing of experts is measured by one process, and this run has '
      'several: method.name=moe_erl cannot be run so'
    )
  if cfg.loop.keeps_best:
    raise errors.UserError(
      'config keys train.patience and train.floor_patience end a training '
      'early, and the arms of moe_erl are trained for as long: set them to 0'
    )
  sharding.check_divides(cfg.data.num_test, ctx.mesh, 'data.num_test')
  if cfg.method.start == 'trained':
    grad.check_micro_batches(
      cfg.base.batch_size, cfg.method.num_micro, ctx.mesh, 'method.num_micro'
    )


def phases(cfg: settings.Settings) -> tuple[str, ...]:
  """The phases of the arms in metrics.jsonl."""
  return tuple(map(_phase, cfg.method.arms)) if applies(cfg) else ()


def _phase(arm: str) -> str:
  return f'arm_{arm}'


def run_study(
  run: setup.Run,
  policies: Mapping[str, types.Params],
  seconds: Mapping[str, float],
  outlets: Callable[[setup.Run, str], dict[str, Any]],
) -> None:
  """Trains the arms, measures all models, and writes routing.json.

  Args:
    run: the run.
    policies: parameters of 'base' and 'final'.
    seconds: training time of 'base' and 'rl'.
    outlets: where the training of a phase reports to.
  """
  cfg = run.cfg
  name = 'MoE-ERL-wPL' if cfg.method.path_weight else 'MoE-ERL'
  models = {
    'base': ('base', 0, seconds['base'], policies['base'], run.ctx.denoiser),
    'final': (
      name,
      cfg.loop.num_steps,
      seconds.get('rl', 0.0),
      policies['final'],
      run.ctx.denoiser,
    ),
  }
  for arm in cfg.method.arms:
    models[arm] = _train(run, arm, policies['base'], outlets)
  run.watch.pause()
  texts, label = _held_out(run)
  found = {}
  for key, (title, steps, took, params, denoiser) in models.items():
    about = {'title': title, 'steps': steps, 'seconds': round(took, 2)}
    found[key] = about | routing.evaluate(
      denoiser,
      params,
      texts,
      label,
      cfg.method.study,
      streams.step_key(run.ctx.root, 'eval', 0),
      vocab=run.ctx.vocab,
      mesh=run.ctx.mesh,
      batch_size=cfg.eval.batch_size,
    )
  losses = {key: model.pop('row_loss') for key, model in found.items()}
  for key, model in found.items():  # the method's loss less this model's
    gap = routing.paired(losses['final'], losses[key])
    model['final_gap'] = None if key == 'final' else list(gap)
  if processes.is_first():
    study = dataclasses.asdict(cfg.method.study)
    workdir.write_json(
      run.directory / FILE,
      {'num': len(label), 'study': study, 'models': found},
    )


def _train(
  run: setup.Run,
  name: str,
  base: types.Params,
  outlets: Callable[[setup.Run, str], dict[str, Any]],
) -> tuple[str, int, float, types.Params, types.Denoiser]:
  """(title, steps, seconds, parameters, model) of a trained arm."""
  cfg, arm = run.cfg, moe_erl.ARMS[name]
  ctx = run.ctx
  if arm.gate_scale:
    model = {**cfg.model, 'gate_scale': arm.gate_scale}
    scaled = dataclasses.replace(cfg, model=model).denoiser(ctx.vocab)
    ctx = dataclasses.replace(ctx, denoiser=scaled)
  num_steps = cfg.loop.num_steps
  if arm.same_compute and cfg.method.explores:
    num_steps *= 1 + cfg.method.explore.num_paths
  optimizer = optim.make(cfg.optim)
  method = moe_erl.MoeErl(
    cfg=arm.apply(cfg.method),
    ctx=ctx,
    rollout=cfg.rollout,
    optimizer=optimizer,
    reference=base,
    phase=_phase(name),
  )
  params, progress = loop.run(
    method,
    state_lib.create(state_lib.copy_trained(base), optimizer),
    pipeline.Batches(
      run.rows.prompts,
      seed=streams.host_seed(cfg.seed, 'rollout'),
      batch_size=cfg.rollout.num_prompts,
    ),
    title=arm.title,
    cfg=loop.LoopConfig(
      num_steps=num_steps,
      eval_every=0,
      patience=0,
      checkpoint_every=cfg.loop.checkpoint_every,
    ),
    score=lambda params: {},
    **outlets(run, _phase(name)),
  )
  return arm.title, num_steps, progress.train_seconds, params, ctx.denoiser


def _held_out(run: setup.Run) -> tuple[paths_lib.Texts, np.ndarray]:
  """The held-out rows as texts on the host, and their labels."""
  ctx, rows = run.ctx, run.rows.test
  placed = demonstrations.encode(ctx, rows, run.cfg.rollout.decoder.gen_length)
  texts = moe_erl.texts_of(placed, ctx.vocab)
  is_labelled = isinstance(ctx.task, task_lib.Labelled)
  label = [ctx.task.label(row) if is_labelled else 0 for row in rows]
  return (
    paths_lib.Texts(*map(np.asarray, texts)),
    np.array(label, np.int32),
  )


def show(directory: pathlib.Path, screen: console.Console) -> None:
  """The closing table, if the run studied routing."""
  if not (directory / FILE).exists():
    return
  study = json.loads((directory / FILE).read_text())
  summary = routing_charts.summary(study)
  screen.table(summary.caption, list(summary.headings), summary.rows)
  screen.line(summary.note)
