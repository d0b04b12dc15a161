"""The stages that train: base model, RL, and the supervised control.

Each stage resumes from its own checkpoints and keeps its result under a name.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dllm_jax import types
from dllm_jax.data import pipeline
from dllm_jax.eval import accuracy, frontier
from dllm_jax.hf import load, sidecar
from dllm_jax.ops import streams
from dllm_jax.run import base_model, setup
from dllm_jax.runtime import processes
from dllm_jax.state import checkpoint
from dllm_jax.train import loop, methods, optim
from dllm_jax.train import progress as progress_lib
from dllm_jax.train import state as state_lib
from dllm_jax.train.methods import sft


def train_base(run: setup.Run) -> tuple[types.Params, progress_lib.Progress]:
  """The base model.

  In this order: 1. kept by an earlier run of this workdir; 2. the model folder
  `base.path`; 3. trained here by `sft`, from random parameters or its own
  checkpoint.
  """
  cfg, ctx = run.cfg, run.ctx
  kept = run.directory / 'base'
  is_kept = processes.from_first('the base model', kept.exists)
  if not is_kept and cfg.base.path:
    kept = pathlib.Path(cfg.base.path)
  if is_kept or cfg.base.path:
    if loaded := _load_base(run, kept):
      run.screen.line(f'base model from {kept}')
      return loaded
  optimizer = optim.make(cfg.base_optim)
  params, progress = loop.run(
    sft.Sft(ctx=ctx, optimizer=optimizer, cfg=cfg.base_sft),
    state_lib.create(setup.fresh_params(ctx), optimizer),
    pipeline.Batches(
      run.rows.demonstrations, seed=cfg.seed, batch_size=cfg.base.batch_size
    ),
    title='base (sft)',
    cfg=cfg.base_loop,
    score=_scorer(run, cfg.fixed_decoders()[cfg.eval.num_steps[0]]),
    **_outlets(run, 'sft'),
  )
  keep(run, 'base', params, progress)
  return params, progress


def _load_base(
  run: setup.Run, kept: pathlib.Path
) -> tuple[types.Params, progress_lib.Progress] | None:
  """A model folder; None where it is damaged and can be made again.

  That is so where the run trained them here: its checkpoints still end in them.
  """
  try:
    folder = load.read(kept)
    params = base_model.load_params(folder, run.ctx, run.screen)
    progress = sidecar.read(kept).get('progress', {})
    return params, progress_lib.Progress(**progress)
  except sidecar.Damaged as e:
    is_own = kept == run.directory / 'base' and not processes.several()
    if not is_own or run.checkpoints('sft').latest() is None:
      raise
    aside = checkpoint.set_aside(kept)
    run.screen.line(f'{e.reason}; kept as {aside.name}, and made again')
    return None


def train_policy(
  run: setup.Run, base: types.Params, num_steps: int
) -> tuple[types.Params, progress_lib.Progress]:
  """RL from the base model, watched on validation rows.

  Args:
    run: the run.
    base: parameters that RL starts from.
    num_steps: denoising steps at which a fixed schedule is watched.
  """
  cfg, ctx = run.cfg, run.ctx
  optimizer = optim.make(cfg.optim)
  method = methods.METHODS[cfg.method_name](
    cfg=cfg.method,
    ctx=ctx,
    rollout=cfg.rollout,
    optimizer=optimizer,
    reference=base,
  )
  score = _scorer(run, cfg.watched_decoder(num_steps))
  floor = 0.0
  if cfg.loop.floor_patience:
    run.watch.beat('evaluating the base')
    floor = score(base)['eval/accuracy']
  return loop.run(
    method,
    state_lib.create(state_lib.copy_trained(base), optimizer),
    pipeline.Batches(
      run.rows.prompts,
      seed=streams.host_seed(cfg.seed, 'rollout'),
      batch_size=cfg.rollout.num_prompts,
    ),
    title=cfg.method_name,
    cfg=cfg.loop,
    score=score,
    floor=floor,
    **_outlets(run, 'rl'),
  )


def train_control(
  run: setup.Run,
  base: types.Params,
  base_progress: progress_lib.Progress,
  rl_progress: progress_lib.Progress,
) -> tuple[types.Params, progress_lib.Progress]:
  """More supervised training on the same demonstrations, for RL's CPU time.

  Its best parameters by validation count, as with the base. How long RL took
  is a measurement, so the control alone is not the same in every run.
  """
  cfg = run.cfg
  per_step = base_progress.cpu_seconds / max(base_progress.step, 1)
  num_steps = processes.from_first(
    'the length of the control',
    lambda: max(1, round(rl_progress.cpu_seconds / per_step)),
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
    score=_scorer(run, cfg.fixed_decoders()[cfg.eval.num_steps[0]]),
    **_outlets(run, 'control'),
  )


class Choice(NamedTuple):
  """The fixed schedule that was chosen on validation rows.

  Attributes:
    setting: its denoising steps.
    accuracy: of the base, on the validation rows.
  """

  setting: int
  accuracy: float


def choose_steps(run: setup.Run, base: types.Params) -> Choice:
  """The fixed schedule at which the base is best on validation rows."""
  found = _validate(run, base, run.cfg.fixed_decoders())
  steps = max(found, key=lambda steps: found[steps].accuracy)
  return Choice(steps, found[steps].accuracy)


def choose_threshold(
  run: setup.Run, params: types.Params, wanted: float
) -> float:
  """The threshold of fewest steps that keeps `wanted` on validation rows."""
  found = _validate(run, params, run.cfg.gated_decoders())
  return frontier.fewest_steps(found, wanted)


def _validate(
  run: setup.Run,
  params: types.Params,
  decoders: Mapping[Any, types.Decoder],
) -> dict[Any, accuracy.Evaluation]:
  run.watch.beat('validation')
  return accuracy.sweep(
    run.ctx,
    params,
    run.rows.validation,
    decoders,
    batch_size=run.cfg.eval.batch_size,
    advance=lambda count: _check_interrupt(run),
  )


def _check_interrupt(run: setup.Run) -> None:
  """Between two batches of an evaluation that no loop waits for."""
  run.watch.beat('validation')
  loop.check_stop(run.stop)


def keep(
  run: setup.Run,
  name: str,
  params: types.Params,
  progress: progress_lib.Progress,
) -> None:
  """Parameters under a name of their own, for later runs and `--model`."""
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
  """Validation metrics of parameters under a decoding, for `loop.run`."""

  def score(params):
    found = accuracy.evaluate(
      run.ctx,
      params,
      run.rows.validation,
      decoder,
      batch_size=run.cfg.eval.batch_size,
      advance=lambda count: run.watch.beat('evaluating'),
    )
    means = {f'eval_task/{k}': v for k, v in found.metrics.items()}
    return {
      'eval/accuracy': found.accuracy,
      'eval/mean_steps': found.mean_steps,
    } | means

  return score
