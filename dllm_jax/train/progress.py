"""How far a loop has come: what its checkpoints hold."""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from dllm_jax import types
from dllm_jax.runtime import sharding
from dllm_jax.state import checkpoint
from dllm_jax.train import state as state_lib


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
    skipped: steps with an update that was skipped, being not finite.
    skipped_in_a_row: of the last steps, likewise.
  """

  step: int = 0
  best_step: int = -1
  best_score: float = -1.0
  stale: int = 0
  below: int = 0
  seconds: float = 0.0
  cpu_seconds: float = 0.0
  finished: bool = False
  skipped: int = 0
  skipped_in_a_row: int = 0


def restore(
  state: state_lib.TrainState,
  checkpoints: checkpoint.Checkpoints,
  *,
  keeps_best: bool,
  say: Callable[[str], None],
) -> tuple[Saved, Progress | None]:
  """The newest checkpoint; None and a fresh start where there is none.

  Args:
    state: where a new run begins.
    checkpoints: of the loop.
    keeps_best: whether they hold the best parameters beside the last.
    say: is told, in one line, of checkpoints that are set aside.
  """
  state = on_one_mesh(state)
  # The best parameters must not share buffers with those that are donated.
  best = state_lib.copy_trained(state.params) if keeps_best else None
  fresh = Saved(state, best)
  like, frozen = fresh.without_frozen()
  found = checkpoints.restore_newest(like, say)
  if found is None:
    return fresh, None
  saved, meta = found
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


def keep_best(
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


class Clock:
  """Adds the time since the last stamp to the progress."""

  def __init__(self, progress: Progress):
    self._progress = progress
    self._wall, self._cpu = time.perf_counter(), time.process_time()

  def stamp(self) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    self._progress.seconds += wall - self._wall
    self._progress.cpu_seconds += cpu - self._cpu
    self._wall, self._cpu = wall, cpu
