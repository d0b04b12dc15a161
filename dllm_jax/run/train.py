"""A whole run: base model, RL, the control, and evaluation of all of them.

Stages run in order. Each resumes from its own checkpoints and keeps its result
as a model folder, so an interrupted run goes on where it stopped when the same
command is given again.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

from dllm_jax import types
from dllm_jax.analysis import frontier_plot, report
from dllm_jax.data import pipeline
from dllm_jax.eval import accuracy
from dllm_jax.hf import load, sidecar
from dllm_jax.ops import streams
from dllm_jax.run import (
  base_model,
  choices,
  conversations,
  results,
  routing,
  setup,
  speculation,
  start,
  starts,
)
from dllm_jax.runtime import console, processes
from dllm_jax.state import checkpoint, workdir
from dllm_jax.train import loop, methods, optim
from dllm_jax.train import progress as progress_lib
from dllm_jax.train import state as state_lib
from dllm_jax.train.methods import sft

ARMS = 'arms'  # folder of the models of the arms


def train(
  config: dict[str, Any], directory: pathlib.Path, screen: console.Console
) -> dict[str, Any]:
  """Everything that `launch/train.py` does.

  Args:
    config: nested dicts.
    directory: workdir; an unfinished run in it is resumed.
    screen: where progress and the closing tables go.

  Returns:
    The content of eval.json.

  Raises:
    errors.UserError: something that the user can correct, in one line.
    loop.Interrupted: stopped by a signal, after saving.
  """
  eval_file = directory / results.EVAL_FILE
  with start.started(config, directory, screen) as run:
    if run is None:
      screen.line(f'{directory} holds a finished run; its results:')
      finished = results.read(eval_file)
    else:
      finished = _stages(run)
      if processes.is_first():
        workdir.write_json(eval_file, finished)
        if run.cfg.gated_decoders():
          frontier_plot.draw(finished, directory / 'frontier.png')
    results.show(finished, screen)
    speculation.show(directory, screen)
    routing.show(directory, screen)
    if run is None and (directory / report.FILE).exists():
      screen.line(f'report: {directory / report.FILE}')
    if run is not None and processes.is_first():
      _report(directory, screen)
    return finished


def _stages(run: setup.Run) -> dict[str, Any]:
  """Runs the stages in order; the content of eval.json."""
  cfg = run.cfg
  base, base_progress = train_base(run)
  setting, accuracy_of_base = choices.choose_setting(run, base)
  policies = {'base': base, 'final': base}
  seconds, trained = {'base': base_progress.seconds}, {}
  if cfg.method is not None or cfg.tunes_base:
    policies['final'], progress = train_policy(run, base, setting)
    seconds['rl' if cfg.method else 'sft'] = progress.seconds
    trained['trained_steps'] = progress.step
    trained['kept_step'] = loop.kept_step(progress, cfg.loop)
    keep(run, 'final', policies['final'], progress)
    if cfg.control and cfg.method and base_progress.train_seconds > 0:
      policies['control'], extra = train_control(
        run, base, base_progress, progress
      )
      seconds['control'] = extra.seconds
      keep(run, 'control', policies['control'], extra)
  arms = {}
  for name, arm in cfg.arms.items():
    own = setup.arm_of(run, arm)
    arms[name] = setup.Trained(own, *train_policy(own, base, setting, name))
    seconds[name] = arms[name].progress.seconds
    keep(own, f'{ARMS}/{name}', *arms[name][1:])
  began = time.perf_counter()
  threshold = None
  if cfg.gated_decoders():
    threshold = choices.choose_threshold(
      run, policies['final'], accuracy_of_base
    )
  summary = results.evaluate_all(run, policies, arms, setting, threshold)
  seconds['eval'] = time.perf_counter() - began
  if cfg.speculation.num_prompts:
    began = time.perf_counter()
    speculation.run_study(run, policies['final'])
    seconds['speculation'] = time.perf_counter() - began
  if routing.applies(cfg):
    began = time.perf_counter()
    final = setup.Trained(run, policies['final'], progress)
    routing.run_study(setup.Trained(run, base, base_progress), final, arms)
    seconds['routing'] = time.perf_counter() - began
  summary['final'] |= trained
  return summary | {'seconds': seconds}


def train_base(run: setup.Run) -> tuple[types.Params, progress_lib.Progress]:
  """The base model.

  The first of these that exists: 1. RUN/base, kept by an earlier start of this
  run; 2. the model folder `base.path`; 3. one that is trained here by `sft`,
  from its checkpoint or from random parameters.
  """
  cfg = run.cfg
  kept = run.directory / 'base'
  is_kept = processes.from_first('the base model', kept.exists)
  if not is_kept and cfg.base.path:
    kept = pathlib.Path(cfg.base.path)
  if is_kept or cfg.base.path:
    if loaded := _load_base(run, kept):
      run.screen.line(f'base model from {kept}')
      return loaded
  optimizer = optim.make(cfg.base_optim)
  ctx, method, finish = starts.of(run, optimizer)
  params, progress = loop.run(
    method,
    state_lib.create(setup.fresh_params(ctx), optimizer),
    pipeline.Batches(
      run.rows.demonstrations, seed=cfg.seed, batch_size=cfg.base.batch_size
    ),
    title='base (sft)',
    phase='sft',
    cfg=cfg.base_loop,
    score=_scorer(
      dataclasses.replace(run, ctx=ctx),
      next(iter(cfg.plain_decoders().values())),
    ),
    **_outlets(run, 'sft'),
  )
  params = finish(params)
  keep(run, 'base', params, progress)
  return params, progress


def _load_base(
  run: setup.Run, kept: pathlib.Path
) -> tuple[types.Params, progress_lib.Progress] | None:
  """Reads a model folder; None if it is damaged and can be restored.

  That is so if this run trained the model: its last checkpoint has the same
  parameters.
  """
  try:
    folder = load.read(kept)
    params = base_model.load_params(folder, run.ctx, run.screen)
    progress = sidecar.read(kept).get('progress', {})
    return params, progress_lib.Progress.from_record(progress)
  except sidecar.Damaged as e:
    is_own = kept == run.directory / 'base' and not processes.several()
    if not is_own or run.checkpoints('sft').latest() is None:
      raise
    aside = checkpoint.set_aside(kept)
    run.screen.line(
      f'{e.reason}; kept as {aside.name}, and restored from its checkpoint'
    )
    return None


def train_policy(
  run: setup.Run,
  base: types.Params,
  setting: int | str,
  name: str = '',
) -> tuple[types.Params, progress_lib.Progress]:
  """Training from the base model, watched on validation rows.

  By RL on prompts; or where the method is 'sft', on demonstrations.

  Args:
    run: the run, or that of an arm.
    base: parameters that RL starts from.
    setting: of the plain decoder that was chosen for the base.
    name: of the arm; '' for the run itself.
  """
  cfg, ctx = run.cfg, run.ctx
  optimizer = optim.make(cfg.optim)
  if cfg.method is None:
    method = sft.Sft(ctx=ctx, optimizer=optimizer, cfg=cfg.base_sft)
    batches = pipeline.Batches(
      run.rows.demonstrations, seed=cfg.seed, batch_size=cfg.base.batch_size
    )
  else:
    method = methods.METHODS[cfg.method_name](
      cfg=cfg.method,
      ctx=ctx,
      rollout=cfg.rollout,
      optimizer=optimizer,
      reference=base,
    )
    batches = pipeline.Batches(
      run.rows.prompts,
      seed=streams.host_seed(cfg.seed, 'rollout'),
      batch_size=cfg.rollout.num_prompts,
    )
  if conversations.applies(cfg):
    score = conversations.scorer(run)
  else:
    score = _scorer(run, cfg.watched_decoder(setting))
  floor = 0.0
  if cfg.loop.floor_patience:
    run.watch.beat('evaluating the base')
    floor = score(base)['eval/accuracy']
  return loop.run(
    method,
    state_lib.create(state_lib.copy_trained(base), optimizer),
    batches,
    title=name or cfg.method_name,
    cfg=cfg.loop,
    score=score,
    floor=floor,
    phase=name or method.phase,
    **_outlets(run, name or method.phase),
  )


def train_control(
  run: setup.Run,
  base: types.Params,
  base_progress: progress_lib.Progress,
  rl_progress: progress_lib.Progress,
) -> tuple[types.Params, progress_lib.Progress]:
  """More supervised training of the base, for as long as RL trained.

  The number of steps is RL's `Progress.train_seconds` over those of a step of
  the base: a measurement, so the control differs from run to run. As for the
  base, the best parameters on validation rows are kept.
  """
  cfg = run.cfg
  per_step = base_progress.train_seconds / max(base_progress.step, 1)
  num_steps = processes.from_first(
    'the length of the control',
    lambda: max(1, round(rl_progress.train_seconds / per_step)),
  )
  optimizer = optim.make(cfg.base_optim)
  return loop.run(
    sft.Sft(
      ctx=run.ctx, optimizer=optimizer, cfg=cfg.base_sft, phase='control'
    ),
    state_lib.create(state_lib.copy_trained(base), optimizer),
    pipeline.Batches(
      run.rows.demonstrations,
      seed=streams.host_seed(cfg.seed, 'control'),
      batch_size=cfg.base.batch_size,
    ),
    title='control (more sft)',
    cfg=dataclasses.replace(
      cfg.base_loop,
      num_steps=num_steps,
      patience=num_steps if cfg.base_loop.eval_every else 0,  # to the end
    ),
    score=_scorer(run, next(iter(cfg.plain_decoders().values()))),
    **_outlets(run, 'control'),
  )


def keep(
  run: setup.Run,
  name: str,
  params: types.Params,
  progress: progress_lib.Progress,
) -> None:
  """Saves parameters as the model folder RUN/name, once."""
  exists = (run.directory / name).exists
  if not processes.from_first('the end of a stage', exists):
    run.watch.beat(f'keeping {name}')
    model = dataclasses.replace(
      run.model, params=params, denoiser=run.ctx.denoiser
    )
    model.save(
      run.directory / name, kept={'progress': dataclasses.asdict(progress)}
    )


def _outlets(run: setup.Run, stage: str) -> dict[str, Any]:
  return {
    'checkpoints': run.checkpoints(stage),
    'log': run.log,
    'screen': run.screen,
    'stop': run.stop,
    'watch': run.watch,
    'skipped': run.directory / 'skipped',
  }


def _scorer(
  run: setup.Run, decoder: types.Decoder
) -> Callable[[types.Params], dict[str, float]]:
  """A function from parameters to validation metrics, for `loop.run`."""

  def score(params):
    evaluation = accuracy.evaluate(
      run.ctx,
      params,
      run.rows.validation,
      decoder,
      batch_size=run.cfg.eval.batch_size,
      advance=lambda count: run.watch.beat('evaluating'),
    )
    means = {f'eval_task/{k}': v for k, v in evaluation.metrics.items()}
    return {
      'eval/accuracy': evaluation.accuracy,
      'eval/mean_steps': evaluation.mean_steps,
    } | means

  return score


def _report(directory: pathlib.Path, screen: console.Console) -> None:
  """Writes the report; a failure is a warning, for the results are saved."""
  try:
    screen.line(f'report: {report.write(directory)}')
  except Exception as e:  # whatever it is, the results are written and shown
    why = ' '.join(f'{type(e).__name__}: {e}'.split())
    screen.line(f'warning: no {report.FILE}: {why}')
