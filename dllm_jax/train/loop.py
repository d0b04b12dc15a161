"""The generic training loop: collect, update, log, evaluate, save, resume.

A method says what a step is; the loop runs it. Position is state: rows, draws
and evaluations are functions of (seed, step), so a checkpoint of the arrays
and the step is all that an exact resume needs.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from dllm_jax import types
from dllm_jax.data import pipeline
from dllm_jax.runtime import console, processes, signals, watchdog
from dllm_jax.state import checkpoint, metrics
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import progress as progress_lib
from dllm_jax.train import skipping
from dllm_jax.train import state as state_lib


@runtime_checkable
class Method(Protocol):
  """One file of `train/methods`.

  Attributes:
    phase: of its rows in metrics.jsonl.
  """

  phase: str

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[Any, dict[str, float]]:
    """A batch on the devices, and metrics that are on the host already."""
    ...

  def update(
    self, state: state_lib.TrainState, batch: Any, step: int
  ) -> tuple[state_lib.TrainState, list[dict[str, Any]]]:
    """The next state, and the metrics of every inner step on the device."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
  """When the loop stops, evaluates and saves.

  Attributes:
    num_steps: most steps.
    eval_every: steps between evaluations; 0 is never.
    patience: evaluations without a better score after which the loop stops,
      with the parameters of the best; 0 runs to the end and keeps the last.
    floor_patience: evaluations in a row below the floor (the base's own score)
      after which the loop stops: the policy has collapsed. A run that ends
      below the floor, stopped or not, gives the parameters of its best
      evaluation, the floor's own parameters among them; 0 does not look.
    checkpoint_every: steps between checkpoints.
  """

  num_steps: int
  eval_every: int
  patience: int
  checkpoint_every: int
  floor_patience: int = 0

  def __post_init__(self):
    if self.checkpoint_every < 1:
      raise ValueError(f'checkpoint.every {self.checkpoint_every} is below 1')
    for name in ('num_steps', 'eval_every', 'patience', 'floor_patience'):
      if getattr(self, name) < 0:
        raise ValueError(f'{name} {getattr(self, name)} must not be negative')
    if self.keeps_best and not self.eval_every:
      raise ValueError('patience and floor_patience need eval_every > 0')

  @property
  def keeps_best(self) -> bool:
    """Whether checkpoints hold the best parameters beside the last."""
    return self.patience > 0 or self.floor_patience > 0


class Interrupted(Exception):
  """A signal asked to stop; everything is saved."""


def check_stop(stop: signals.StopRequest) -> None:
  """Raises `Interrupted` where a stop was requested and nothing is to save.

  In several processes all of them ask, and all raise or none.
  """
  if processes.any_of(stop.requested):
    raise Interrupted


