"""Multiple choice of kept models, by the likelihood of the options."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from dllm_jax import errors
from dllm_jax import model as model_lib
from dllm_jax.eval import (
  choices,
  few_shot,
  likelihood,
  masked_likelihood,
  profiles,
)
from dllm_jax.run import base_model, eval_files, eval_start, settings
from dllm_jax.runtime import console, processes
from dllm_jax.state import workdir
from dllm_jax.tasks import task as task_lib


def evaluate_choices(
  config: Mapping[str, Any],
  directory: pathlib.Path,
  name: str | None,
  *,
  num_canvases: int | None = None,
  shots: few_shot.FewShot | None = None,
  out: pathlib.Path | None,
  screen: console.Console,
) -> dict[str, Any]:
  """Accuracy of one model on multiple choice, by the options' likelihood.

  Args:
    config: nested dicts.
    directory: workdir of a run, or a model folder.
    name: as of `evaluate_model`.
    num_canvases: masked canvases of an option; None for the profile's, or 128;
      not read for a causal model.
    shots: examples before every question; None for the profile's, or none.
    out: results file; what was chosen goes beside it.
    screen: where progress and accuracy go.

  Returns:
    What the results file says.

  Raises:
    errors.UserError: as `evaluate_model`; or the task's rows have no options.
  """
  config = eval_start.with_profile(config)
  cfg = settings.from_config(config)
  estimate = _estimate(cfg, eval_start.protocol_of(config), num_canvases)
  if not isinstance(cfg.task, task_lib.MultipleChoice):
    raise errors.UserError(
      f'task {cfg.task_name!r} has no options to compare: use '
      '--config.task.name=openbookqa or aqua'
    )
  directory, name = model_lib.resolve(directory, name)
  model = base_model.check_usable(
    model_lib.Model.describe(directory, params=name)
  )
  name = name or 'base'
  ctx, rows, examples, about = eval_start.start(
    config,
    cfg,
    directory,
    {name: model},
    out,
    shots,
    given={'--params': name, '--num_canvases': num_canvases},
    generates=False,
  )
  eval_start.tell(about, screen)
  before = few_shot.cloze_text(cfg.task, examples)
  clozes = [
    cloze._replace(prompt=before + cloze.prompt)
    for cloze in map(cfg.task.cloze, rows)
  ]
  pairs = [
    (model.encode(prompt, model.plain), model.encode(option))
    for prompt, option in choices.pairs(clozes)
  ]
  advice = f'lower --num_fewshot {len(examples)}'
  if not examples:
    advice = 'use another model'
  model.check_pairs(pairs, advice)
  params = base_model.load_params(model.folder, ctx, screen)
  with screen.stage(f'{cfg.task_name}, {name}', len(pairs)) as bar:
    scored = likelihood.score(
      ctx.denoiser,
      params,
      pairs,
      vocab=ctx.vocab,
      mesh=ctx.mesh,
      estimate=estimate,
      seed=cfg.seed,
      batch_size=cfg.eval.batch_size,
      advance=bar.add,
    )
  try:
    judged = choices.judge(clozes, scored.logp.tolist())
  except ValueError as e:
    raise errors.UserError(f'{directory} cannot be evaluated: {e}') from e
  is_causal = ctx.vocab.mask_token is None
  summary = about | {
    'model': str(directory),
    'params': name,
    'by': 'likelihood',
    'num_canvases': None if is_causal else estimate.num_samples,
    'likelihood': None if is_causal else dataclasses.asdict(estimate),
  }
  summary |= choices.summary(judged)
  screen.line(
    f'{cfg.task_name}, {name}, by likelihood: accuracy '
    f'{100 * summary["accuracy"]:.1f} % ± {100 * summary["interval"]:.1f}, per '
    f'character {100 * summary["accuracy_per_character"]:.1f} % ± '
    f'{100 * summary["interval_per_character"]:.1f}, on {len(rows)} problems; '
    f'chance {100 * summary["chance"]:.1f} %'
  )
  if out is not None and processes.is_first():
    workdir.write_json(out, summary)
    beside = out.with_suffix(eval_files.CHOICES)
    eval_files.write_choices(beside, rows, clozes, judged)
    screen.line(f'written: {out}, {beside}')
  return summary


def _estimate(
  cfg: settings.Settings,
  protocol: profiles.Protocol | None,
  num_canvases: int | None,
) -> masked_likelihood.Estimate:
  """How likelihoods are estimated: the user's canvases over the profile's."""
  estimate = masked_likelihood.Estimate()
  if protocol is not None:
    if protocol.likelihood is None:
      raise errors.UsageError(
        f'profile {cfg.eval.profile} does not compare the likelihood of '
        f'options on {cfg.task_name!r}: leave --likelihood out'
      )
    estimate = protocol.likelihood
  if num_canvases is not None:
    estimate = dataclasses.replace(estimate, num_samples=num_canvases)
  return estimate
