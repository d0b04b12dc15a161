"""The progress of a training loop, and what its checkpoints contain."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from dllm_jax import types
from dllm_jax.runtime import sharding
from dllm_jax.state import checkpoint
from dllm_jax.train import state as state_lib


class Saved(NamedTuple):
  """The arrays of a checkpoint.

  Attributes:
    train: state after the last step.
    best: parameters of the best evaluation; None where they are not kept.
  """

  train: state_lib.TrainState
  best: types.Params | None

  def without_frozen(self) -> tuple['Saved', dict]:
    """(the arrays to save, the frozen leaves by path)."""
    train, frozen = state_lib.without_frozen(self.train)
    best = None if self.best is None else state_lib.detach(self.best)[0]
    return Saved(train, best), frozen

  def with_frozen(self, frozen: dict) -> 'Saved':
    """Inverse of `without_frozen`."""
    best = None if self.best is None else state_lib.attach(self.best, frozen)
    return Saved(state_lib.with_frozen(self.train, frozen), best)


@dataclasses.dataclass
class Progress:
  """The metadata of a checkpoint.

  Attributes:
    step: number of steps done.
    best_step: step of the best evaluation; -1 before the first evaluation, 0
      for the parameters that the loop began with.
    best_score: score of the best evaluation.
    stale: evaluations since the best one.
    below: consecutive evaluations, up to the last, that are below the floor.
    seconds: wall time of the loop (s), summed over restarts.
    train_seconds: the part of `seconds` spent collecting and updating, which
      includes verifiers and excludes evaluation and saving.
    finished: whether the loop has ended.
    skipped: number of steps with a skipped (non-finite) update.
    skipped_in_a_row: consecutive such steps, up to the last.
    watched: (accuracy, confidence of the rollouts) of the last evaluations, at
      most three.
  """

  step: int = 0
  best_step: int = -1
  best_score: float = -1.0
  stale: int = 0
  below: int = 0
  seconds: float = 0.0
  train_seconds: float = 0.0
  finished: bool = False
  skipped: int = 0
  skipped_in_a_row: int = 0
  watched: list[list[float]] = dataclasses.field(default_factory=list)

  @classmethod
  def from_record(cls, record: Mapping[str, Any]) -> 'Progress':
    """Progress from its dict; earlier versions recorded `seconds` alone."""
    names = {field.name for field in dataclasses.fields(cls)}
    known = {name: record[name] for name in names & record.keys()}
    return cls(**{'train_seconds': known.get('seconds', 0.0)} | known)


def restore(
  state: state_lib.TrainState,
  checkpoints: checkpoint.Checkpoints,
  *,
  keeps_best: bool,
  say: Callable[[str], None],
) -> tuple[Saved, Progress | None]:
  """The newest checkpoint and its progress; `state` and None without one.

  Args:
    state: initial state of a new run.
    checkpoints: the loop's checkpoints.
    keeps_best: whether checkpoints hold the best parameters as well.
    say: prints one line; called for each unreadable checkpoint set aside.
  """
  state = on_one_mesh(state)
  # The best parameters must not share buffers with those that are donated.
  best = state_lib.copy_trained(state.params) if keeps_best else None
  fresh = Saved(state, best)
  like, frozen = fresh.without_frozen()
  restored = checkpoints.restore_newest(like, say)
  if restored is None:
    return fresh, None
  saved, record = restored
  return saved.with_frozen(frozen), Progress.from_record(record)


def on_one_mesh(state: state_lib.TrainState) -> state_lib.TrainState:
  """Replicates scalars of the state over the mesh of the parameters.

  They are created on the first device, but a training step and a restored
  checkpoint both return them on the whole mesh.
  """
  like = jax.tree.leaves(state.params)[0].sharding
  if not isinstance(like, jax.sharding.NamedSharding):
    return state
  whole = sharding.replicated(like.mesh)

  def place(leaf):
    on_mesh = isinstance(leaf.sharding, jax.sharding.NamedSharding)
    return leaf if on_mesh else jax.device_put(leaf, whole)

  return jax.tree.map(place, state)


def overconfidence(progress: Progress, values: Mapping[str, Any]) -> str:
  """Records an evaluation; what to say if the policy grows overconfident.

  It does where over three evaluations the rollouts become surer while fewer
  answers are right, at the end by more than a tenth. Among its causes are
  rollouts that are not the policy's own, such as those of a stale cache.

  Args:
    progress: remembers the evaluations.
    values: metrics of the step that was evaluated.
  """
  if 'rollout/confidence' not in values:
    return ''
  new = [float(values['eval/accuracy']), float(values['rollout/confidence'])]
  progress.watched = [*progress.watched, new][-3:]
  pairs = list(itertools.pairwise(progress.watched))
  if len(pairs) < 2 or not all(
    new[0] < old[0] and new[1] > old[1] for old, new in pairs
  ):
    return ''
  (first, a), _, (last, b) = progress.watched
  if last > 0.9 * first:  # may well be chance
    return ''
  return (
    f'confidence rises ({a:.3f} to {b:.3f}) while validation accuracy falls '
    f'({first:.3f} to {last:.3f}), over three evaluations: lower '
    'train.optim.learning_rate, or with a cache set '
    'method.policy.max_sampler_ratio'
  )


def keep_best(
  progress: Progress,
  score: float,
  state: state_lib.TrainState,
  best: types.Params,
) -> types.Params:
  """Records an evaluation in `progress`; returns the best parameters."""
  if score <= progress.best_score:
    progress.stale += 1
    return best
  progress.best_score, progress.best_step = score, progress.step
  progress.stale = 0
  return state_lib.copy_trained(state.params)