def run(
  method: Method,
  state: state_lib.TrainState,
  batches: pipeline.Batches,
  *,
  title: str,
  cfg: LoopConfig,
  score: Callable[[types.Params], dict[str, float]],
  checkpoints: checkpoint.Checkpoints,
  log: metrics.MetricsLog,
  screen: console.Console,
  stop: signals.StopRequest,
  watch: watchdog.Watchdog,
  skipped: pathlib.Path,
  floor: float = 0.0,
) -> tuple[types.Params, progress_lib.Progress]:
  """Runs `method` from its newest checkpoint, or from `state`, to its end.

  Args:
    method: what a step is.
    state: where a new run begins; its buffers are donated, but for frozen
      parameters.
    batches: rows by step.
    title: of the progress bar.
    cfg: when to stop, evaluate and save.
    score: metrics of the parameters on validation rows; 'eval/accuracy' is
      what patience watches.
    checkpoints: of this loop.
    log: rows go here, those of a step with its evaluation.
    screen: where progress shows.
    stop: its flag is read once a step; one process that has it set stops all
      of them, after the same step.
    watch: is told of every part of a step.
    skipped: where batches go whose update was not finite.
    floor: score of the parameters that the loop began with.

  Returns:
    The parameters (the best with patience or where the run ended below the
    floor, else the last), and the progress.

  Raises:
    Interrupted: after saving, when `stop` was requested.
    errors.UserError: too many updates were not finite, or the disk refuses.
  """
  watch.beat(f'{method.phase} restoring')
  (state, best), progress = progress_lib.restore(
    state, checkpoints, keeps_best=cfg.keeps_best, say=screen.line
  )
  if progress is None:
    progress = progress_lib.Progress()
    if cfg.floor_patience:
      progress.best_step, progress.best_score = 0, floor
  log.rewind(method.phase, progress.step)
  layout = jax.tree.map(lambda leaf: leaf.sharding, state)
  if progress.finished:
    return _outcome(state, best, progress, cfg), progress
  start = time.perf_counter() - progress.seconds
  pending = None

  def beat(doing, number):
    watch.beat(f'{method.phase} {doing}', number)

  def flush(ended):
    nonlocal pending
    if pending is not None:
      row, pending = pending, None
      beat('waiting for the device', row.step)
      took = ended - row.began - row.host.get('time/eval', 0.0)
      row.host['time/step'] = took
      progress.train_seconds += took
      history = jax.device_get(row.device)
      progress.skipped, progress.skipped_in_a_row = skipping.judge(
        skipping.Skips(progress.skipped, progress.skipped_in_a_row),
        history,
        skipping.Step(skipped, method.phase, row.step, row.rows, row.batch),
        screen.line,
      )
      bar.step(_write(log, method.phase, row, history))

  def settle():
    """Waits for the update, which what comes next is not to be timed with."""
    beat('ending the update', progress.step)
    jax.block_until_ready(state)
    return time.perf_counter()

  def save():
    flush(settle())
    progress.seconds = time.perf_counter() - start
    beat('saving', progress.step)
    arrays, _ = progress_lib.Saved(state, best).without_frozen()
    with stop.shield():
      checkpoints.save(progress.step, arrays, dataclasses.asdict(progress))

  with screen.stage(title, cfg.num_steps, progress.step) as bar:
    while progress.step < cfg.num_steps:
      step = progress.step
      began = time.perf_counter()
      beat('collecting', step + 1)
      rows = batches.rows(step)
      batch, host = method.collect(state, rows, step)
      host['time/collect'] = time.perf_counter() - began
      beat('updating', step + 1)
      state, device = method.update(state, batch, step)
      # The compiler may lay the new state out otherwise; a resumed run could
      # then compute in another order than one that was not stopped.
      state = jax.device_put(state, layout)
      flush(began)  # the step before: this one is on its way
      progress.step = step + 1
      pending = _Row(progress.step, host, device, began, rows, batch)
      last = progress.step == cfg.num_steps
      if cfg.eval_every and (last or progress.step % cfg.eval_every == 0):
        settled = settle()
        beat('evaluating', step + 1)
        host |= score(state.params)
        host['time/eval'] = time.perf_counter() - settled
        if cfg.keeps_best:
          accuracy = host['eval/accuracy']
          best = progress_lib.keep_best(progress, accuracy, state, best)
          progress.below = progress.below + 1 if accuracy < floor else 0
      collapsed = progress.below >= cfg.floor_patience > 0
      progress.finished = (
        last or collapsed or progress.stale >= cfg.patience > 0
      )
      stopping = processes.any_of(stop.requested)
      due = progress.step % cfg.checkpoint_every == 0
      if progress.finished or due or stopping:
        save()
      if progress.finished:
        break
      if stopping:
        raise Interrupted
  if cfg.floor_patience and progress.below:
    screen.line(
      f'{title}: ended at step {progress.step} of {cfg.num_steps}, its last '
      f'{progress.below} evaluation(s) below the {floor:.3f} that it began '
      f'with; kept step {progress.best_step} ({progress.best_score:.3f})'
    )
  return _outcome(state, best, progress, cfg), progress


def _outcome(
  state: state_lib.TrainState,
  best: types.Params | None,
  progress: progress_lib.Progress,
  cfg: LoopConfig,
) -> types.Params:
  """The parameters that a finished loop gives, of `kept_step`."""
  is_last = kept_step(progress, cfg) == progress.step
  return state.params if is_last else best


def kept_step(progress: progress_lib.Progress, cfg: LoopConfig) -> int:
  """The step whose parameters a finished loop gives; see `LoopConfig`."""
  below = cfg.floor_patience > 0 and progress.below > 0
  return progress.best_step if cfg.patience or below else progress.step


class _Row(NamedTuple):
  """A step whose device metrics are still on their way."""

  step: int
  host: dict[str, float]
  device: list[dict[str, Any]]
  began: float
  rows: Sequence[task_lib.Row]
  batch: Any


def _write(
  log: metrics.MetricsLog,
  phase: str,
  row: _Row,
  history: Sequence[Mapping[str, Any]],
) -> Mapping[str, float]:
  """Logs the row of a step, from the metrics of its inner steps.

  The first inner step stands for the update (its ratio is on-policy); what
  grows along the inner steps is logged from the last under `last_`.
  """
  values = {k: float(v) for k, v in history[0].items()}
  if len(history) > 1:
    values |= {
      f'{k.split("/")[0]}/last_{k.split("/")[1]}': float(v)
      for k, v in history[-1].items()
      if not k.endswith(skipping.METRIC)
    }
  # A mean over nothing (no guided row, no credited token) is not logged; a
  # loss that is not a number is.
  values = {
    k: v
    for k, v in values.items()
    if not np.isnan(v) or k.endswith(('loss', 'grad_norm'))
  }
  values = row.host | values | skipping.count(history)
  if 'rollout/tokens' in values:
    speed = values['rollout/tokens'] / values['time/step']
    values['time/tokens_per_second'] = speed
  log.write(phase, row.step, values)
  return values
