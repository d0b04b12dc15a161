"""The generic training loop: collect, update, log, evaluate, save, resume.

A method says what a step is; the loop runs it. Position is state: rows, draws
and evaluations are functions of (seed, step), so a checkpoint of the arrays
and the step is all that an exact resume needs.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from dllm_jax import errors, sharding, types
from dllm_jax.data import pipeline
from dllm_jax.io import checkpoint, console, metrics, workdir
from dllm_jax.tasks import task as task_lib
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


class Saved(NamedTuple):
  """The arrays of a checkpoint, without the frozen parameters.

  `best` is None unless a patience wants it.
  """

  train: state_lib.TrainState
  best: types.Params | None

  def without_frozen(self) -> tuple['Saved', dict]:
    """What is saved, and the frozen parameters by path."""
    train, frozen = state_lib.without_frozen(self.train)
    best = None if self.best is None else state_lib.detach(self.best)[0]
    return Saved(train, best), frozen

  def with_frozen(self, frozen: dict) -> 'Saved':
    """Inverse of `without_frozen`."""
    best = None if self.best is None else state_lib.attach(self.best, frozen)
    return Saved(state_lib.with_frozen(self.train, frozen), best)


@dataclasses.dataclass
class Progress:
  """What a checkpoint says beside its arrays.

  Attributes:
    step: steps done.
    best_step: of the best evaluation; -1 before the first, 0 for the floor.
    best_score: its score.
    stale: evaluations since.
    below: evaluations in a row below the floor.
    seconds: wall time spent in the loop, over all its runs.
    cpu_seconds: processor time, likewise.
    finished: the loop came to its end.
  """

  step: int = 0
  best_step: int = -1
  best_score: float = -1.0
  stale: int = 0
  below: int = 0
  seconds: float = 0.0
  cpu_seconds: float = 0.0
  finished: bool = False


class Interrupted(Exception):
  """A signal asked to stop; everything is saved."""


def check_stop(stop: workdir.StopRequest) -> None:
  """Raises `Interrupted` where a stop was requested and nothing is to save."""
  if stop.requested:
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
  stop: workdir.StopRequest,
  floor: float = 0.0,
) -> tuple[types.Params, Progress]:
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
    stop: its flag is read once a step.
    floor: score of the parameters that the loop began with.

  Returns:
    The parameters (the best with patience or where the run ended below the
    floor, else the last), and the progress.

  Raises:
    Interrupted: after saving, when `stop` was requested.
    errors.UserError: a loss is not finite.
  """
  (state, best), progress = _restore(state, cfg, checkpoints, floor)
  layout = jax.tree.map(lambda leaf: leaf.sharding, state)
  if progress.finished:
    return _outcome(state, best, progress, cfg), progress
  clock = _Clock(progress)
  pending = None

  def flush(ended):
    nonlocal pending
    if pending is not None:
      row, pending = pending, None
      row.host['time/step'] = ended - row.began - row.host.get('time/eval', 0.0)
      bar.step(_write(log, method.phase, row))

  def save():
    flush(time.perf_counter())
    clock.stamp()
    arrays, _ = Saved(state, best).without_frozen()
    checkpoints.save(progress.step, arrays, dataclasses.asdict(progress))

  with screen.stage(title, cfg.num_steps, progress.step) as bar:
    while progress.step < cfg.num_steps:
      step = progress.step
      began = time.perf_counter()
      batch, host = method.collect(state, batches.rows(step), step)
      host['time/collect'] = time.perf_counter() - began
      state, device = method.update(state, batch, step)
      # The compiler may lay the new state out otherwise; a resumed run could
      # then compute in another order than one that was not stopped.
      state = jax.device_put(state, layout)
      dispatched = time.perf_counter()
      flush(began)  # the step before: this one is on its way
      progress.step = step + 1
      pending = _Row(progress.step, host, device, began)
      last = progress.step == cfg.num_steps
      if cfg.eval_every and (last or progress.step % cfg.eval_every == 0):
        host |= score(state.params)
        host['time/eval'] = time.perf_counter() - dispatched
        if cfg.keeps_best:
          accuracy = host['eval/accuracy']
          best = _keep_best(progress, accuracy, state, best)
          progress.below = progress.below + 1 if accuracy < floor else 0
      collapsed = progress.below >= cfg.floor_patience > 0
      progress.finished = (
        last or collapsed or progress.stale >= cfg.patience > 0
      )
      if progress.finished or progress.step % cfg.checkpoint_every == 0:
        save()
      elif stop.requested:
        save()
      if progress.finished:
        break
      if stop.requested:
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
  progress: Progress,
  cfg: LoopConfig,
) -> types.Params:
  """The parameters that a finished loop gives, of `kept_step`."""
  is_last = kept_step(progress, cfg) == progress.step
  return state.params if is_last else best


