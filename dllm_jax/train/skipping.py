"""What becomes of updates that `train.grad` skipped: counted, kept, judged.

A stray batch whose loss or gradient is not finite costs its own update. Many
of them mean that the run has diverged, and it stops.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dllm_jax import errors
from dllm_jax.runtime import process_rows
from dllm_jax.tasks import task as task_lib

# Ends the name of the metric that says so of an update.
METRIC = '/skipped_updates'
MAX_IN_A_ROW = 10
MAX_SHARE = 0.01
# So many are let pass whatever the share: one of the first five is no sign.
MIN_COUNT = 10
MAX_KEPT = 20  # steps whose batch is written


class Skips(NamedTuple):
  """Steps of a run in which an update was skipped.

  Attributes:
    total: of them.
    in_a_row: of the last steps, without one between.
  """

  total: int = 0
  in_a_row: int = 0


class Step(NamedTuple):
  """A step to judge.

  Attributes:
    directory: for batches that were skipped.
    phase: of its row in metrics.jsonl.
    number: of the step.
    rows: that it read.
    batch: that it learned from.
  """

  directory: pathlib.Path
  phase: str
  number: int
  rows: Sequence[task_lib.Row]
  batch: Any


def count(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """By metric, the updates of a step that were skipped.

  Args:
    history: metrics of each update of the step.
  """
  names = [name for name in history[0] if name.endswith(METRIC)]
  return {name: sum(float(m[name]) for m in history) for name in names}


def judge(
  before: Skips,
  history: Sequence[Mapping[str, Any]],
  step: Step,
  say: Callable[[str], None],
) -> Skips:
  """Counts a step, and keeps its batch where an update was skipped.

  Args:
    before: the steps before it.
    history: metrics of each of its updates.
    step: the step.
    say: is told, in one line, of what was skipped.

  Raises:
    errors.UserError: `MAX_IN_A_ROW` steps in a row were skipped, or more than
      `MAX_SHARE` of all and more than `MIN_COUNT`: the run has diverged.
  """
  skipped = sum(count(history).values())
  if not skipped:
    return Skips(before.total, 0)
  skips = Skips(before.total + 1, before.in_a_row + 1)
  at = f'{step.phase} step {step.number}'
  line = f'{at}: not finite, {skipped:.0f} update(s) skipped'
  try:
    kept = keep(step)
    say(f'{line}; its batch is in {kept}' if kept else line)
  except OSError as e:
    say(f'{line}; its batch cannot be written: {e.strerror}')
  if skips.in_a_row >= MAX_IN_A_ROW:
    how = f'the last {skips.in_a_row} steps'
  elif skips.total > max(MIN_COUNT, MAX_SHARE * step.number):
    how = f'{skips.total} of {step.number} steps'
  else:
    return skips
  raise errors.UserError(
    f'{at}: loss, gradient or update was not finite in {how}; stopped, with '
    'the last checkpoint as it was. Lower the learning rate or raise the '
    'clipping, in a new --workdir'
  )


def keep(step: Step) -> pathlib.Path | None:
  """Writes the batch of a step, to be looked at.

  `PHASE-STEP.npz` has the batch's arrays by name, and 'row_ids'; no pickle.
  With several processes each writes its own rows, and adds its number.

  Returns:
    The file; None where those of `MAX_KEPT` steps are there already.

  Raises:
    OSError: it cannot be written.
  """
  step.directory.mkdir(exist_ok=True)
  process = f'-{jax.process_index()}' if jax.process_count() > 1 else ''
  path = step.directory / f'{step.phase}-{step.number}{process}.npz'
  # Of one step there is a file of every process.
  kept = {tuple(p.stem.split('-')[:2]) for p in step.directory.iterdir()}
  if len(kept - {(step.phase, str(step.number))}) >= MAX_KEPT:
    return None
  plain = {
    jax.tree_util.keystr(where, simple=True, separator='.') or 'batch': (
      _plain(leaf)
    )
    for where, leaf in jax.tree_util.tree_leaves_with_path(
      process_rows.fetch(step.batch)
    )
  }
  np.savez(path, row_ids=np.array([str(r['id']) for r in step.rows]), **plain)
  return path


def _plain(value: np.ndarray) -> np.ndarray:
  """bfloat16, which npz does not know, as float32."""
  is_plain = value.dtype.kind in 'biufU'
  return value if is_plain else value.astype(np.float32)
