"""Evaluation of kept models: everything that `launch/eval.py` does."""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dllm_jax import errors, types
from dllm_jax import model as model_lib
from dllm_jax.analysis import frontier_plot
from dllm_jax.eval import accuracy, few_shot, pass_at
from dllm_jax.rollout import context
from dllm_jax.run import (
  base_model,
  eval_files,
  eval_start,
  results,
  settings,
  setup,
)
from dllm_jax.runtime import console, processes
from dllm_jax.state import workdir
from dllm_jax.tasks import task as task_lib


def evaluate_model(
  config: Mapping[str, Any],
  directory: pathlib.Path,
  name: str | None,
  *,
  decode: str | None,
  overrides: Mapping[str, Any],
  shots: few_shot.FewShot | None = None,
  out: pathlib.Path | None,
  screen: console.Console,
) -> dict[str, Any]:
  """Accuracy, steps and speed of one model under one decoding.

  Args:
    config: nested dicts; its `rollout` made greedy is the default decoding,
      over which are what its `eval.profile` says, and `overrides`.
    directory: workdir of a run, or a model folder.
    name: which of a run's models: 'base', 'control' or 'final'; None is
      'final', and a folder has but one.
    decode: name of the decoder; None is the config's.
    overrides: fields of the decoder.
    shots: examples before every question; None for the profile's, or none.
    out: results file; the generations go beside it.
    screen: where progress and accuracy go.

  Returns:
    What the results file says.

  Raises:
    errors.UserError: a model that is missing or of another shape.
  """
  config = eval_start.with_profile(config)
  protocol = eval_start.protocol_of(config)
  published = protocol.decode if protocol else None
  decode = decode or published or config['rollout']['decode']
  rollout = config['rollout'] | {'decode': decode}
  cfg = settings.from_config(config | {'rollout': rollout})
  decoder = eval_start.decoder_of(cfg, protocol, decode, overrides)
  if cfg.eval.num_samples > 1 and decoder.temperature == 0:
    raise errors.UserError(
      f'config key eval.num_samples is {cfg.eval.num_samples}, but at '
      'temperature 0 all completions of a prompt are one: raise --temperature'
    )
  directory, name = model_lib.resolve(directory, name)
  model = base_model.check_usable(
    model_lib.Model.describe(directory, params=name)
  )
  decoder.check(model.denoiser)
  name = name or 'base'
  given = {'--params': name, '--decode': decode, **overrides}
  ctx, rows, _, about = eval_start.start(
    config, cfg, directory, {name: model}, out, shots, given=given
  )
  eval_start.tell(about, screen)
  setup.tell_reach(cfg, rows, screen)
  params = base_model.load_params(model.folder, ctx, screen)
  samples = _samples(ctx, params, rows, cfg, decoder, name, screen)
  evaluation = samples[0]
  summary = about | {
    'model': str(directory),
    'params': name,
    'decoding': {'decode': decode} | dataclasses.asdict(decoder),
  }
  summary |= evaluation.summary()
  if any(evaluation.reasons):
    summary['reasons'] = dict(
      collections.Counter(r for s in samples for r in s.reasons if r)
    )
  screen.line(
    f'{cfg.task_name}, {name}: accuracy {100 * evaluation.accuracy:.1f} % '
    f'± {100 * summary["interval"]:.1f} on {len(rows)} problems, '
    f'{evaluation.mean_steps:.1f} steps, '
    f'{evaluation.tokens_per_second:.0f} tokens/s'
  )
  if len(samples) > 1:
    summary |= _pass_at(samples, cfg.eval.pass_at, screen)
  if out is not None and processes.is_first():
    workdir.write_json(out, summary)
    generations = out.with_suffix(eval_files.GENERATIONS)
    eval_files.write_generations(generations, ctx, rows, samples)
    screen.line(f'written: {out}, {generations}')
  return summary


def sweep_models(
  config: Mapping[str, Any],
  directory: pathlib.Path,
  *,
  shots: few_shot.FewShot | None = None,
  out: pathlib.Path | None,
  screen: console.Console,
) -> dict[str, Any]:
  """Accuracy against steps of all models of a run, under all decodings.

  Args:
    config: nested dicts; `eval.num_steps` and `eval.thresholds` are tried, or
      with a causal model its plain decoder.
    directory: workdir of a run, or a model of it, for all of its models; or
      another model folder: one model, 'base'.
    shots: examples before every question.
    out: results file; the plot goes beside it.
    screen: where progress and tables go.

  Returns:
    What the results file says: 'task', 'num', and `results.sweep_all`.

  Raises:
    errors.UserError: as `evaluate_model`.
  """
  cfg = settings.from_config(config)
  if cfg.eval.profile:
    raise errors.UsageError(
      f'profile {cfg.eval.profile} is one decoding, and a sweep has several: '
      'leave one of them out'
    )
  if cfg.eval.num_samples > 1:
    raise errors.UserError(
      f'config key eval.num_samples is {cfg.eval.num_samples}, but a sweep is '
      'greedy, one completion a prompt: leave it at 1'
    )
  directory, name = model_lib.resolve(directory)
  names = [None]
  if name is not None:
    names = list(model_lib.kept_models(directory)) or ['final']
  models = {
    name or 'base': base_model.check_usable(
      model_lib.Model.describe(directory, params=name)
    )
    for name in names
  }
  ctx, rows, _, about = eval_start.start(
    config, cfg, directory, models, out, shots, given={'--sweep': True}
  )
  setup.tell_reach(cfg, rows, screen)
  if 'base' not in models:
    screen.line(f'{directory} has no base model to compare with')
  summary, _ = results.sweep_all(
    ctx,
    cfg,
    rows,
    {
      name: base_model.load_params(model.folder, ctx, screen)
      for name, model in models.items()
    },
    screen=screen,
  )
  summary = about | summary
  results.show_plain(summary, screen)
  if cfg.gated_decoders():
    results.show_thresholds(summary, screen)
  if out is not None and processes.is_first():
    workdir.write_json(out, summary)
    picture = out.with_suffix(eval_files.PICTURE)
    frontier_plot.draw(summary, picture)
    screen.line(f'written: {out}, {picture}')
  return summary


def _samples(
  ctx: context.Context,
  params: types.Params,
  rows: Sequence[task_lib.Row],
  cfg: settings.Settings,
  decoder: types.Decoder,
  name: str,
  screen: console.Console,
) -> list[accuracy.Evaluation]:
  """`eval.num_samples` completions of every row; the first are as without."""
  num = cfg.eval.num_samples
  with screen.stage(f'{cfg.task_name}, {name}', num * len(rows)) as bar:
    return [
      accuracy.evaluate(
        ctx,
        params,
        rows,
        decoder,
        batch_size=cfg.eval.batch_size,
        draw=draw,
        advance=bar.add,
      )
      for draw in range(num)
    ]


def _pass_at(
  samples: Sequence[accuracy.Evaluation],
  ks: Sequence[int],
  screen: console.Console,
) -> dict[str, Any]:
  """pass@k for the results file, None for what cannot be estimated."""
  stack = lambda name: np.stack([getattr(s, name) for s in samples], axis=1)
  estimates = pass_at.summary(stack('correct') > 0, stack('judged'), ks)
  known = {k: v for k, v in estimates.items() if not math.isnan(v)}
  shown = [
    f'{k} {100 * v:.1f} %' for k, v in known.items() if not k.endswith('_num')
  ]
  screen.line(f'{len(samples)} completions a prompt: {", ".join(shown)}')
  return {
    'num_samples': len(samples),
    **{name: known.get(name) for name in estimates},
  }
