"""A whole run: base model, RL, the control, and evaluation of all of them.

Stages run in order and each resumes by itself, so a run that was stopped at
any point goes on where it was when the same command is given again.
"""

import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import jax

from dllm_jax import errors
from dllm_jax.analysis import frontier_plot, report
from dllm_jax.hf import sidecar
from dllm_jax.run import (
  base_model,
  checks,
  results,
  settings,
  setup,
  stages,
)
from dllm_jax.runtime import console, processes, signals, watchdog
from dllm_jax.state import metrics, provenance, workdir
from dllm_jax.train import loop

# Config keys that an unfinished run may be continued under with other values:
# what they change is at most the last bits.
FREE = ('checkpoint', 'mesh', 'train.watchdog_seconds', 'wandb_project')


def run(
  config: dict[str, Any], directory: pathlib.Path, screen: console.Console
) -> dict[str, Any]:
  """Everything that `launch/train.py` does.

  Args:
    config: as nested dicts.
    directory: the workdir; an unfinished run in it is continued.
    screen: where progress and the closing table go.

  Returns:
    What eval.json says.

  Raises:
    errors.UserError: what the user can put right, in one line.
    loop.Interrupted: stopped by a signal, after saving.
  """
  # Everything that can be refused is, before the workdir is touched: a config
  # that never ran must not own it.
  cfg = base_model.resolve_base_path(settings.from_config(config))
  model = base_model.describe_base(cfg)
  if model is not None and not sidecar.read(model.folder.path):
    # Nothing was spent here on demonstrations.
    cfg = dataclasses.replace(cfg, control=False)
  elif cfg.model.get('lora_rank') and not cfg.base.path:
    raise errors.UserError(
      f'config key model.lora_rank is {cfg.model["lora_rank"]}, but there is '
      'no base.path: adapters alone cannot train random weights; name a base '
      'model, or set model.lora_rank=0'
    )
  ctx = setup.make_context(cfg, model)
  checks.check_shapes(cfg, ctx)
  processes.check_same(workdir.flatten(config) | provenance.code())
  data = processes.from_first(
    'the state of the workdir', lambda: _check_workdir(cfg, config, directory)
  )
  rows, num_long = setup.fit_window(
    cfg, ctx, setup.after_first(setup.load_rows, cfg)
  )
  checks.check_rows(cfg, ctx, rows)
  if model is not None and not (directory / 'base').exists():
    base_model.check_params(model.folder, ctx)
  _check_same_rows(rows)
  setup.tell_reach(cfg, rows.test, screen)
  metrics.find_wandb(cfg.wandb_project)
  with signals.StopRequest() as stop, contextlib.ExitStack() as held:
    claim = workdir.claim(
      directory,
      config,
      extra={'data': data, 'processes': jax.process_count()},
      free=FREE,
      say=screen.line,
    )

    def take():
      resumed = held.enter_context(claim)
      return {'resumed': resumed, 'finished': finished.exists()}

    finished = directory / results.EVAL_FILE
    claimed = processes.from_first('the workdir', take)
    if claimed['finished']:
      screen.line(f'{directory} holds a finished run; its results:')
      found = results.read(finished)
      results.show(found, screen)
      if (directory / report.FILE).exists():
        screen.line(f'report: {directory / report.FILE}')
      return found
    watch = held.enter_context(
      watchdog.Watchdog(
        directory / f'watchdog{processes.suffix()}.txt',
        seconds=cfg.watchdog_seconds,
      )
    )
    latest = {
      phase: setup.stage_checkpoints(directory, phase, cfg.keep).latest() or 0
      for phase in ('sft', 'rl', 'control')
    }
    begun = 'continuing' if claimed['resumed'] else 'starting'
    screen.line(
      f'{begun} {directory} on {ctx.mesh.size} {jax.default_backend()} '
      f'device(s) of {jax.process_count()} process(es)'
    )
    if num_long:
      screen.line(
        f'left out {num_long} training prompts of more than '
        f'{cfg.rollout.max_prompt_length} tokens; {len(rows.prompts)} remain'
      )
    log = metrics.MetricsLog(
      directory,
      resume_step=latest,
      wandb_project=cfg.wandb_project,
      writes=processes.is_first(),
    )
    this = setup.Run(
      cfg=cfg,
      ctx=ctx,
      model=model or setup.new_model(cfg),
      rows=rows,
      directory=directory,
      log=log,
      screen=screen,
      stop=stop,
      watch=watch,
    )
    found = _stages(this)
    log.close()
    if processes.is_first():
      workdir.write_json(finished, found)
      if cfg.eval.thresholds:
        frontier_plot.draw(found, directory / 'frontier.png')
    results.show(found, screen)
    if processes.is_first():
      _report(directory, screen)
    return found


