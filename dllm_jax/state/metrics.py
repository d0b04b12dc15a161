"""Metrics of a run: metrics.jsonl, TensorBoard and Weights & Biases.

One JSON row per line: `{"phase": "rl", "step": 7, "reward/mean": 0.25}`. Names
are those of `metric_names`. JSON has no NaN and no infinity, so such a value is
null, and the row's `"nonfinite"` entry has it: `{"policy/kl": "nan"}`.
"""

import contextlib
import json
import math
import os
import pathlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import SupportsFloat

from tensorboardX import event_file_writer, record_writer, summary
from tensorboardX.proto import event_pb2

from dllm_jax import errors, metric_names

METRICS_FILE = 'metrics.jsonl'


class MetricsLog:
  """Writes each row to metrics.jsonl, TensorBoard and Weights & Biases."""

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    resume_step: Mapping[str, int] | None,
    wandb_project: str = '',
    writes: bool = True,
  ):
    """Opens the log and removes the rows that the run will write again.

    Args:
      workdir: the directory of the run, which exists.
      resume_step: by phase, the step of the checkpoint to resume from. Later
        rows are removed, and all rows of a phase without an entry; None
        removes every row. A truncated last line is always removed.
      wandb_project: the Weights & Biases project to log to; '' for none.
      writes: False opens nothing and ignores the rows, as all processes but
        the first do.

    Raises:
      UserError: a project is named but wandb is not installed, or the disk
        refuses.
    """
    self._workdir = pathlib.Path(workdir)
    self._boards = {}
    self._file = self._wandb = None
    if not writes:
      return
    self._resume_step = dict(resume_step or {})
    self._wandb = _wandb_run(wandb_project, self._workdir)
    self._path = self._workdir / METRICS_FILE
    with self._refusals():
      if self._path.exists():
        last = self._resume_step
        self._keep(lambda row: row['step'] <= last.get(row['phase'], -1))
      self._file = self._path.open('a', encoding='utf-8')

  def rewind(self, phase: str, step: int) -> None:
    """Removes the rows of a phase after `step`, which was restored.

    There are such rows if the checkpoints after it were damaged.

    Args:
      phase: as in `write`.
      step: step of the restored checkpoint.
    """
    if self._file is not None and step < self._resume_step.get(phase, -1):
      self._resume_step[phase] = step
      with self._refusals():
        self._file.close()
        self._keep(lambda row: row['phase'] != phase or row['step'] <= step)
        self._file = self._path.open('a', encoding='utf-8')

  def write(
    self, phase: str, step: int, values: Mapping[str, SupportsFloat]
  ) -> None:
    """Adds one row, which is on disk when this returns.

    Args:
      phase: 'sft', 'rl', 'control', 'eval', or the name of an arm.
      step: the training step, counted within the phase.
      values: numbers by metric; names are those of `metric_names`.

    Raises:
      ValueError: a name is not in that table.
      UserError: the disk refuses.
    """
    if self._file is None:
      return
    row = {'phase': phase, 'step': int(step)}
    nonfinite = {}
    for name, value in values.items():
      metric_names.find(name)
      value = float(value)
      if not math.isfinite(value):
        nonfinite[name] = str(value)
      row[name] = value if math.isfinite(value) else None
    if nonfinite:
      row['nonfinite'] = nonfinite
    with self._refusals():
      self._file.write(json.dumps(row, allow_nan=False) + '\n')
      self._file.flush()
      when = os.fstat(self._file.fileno()).st_mtime
      board = self._board(phase, when)
      for name, value in values.items():
        if name not in nonfinite:  # TensorBoard warns and cannot plot it.
          board.write_event(
            event_pb2.Event(
              step=int(step),
              wall_time=when,
              summary=summary.scalar(f'{phase}/{name}', float(value)),
            )
          )
      board.flush()
    if self._wandb is not None:
      # No `step`: wandb wants one that increases, and each phase has its own.
      named = {f'{phase}/{name}': float(v) for name, v in values.items()}
      self._wandb.log(named | {f'{phase}/step': int(step)})

  def close(self) -> None:
    for board in self._boards.values():
      board.close()
    if self._file is not None:
      self._file.close()
    if self._wandb is not None:
      self._wandb.finish()

  def _board(self, phase: str, when: float) -> event_file_writer.EventsWriter:
    """The event file of a phase, begun at `when`; each phase counts its steps.

    `SummaryWriter` writes in a thread and at exit, where nobody sees that the
    disk refuses; this writer raises.
    """
    if phase not in self._boards:
      folder = str(self._workdir / 'tensorboard' / phase)
      record_writer.directory_check(folder)
      board = event_file_writer.EventsWriter(os.path.join(folder, 'events'))
      # TensorBoard hides what a resumed run writes again.
      board.write_event(
        event_pb2.Event(
          step=self._resume_step.get(phase, -1) + 1,
          wall_time=when,
          session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
        )
      )
      self._boards[phase] = board
    return self._boards[phase]

  @contextlib.contextmanager
  def _refusals(self) -> Iterator[None]:
    """Turns an error of the disk into one line."""
    try:
      yield
    except OSError as e:
      raise errors.UserError(
        f'cannot write {self._path}: {e.strerror or e}; free some space and '
        'rerun to resume from the last checkpoint'
      ) from e

  def _keep(self, wanted: Callable[[dict], bool]) -> None:
    """Atomically replaces the file by one with the wanted rows alone."""
    path = self._path
    kept = [line for line, row in _rows(path) if wanted(row)]
    temporary = path.with_name(path.name + '.tmp')
    with temporary.open('w', encoding='utf-8') as f:
      f.writelines(kept)
      f.flush()
      os.fsync(f.fileno())
    temporary.replace(path)


def find_wandb(project: str):
  """The wandb module if a project is named, else None.

  Raises:
    UserError: a project is named but wandb is not installed.
  """
  if not project:
    return None
  try:
    import wandb
  except ImportError as e:
    raise errors.UserError(
      f'config key wandb_project is {project!r}, but wandb is not installed: '
      "pip install 'dllm_jax[wandb]', or leave the key empty"
    ) from e
  return wandb


def _wandb_run(project: str, workdir: pathlib.Path):
  """The W&B run of a workdir; the same one when the run is resumed."""
  wandb = find_wandb(project)
  if wandb is None:
    return None
  identity = workdir / 'wandb_id'
  if not identity.exists():
    identity.write_text(uuid.uuid4().hex)
  return wandb.init(
    project=project,
    name=workdir.name,
    dir=str(workdir),
    id=identity.read_text(),
    resume='allow',
  )


def read(workdir: str | os.PathLike) -> list[dict]:
  """The rows of a run with their non-finite values, except a truncated one.

  Raises:
    UserError: metrics.jsonl does not exist, or one of its lines is broken.
  """
  path = pathlib.Path(workdir) / METRICS_FILE
  if not path.exists():
    raise errors.UserError(f'{path} is missing; is this the workdir of a run?')
  rows = []
  for _, row in _rows(path):
    for name, value in row.pop('nonfinite', {}).items():
      row[name] = float(value)
    rows.append(row)
  return rows


def _rows(path: pathlib.Path) -> list[tuple[str, dict]]:
  """(line, row) of each complete line; only the last line may be broken."""
  lines = path.read_text('utf-8', errors='replace').splitlines(keepends=True)
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
      whole = line.endswith('\n') and {'phase', 'step'} <= row.keys()
    except (ValueError, AttributeError):
      whole = False
    if whole:
      rows.append((line, row))
    elif number < len(lines):
      raise errors.UserError(
        f'{path}, line {number}, is not a row of metrics; remove the line'
      )
  return rows
