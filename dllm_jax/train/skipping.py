"""Skipped updates: counts them, keeps their batches, stops diverged runs.

`train.grad` skips an update whose loss or gradient is not finite. A stray batch
costs only its own update; many of them mean that the run has diverged.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dllm_jax import errors
from dllm_jax.runtime import process_rows
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import progress as progress_lib

# Suffix of the metric that is 1 for a skipped update.
METRIC = '/skipped_updates'
MAX_IN_A_ROW = 10
MAX_SHARE = 0.01
MIN_COUNT = 10  # skipped steps that are allowed whatever their share
MAX_KEPT = 20  # steps whose batch is written


class Step(NamedTuple):
  """A training step.

  Attributes:
    directory: directory for skipped batches.
    phase: phase in metrics.jsonl.
    number: 1-based number of the step.
    rows: the task's rows.
    batch: the batch of the update.
  """

  directory: pathlib.Path
  phase: str
  number: int
  rows: Sequence[task_lib.Row]
  batch: Any


def count(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """The number of skipped updates of a step, by metric name.

  Args:
    history: metrics of each update of the step.
  """
  names = [name for name in history[0] if name.endswith(METRIC)]
  return {name: sum(float(m[name]) for m in history) for name in names}


def judge(
  progress: progress_lib.Progress,
  history: Sequence[Mapping[str, Any]],
  step: Step,
  say: Callable[[str], None],
) -> None:
  """Counts a step in `progress`, and keeps its batch if one was skipped.

  Args:
    progress: counts the skipped steps.
    history: metrics of each update of the step.
    step: the step.
    say: prints one line; called if an update was skipped.

  Raises:
    errors.UserError: the run has diverged: the last `MAX_IN_A_ROW` steps were
      skipped, or more than `MIN_COUNT` steps and `MAX_SHARE` of all.
  """
  skipped = sum(count(history).values())
  if not skipped:
    progress.skipped_in_a_row = 0
    return
  progress.skipped += 1
  progress.skipped_in_a_row += 1
  at = f'{step.phase} step {step.number}'
  line = f'{at}: {skipped:.0f} update(s) not finite and skipped'
  try:
    path = keep(step)
    say(f'{line}; batch written to {path}' if path else line)
  except OSError as e:
    say(f'{line}; the batch could not be written: {e.strerror}')
  if progress.skipped_in_a_row >= MAX_IN_A_ROW:
    where = f'the last {progress.skipped_in_a_row} steps'
  elif progress.skipped > max(MIN_COUNT, MAX_SHARE * step.number):
    where = f'{progress.skipped} of {step.number} steps'
  else:
    return
  raise errors.UserError(
    f'{at}: stopped because the loss, gradient or update was not finite in '
    f'{where}; the last checkpoint is unchanged. Use a lower learning rate or '
    'max_grad_norm, in a new --workdir'
  )


def keep(step: Step) -> pathlib.Path | None:
  """Writes the batch of a step for inspection.

  `PHASE-STEP.npz` has the batch's arrays by name, and 'row_ids'; no pickle.
  Each of several processes writes its own rows, to a file with its number.

  Returns:
    The file's path; None if the batches of `MAX_KEPT` steps already exist.

  Raises:
    OSError: the file cannot be written.
  """
  step.directory.mkdir(exist_ok=True)
  process = f'-{jax.process_index()}' if jax.process_count() > 1 else ''
  path = step.directory / f'{step.phase}-{step.number}{process}.npz'
  # Each process has a file for a step; count steps.
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
  """Casts bfloat16, which npz does not support, to float32."""
  is_plain = value.dtype.kind in 'biufU'
  return value if is_plain else value.astype(np.float32)
