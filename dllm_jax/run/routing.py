"""The study of routing that ends a run of MoE-ERL.

It writes routing.json: what `eval.routing.evaluate` says of the base, of the
final model and of the arms on held-out rows, by name.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from dllm_jax import errors
from dllm_jax.analysis import routing_charts
from dllm_jax.eval import routing
from dllm_jax.ops import streams
from dllm_jax.rl import paths as paths_lib
from dllm_jax.rollout import context, demonstrations
from dllm_jax.run import settings, setup
from dllm_jax.runtime import console, processes, sharding
from dllm_jax.state import workdir
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import grad
from dllm_jax.train.methods import moe_erl

FILE = 'routing.json'


def applies(cfg: settings.Settings) -> bool:
  """Whether the run is one of MoE-ERL."""
  return isinstance(cfg.method, moe_erl.MoeErlConfig)


def check(cfg: settings.Settings, ctx: context.Context) -> None:
  """Refuses a run whose routing could not be measured, before any work.

  Raises:
    errors.UserError: the mesh does not divide the held-out rows, there are
      several processes, or a training may end early, so that the arms would
      not be comparable.
  """
  if not applies(cfg):
    return
  if processes.several():
    raise errors.UserError(
      'the routing of experts is measured by one process, and this run has '
      'several: method.name=moe_erl cannot be run so'
    )
  for name, arm in {'': cfg, **cfg.arms}.items():
    if arm.loop.keeps_best:
      raise errors.UserError(
        f'config keys {f"arms.{name}." if name else ""}train.patience and '
        'train.floor_patience end a training early, and the arms of moe_erl '
        'are compared at equal updates: set them to 0'
      )
  sharding.check_divides(cfg.data.num_test, ctx.mesh, 'data.num_test')
  if cfg.method.start == 'trained':
    grad.check_micro_batches(
      cfg.base.batch_size, cfg.method.num_micro, ctx.mesh, 'method.num_micro'
    )


def run_study(
  base: setup.Trained,
  final: setup.Trained,
  arms: Mapping[str, setup.Trained],
) -> None:
  """Measures the routing of all models on the held-out rows."""
  run, cfg = final.run, final.run.cfg
  run.watch.pause()
  texts, label = _held_out(run)
  found = {}
  for name, model in {'base': base, 'final': final, **arms}.items():
    made = routing.evaluate(
      model.run.ctx.denoiser,
      model.params,
      texts,
      label,
      cfg.method.study,
      streams.step_key(run.ctx.root, 'eval', 0),
      vocab=run.ctx.vocab,
      mesh=run.ctx.mesh,
      batch_size=cfg.eval.batch_size,
    )
    found[name] = {
      'steps': 0 if name == 'base' else model.progress.step,
      'seconds': round(model.progress.train_seconds, 2),
    } | made
  losses = {name: model.pop('row_loss') for name, model in found.items()}
  for name, model in found.items():  # the method's loss less this model's
    gap = routing.paired(losses['final'], losses[name])
    model['final_gap'] = None if name == 'final' else list(gap)
  if processes.is_first():
    study = dataclasses.asdict(cfg.method.study)
    workdir.write_json(
      run.directory / FILE,
      {'num': len(label), 'study': study, 'models': found},
    )


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
  summary = routing_charts.summary(study, brief=True)
  screen.table(summary.caption, list(summary.headings), summary.rows)
  screen.line(f'{summary.note} (the report has more columns)')
