"""The start of a run: everything is checked, then the workdir is claimed."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from dllm_jax import errors
from dllm_jax.hf import sidecar
from dllm_jax.run import (
  base_model,
  checks,
  conversations,
  results,
  settings,
  setup,
)
from dllm_jax.runtime import console, processes, signals, watchdog
from dllm_jax.state import metrics, provenance, workdir

# Config keys that may change when an unfinished run is resumed: they change at
# most the last bits.
FREE = (
  'checkpoint',
  'mesh',
  'model.unroll',
  'train.watchdog_seconds',
  'wandb_project',
)


@contextlib.contextmanager
def started(
  config: dict[str, Any], directory: pathlib.Path, screen: console.Console
) -> Iterator[setup.Run | None]:
  """Checks a run, claims its workdir, and yields the run.

  Whatever can be refused is refused before the workdir is touched: a config
  that never ran must not own it.

  Args:
    config: nested dicts.
    directory: workdir; an unfinished run in it is resumed.
    screen: where progress goes.

  Yields:
    The run; None if the workdir holds a finished one.

  Raises:
    errors.UserError: something that the user can correct, in one line.
  """
  cfg = settings.from_config(config)
  if conversations.applies(cfg):
    conversations.check(cfg)
  cfg = base_model.resolve_base_path(cfg)
  model = base_model.describe_base(cfg)
  if model is not None and not sidecar.read(model.folder.path):
    # No time was spent on demonstrations here.
    cfg = dataclasses.replace(cfg, control=False)
  elif cfg.model.get('lora_rank') and not cfg.base.path:
    raise errors.UserError(
      f'config key model.lora_rank is {cfg.model["lora_rank"]}, but base.path '
      'is empty: adapters alone cannot train random weights; name a base '
      'model, or set model.lora_rank=0'
    )
  if cfg.tunes_base and cfg.prefill:
    raise errors.UserError(
      f'config key rollout.prefill is {cfg.prefill!r}, but demonstrations are '
      'learned whole: leave it empty with method.name=sft'
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
  if conversations.applies(cfg):
    rows = conversations.tokenize(ctx, rows)
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
      finished = (directory / results.EVAL_FILE).exists()
      return {'resumed': resumed, 'finished': finished}

    claimed = processes.from_first('the workdir', take)
    if claimed['finished']:
      yield None
      return
    screen.line(
      f'{"resuming" if claimed["resumed"] else "starting"} {directory} on '
      f'{ctx.mesh.size} {jax.default_backend()} device(s) of '
      f'{jax.process_count()} process(es)'
    )
    if num_long:
      screen.line(
        f'left out {num_long} training prompts of more than '
        f'{cfg.rollout.max_prompt_length} tokens; {len(rows.prompts)} remain'
      )
    if conversations.applies(cfg):
      conversations.tell(rows, screen)
    setup.tell_doubts(cfg, [*rows.prompts, *rows.test], screen)
    watch = watchdog.Watchdog(
      directory / f'watchdog{processes.suffix()}.txt',
      seconds=cfg.watchdog_seconds,
    )
    latest = {
      phase: setup.stage_checkpoints(directory, phase, cfg.keep).latest() or 0
      for phase in ('sft', 'control', cfg.phase, *cfg.arms)
    }
    log = metrics.MetricsLog(
      directory,
      resume_step=latest,
      wandb_project=cfg.wandb_project,
      writes=processes.is_first(),
    )
    yield setup.Run(
      cfg=cfg,
      ctx=ctx,
      model=model or setup.new_model(cfg),
      rows=rows,
      directory=directory,
      log=log,
      screen=screen,
      stop=stop,
      watch=held.enter_context(watch),
    )
    log.close()


def _check_workdir(
  cfg: settings.Settings, config: dict[str, Any], directory: pathlib.Path
) -> dict[str, str]:
  """Refuses a workdir of another config or other data; returns its digests."""
  try:
    workdir.check_resumable(directory, config, free=FREE)
  except errors.UserError as e:
    raise errors.UserError(f'{e}{_hint(config, directory)}') from e
  data = setup.data_digests(cfg)
  workdir.check_data(directory, data)
  return data


def _hint(config: dict[str, Any], directory: pathlib.Path) -> str:
  """How to train the policy of a finished run further, where that is meant."""
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
  """Refuses processes whose rows differ from those of process 0."""
  seen = {}
  for field in dataclasses.fields(rows):
    part = getattr(rows, field.name)
    ends = [str(part[i]['id']) for i in (0, -1)] if len(part) else []
    seen[f'number of {field.name}'] = len(part)
    seen[f'first and last of {field.name}'] = ends
  # Each process may have built its own data set.
  processes.check_same(seen, seconds=processes.WORK_SECONDS)