def kept_step(progress: Progress, cfg: LoopConfig) -> int:
  """The step whose parameters a finished loop gives; see `LoopConfig`."""
  below = cfg.floor_patience > 0 and progress.below > 0
  return progress.best_step if cfg.patience or below else progress.step


class _Row(NamedTuple):
  """A step whose device metrics are still on their way."""

  step: int
  host: dict[str, float]
  device: list[dict[str, Any]]
  began: float


class _Clock:
  """Adds the time since the last stamp to the progress."""

  def __init__(self, progress: Progress):
    self._progress = progress
    self._wall, self._cpu = time.perf_counter(), time.process_time()

  def stamp(self) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    self._progress.seconds += wall - self._wall
    self._progress.cpu_seconds += cpu - self._cpu
    self._wall, self._cpu = wall, cpu


def _restore(
  state: state_lib.TrainState,
  cfg: LoopConfig,
  checkpoints: checkpoint.Checkpoints,
  floor: float,
) -> tuple[Saved, Progress]:
  """The newest checkpoint; a fresh start where there is none."""
  state = on_one_mesh(state)
  # The best parameters must not share buffers with those that are donated.
  best = state_lib.copy_trained(state.params) if cfg.keeps_best else None
  fresh = Saved(state, best)
  latest = checkpoints.latest()
  if latest is None and cfg.floor_patience:
    return fresh, Progress(best_step=0, best_score=floor)
  if latest is None:
    return fresh, Progress()
  like, frozen = fresh.without_frozen()
  saved, meta = checkpoints.restore(latest, like)
  return saved.with_frozen(frozen), Progress(**meta)


def on_one_mesh(state: state_lib.TrainState) -> state_lib.TrainState:
  """The state with all of its leaves on the devices of the parameters.

  Scalars are made on the first device; a step moves them to all of them, and
  a checkpoint brings every leaf back to where the one before it was.
  """
  like = jax.tree.leaves(state.params)[0].sharding
  if not isinstance(like, jax.sharding.NamedSharding):
    return state
  whole = sharding.replicated(like.mesh)

  def place(leaf):
    on_mesh = isinstance(leaf.sharding, jax.sharding.NamedSharding)
    return leaf if on_mesh else jax.device_put(leaf, whole)

  return jax.tree.map(place, state)


def _keep_best(
  progress: Progress,
  score: float,
  state: state_lib.TrainState,
  best: types.Params,
) -> types.Params:
  """Updates the progress by an evaluation; the best parameters so far."""
  if score <= progress.best_score:
    progress.stale += 1
    return best
  progress.best_score, progress.best_step = score, progress.step
  progress.stale = 0
  return state_lib.copy_trained(state.params)


def _write(
  log: metrics.MetricsLog, phase: str, row: _Row
) -> Mapping[str, float]:
  """Fetches the device metrics of a step, checks them, and logs the row.

  The first inner step stands for the update (its ratio is on-policy); what
  grows along the inner steps is logged from the last under `last_`.

  Raises:
    errors.UserError: the loss or the gradient of an inner step is not finite.
  """
  device = jax.device_get(row.device)
  values = {k: float(v) for k, v in device[0].items()}
  if len(device) > 1:
    values |= {
      f'{k.split("/")[0]}/last_{k.split("/")[1]}': float(v)
      for k, v in device[-1].items()
    }
  for inner, measured in enumerate(device):
    for name, value in measured.items():
      if name.endswith(('/loss', '/grad_norm')) and not np.isfinite(value):
        raise errors.UserError(
          f'{name} is {value} at {phase} step {row.step} (inner step {inner}): '
          'stopped, with the last checkpoint as it was; lower the learning '
          'rate or raise the clipping, in a new --workdir'
        )
  # A mean over nothing (no guided row, no credited token) is not logged.
  values = {k: v for k, v in values.items() if not np.isnan(v)}
  values = row.host | values
  if 'rollout/tokens' in values:
    speed = values['rollout/tokens'] / values['time/step']
    values['time/tokens_per_second'] = speed
  log.write(phase, row.step, values)
  return values
