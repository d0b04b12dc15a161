"""The training loop: collect, update, log, evaluate, save, resume.

A method defines a step; the loop runs it. Rows, draws and evaluations are
functions of (seed, step), so a checkpoint of the arrays and the step number is
enough to resume exactly.
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
  """A training method; one file of `train/methods`.

  RL methods also have a class attribute `Config`, a frozen dataclass of the
  config group `method` with `check(ctx, rollout)` and `check_rows(ctx, rows)`
  (`policy_config.MethodConfig`), and are made with the arguments `cfg`, `ctx`,
  `rollout`, `optimizer` and `reference` (`policy.PolicyMethod`).

  Attributes:
    phase: name of the phase in metrics.jsonl.
  """

  phase: str

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[Any, dict[str, Any]]:
    """(batch on the devices, metrics on the host or on the devices)."""
    ...

  def update(
    self, state: state_lib.TrainState, batch: Any, step: int
  ) -> tuple[state_lib.TrainState, list[dict[str, Any]]]:
    """(next state, metrics of each inner step, on the devices)."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
  """When the loop stops, evaluates and saves.

  Attributes:
    num_steps: largest number of steps.
    eval_every: steps between evaluations; 0 disables them.
    patience: evaluations without a better score after which the loop stops and
      returns the best parameters; 0 runs to the end and returns the last.
    floor_patience: consecutive evaluations below the floor (the score of the
      initial parameters) after which the loop stops, because the policy has
      collapsed. A loop that ends below the floor, for whatever reason, returns
      its best parameters, which may be the initial ones; 0 disables this.
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
    """Whether checkpoints hold the best parameters as well as the last."""
    return self.patience > 0 or self.floor_patience > 0


class Interrupted(Exception):
  """The run was asked to stop by a signal; everything is saved."""


def check_stop(stop: signals.StopRequest) -> None:
  """Raises `Interrupted` if a stop was requested in any process.

  For use where nothing has to be saved. Every process must call it.
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
  phase: str | None = None,
) -> tuple[types.Params, progress_lib.Progress]:
  """Runs `method` to its end, from its newest checkpoint or from `state`.

  Args:
    method: defines a step.
    state: initial state of a new run; its buffers are donated, except for
      frozen parameters.
    batches: the rows of each step.
    title: title of the progress bar.
    cfg: when to stop, evaluate and save.
    score: computes metrics of the parameters on validation rows; patience
      watches 'eval/accuracy'.
    checkpoints: the loop's checkpoints.
    log: receives one row per step, with its evaluation if there is one.
    screen: shows progress.
    stop: checked once per step; a request in any process stops all of them
      after the same step.
    watch: is notified of each part of a step.
    skipped: directory for batches whose update was not finite.
    floor: score of the initial parameters, in 0..1.
    phase: name of the phase in metrics.jsonl; None is the method's.

  Returns:
    The parameters of `kept_step`, and the progress.

  Raises:
    Interrupted: after saving, if `stop` was requested.
    errors.UserError: too many updates were not finite, or a checkpoint cannot
      be written.
  """
  phase = phase or method.phase
  watch.beat(f'{phase} restoring')
  (state, best), progress = progress_lib.restore(
    state, checkpoints, keeps_best=cfg.keeps_best, say=screen.line
  )
  if progress is None:
    progress = progress_lib.Progress()
    if cfg.floor_patience:
      progress.best_step, progress.best_score = 0, floor
  log.rewind(phase, progress.step)
  layout = jax.tree.map(lambda leaf: leaf.sharding, state)
  if progress.finished:
    return _outcome(state, best, progress, cfg), progress
  start = time.perf_counter() - progress.seconds
  pending = None

  def beat(doing, number):
    watch.beat(f'{phase} {doing}', number)

  def flush(ended):
    nonlocal pending
    if pending is not None:
      row, pending = pending, None
      beat('waiting for the device', row.step)
      took = ended - row.began - row.host.get('time/eval', 0.0)
      row.host['time/step'] = took
      progress.train_seconds += took
      history, host = jax.device_get((row.device, row.host))
      row = row._replace(host={k: float(v) for k, v in host.items()})
      skipping.judge(
        progress,
        history,
        skipping.Step(skipped, phase, row.step, row.rows, row.batch),
        screen.line,
      )
      bar.add(metrics=_write(log, phase, row, history))

  def settle():
    """Waits for the update, so that it is not timed with what follows."""
    beat('finishing the update', progress.step)
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
      # The compiler may choose another layout for the new state; a resumed run
      # could then sum in another order than an uninterrupted one.
      state = jax.device_put(state, layout)
      flush(began)  # the previous step, now that this one is dispatched
      progress.step = step + 1
      pending = _Row(progress.step, host, device, began, rows, batch)
      last = progress.step == cfg.num_steps
      if cfg.eval_every and (last or progress.step % cfg.eval_every == 0):
        settled = settle()
        beat('evaluating', step + 1)
        host |= score(state.params)
        host['time/eval'] = time.perf_counter() - settled
        if warning := progress_lib.overconfidence(progress, host):
          screen.line(f'{title}: step {progress.step}: {warning}')
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
  reason = ''
  if cfg.floor_patience and progress.below:
    reason = (
      f'its last {progress.below} evaluation(s) below the initial {floor:.3f}'
    )
  elif cfg.patience:
    reason = f'{progress.stale} evaluation(s) after the best'
  if reason:
    screen.line(
      f'{title}: ended at step {progress.step} of {cfg.num_steps} with '
      f'{reason}; kept step {progress.best_step} ({progress.best_score:.3f})'
    )
  return _outcome(state, best, progress, cfg), progress


def _outcome(
  state: state_lib.TrainState,
  best: types.Params | None,
  progress: progress_lib.Progress,
  cfg: LoopConfig,
) -> types.Params:
  """The parameters that a finished loop returns, those of `kept_step`."""
  is_last = kept_step(progress, cfg) == progress.step
  return state.params if is_last else best


def kept_step(progress: progress_lib.Progress, cfg: LoopConfig) -> int:
  """The step whose parameters a finished loop returns; see `LoopConfig`."""
  below = cfg.floor_patience > 0 and progress.below > 0
  return progress.best_step if cfg.patience or below else progress.step


class _Row(NamedTuple):
  """A step whose metrics are still being computed on the devices."""

  step: int
  host: dict[str, Any]
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
  """Logs the row of a step, and returns its values.

  Metrics of the update are those of the first inner step, whose ratio is
  on-policy; those of the last are logged with the prefix `last_`.
  """
  values = {k: float(v) for k, v in history[0].items()}
  if len(history) > 1:
    values |= {
      f'{k.split("/")[0]}/last_{k.split("/")[1]}': float(v)
      for k, v in history[-1].items()
      if not k.endswith(skipping.METRIC)
    }
  # An empty mean (no guided row, no credited token) is not logged; a nan loss
  # or gradient norm is.
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