def _check_workdir(
  cfg: settings.Settings, config: dict[str, Any], directory: pathlib.Path
) -> dict[str, str]:
  """Refuses a workdir of other settings or data; the digests of the data."""
  try:
    workdir.check_resumable(directory, config, free=FREE)
  except errors.UserError as e:
    raise errors.UserError(f'{e}{_how_to_go_on(config, directory)}') from e
  data = setup.data_digests(cfg)
  workdir.check_data(directory, data)
  return data


def _how_to_go_on(config: dict[str, Any], directory: pathlib.Path) -> str:
  """More of a finished run, such as more steps, is a run of its own."""
  was, policy = workdir.read_config(directory), directory / 'final'
  done = (directory / results.EVAL_FILE).exists() and policy.exists()
  if was is None or not done:
    return ''
  changed = workdir.changes(was, config)
  if not changed or any(key.startswith(('task.', 'model.')) for key in changed):
    return ''
  return (
    ' (the run is finished; to train its policy further: --workdir NEW '
    f'--config.base.path={policy})'
  )


def _check_same_rows(rows: setup.Rows) -> None:
  """Refuses processes that found other rows than process 0."""
  seen = {}
  for field in dataclasses.fields(rows):
    part = getattr(rows, field.name)
    ends = [str(part[i]['id']) for i in (0, -1)] if len(part) else []
    seen[f'number of {field.name}'] = len(part)
    seen[f'first and last of {field.name}'] = ends
  # They may have built them, each its own.
  processes.check_same(seen, seconds=processes.WORK_SECONDS)


def _report(directory: pathlib.Path, screen: console.Console) -> None:
  """The page about the run; a run is none the worse without it."""
  try:
    screen.line(f'report: {report.write(directory)}')
  except Exception as e:  # whatever it is, the results are written and shown
    why = ' '.join(f'{type(e).__name__}: {e}'.split())
    screen.line(f'warning: no {report.FILE}: {why}')


def _stages(run: setup.Run) -> dict[str, Any]:
  """Base, RL, control, evaluation."""
  cfg = run.cfg
  base, base_progress = stages.train_base(run)
  best = stages.choose_steps(run, base)
  policies = {'base': base, 'final': base}
  seconds, trained = {'base': base_progress.seconds}, {}
  if cfg.method is not None:
    policies['final'], progress = stages.train_policy(run, base, best.setting)
    seconds['rl'] = progress.seconds
    trained['trained_steps'] = progress.step
    trained['kept_step'] = loop.kept_step(progress, cfg.loop)
    stages.keep(run, 'final', policies['final'], progress)
    if cfg.control and base_progress.train_seconds > 0:
      policies['control'], extra = stages.train_control(
        run, base, base_progress, progress
      )
      seconds['control'] = extra.seconds
      stages.keep(run, 'control', policies['control'], extra)
  began = time.perf_counter()
  threshold = None
  if cfg.eval.thresholds:
    threshold = stages.choose_threshold(run, policies['final'], best.accuracy)
  found = results.evaluate_all(
    run, policies, results.Chosen(best.setting, threshold)
  )
  seconds['eval'] = time.perf_counter() - began
  found['final'] |= trained
  return found | {'seconds': seconds}
