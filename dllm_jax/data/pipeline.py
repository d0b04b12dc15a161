"""Data sets built once, read at random, and the rows of each step.

The rows of a step are a pure function of (seed, step): resuming a run needs
its step and nothing else.
"""

import contextlib
import io
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from dllm_jax.data import countdown_builder, sudoku_builder
from dllm_jax.tasks import task as task_lib

BUILDERS = {
  'countdown': (countdown_builder.Countdown, countdown_builder.config),
  'sudoku': (sudoku_builder.Sudoku, sudoku_builder.config),
}


class Source(Sequence[task_lib.Row]):
  """The rows of a split; each is decoded once, when it is first read."""

  def __init__(self, records: Sequence[Any]):
    self._records = records
    self._rows: dict[int, task_lib.Row] = {}

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> task_lib.Row:
    """Row `index`, shared between callers: do not change it."""
    index = range(len(self))[index]
    row = self._rows.get(index)
    if row is None:
      record = self._records[index]
      row = {name: _plain(value) for name, value in record.items()}
      self._rows[index] = row
    return row


class Batches:
  """Rows by step, reshuffled every epoch, none twice within an epoch."""

  def __init__(
    self, source: Sequence[task_lib.Row], *, seed: int, batch_size: int
  ):
    """Makes no draw; see `batches`."""
    if not len(source):
      raise ValueError('the source has no rows')
    if batch_size < 1:
      raise ValueError(f'batch_size must be at least 1: {batch_size}')
    self._source = source
    self._batch_size = batch_size
    self._indices = (
      grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    )

  def rows(self, step: int) -> list[task_lib.Row]:
    """The rows of a step, a pure function of (seed, step)."""
    if step < 0:
      raise ValueError(f'step must not be negative: {step}')
    start = step * self._batch_size
    return [
      self._source[int(self._indices[i])]
      for i in range(start, start + self._batch_size)
    ]


def batches(
  source: Sequence[task_lib.Row], *, seed: int, batch_size: int
) -> Batches:
  """Shuffled batches over a random-access source of rows.

  Args:
    source: the rows, as from `open_split` or a plain list.
    seed: any integer >= 0.
    batch_size: rows a step; the last rows of an epoch share a batch with the
      first of the next.
  """
  return Batches(source, seed=seed, batch_size=batch_size)


def pick(
  source: Sequence[task_lib.Row], num_rows: int, *, seed: int
) -> list[task_lib.Row]:
  """`num_rows` rows of the source in a seeded order; all of them for 0.

  Raises:
    ValueError: if the source has fewer.
  """
  if num_rows > len(source):
    raise ValueError(f'{num_rows} rows wanted, {len(source)} there')
  return batches(source, seed=seed, batch_size=num_rows or len(source)).rows(0)


def open_split(
  builder: str | pathlib.Path | tfds.core.DatasetBuilder, split: str
) -> Source:
  """The rows of a split, with text as str, scalars as int, tensors as lists.

  Args:
    builder: what `prepare` returned, or the directory that it built.
    split: such as 'train', or 'test[:50%]'.
  """
  if isinstance(builder, str | pathlib.Path):
    builder = tfds.builder_from_directory(str(builder))
  return Source(builder.as_data_source(split))


def prepare(
  task: task_lib.Task, cache_dir: str | pathlib.Path
) -> tfds.core.DatasetBuilder:
  """Opens the data set of a task, building it if it is absent.

  The directory is named by all that decides the data. A build happens in a
  folder of its own and is renamed when complete, so a broken build leaves
  nothing behind that looks finished, and two processes may build at once.

  Args:
    task: one of `BUILDERS` by name.
    cache_dir: holds the data sets; made if absent.

  Raises:
    ValueError: if no data set is generated for the task.
  """
  if task.name not in BUILDERS:
    raise ValueError(
      f'no generated data set for task {task.name!r}; there are '
      f'{sorted(BUILDERS)}'
    )
  make_builder, make_config = BUILDERS[task.name]
  return build(make_builder, make_config(task), cache_dir)


def build(
  make_builder: type[tfds.core.GeneratorBasedBuilder],
  config: tfds.core.BuilderConfig,
  cache_dir: str | pathlib.Path,
) -> tfds.core.DatasetBuilder:
  """`prepare` for a given configuration."""
  cache_dir = pathlib.Path(cache_dir).expanduser().absolute()
  version = str(make_builder.VERSION)
  final = cache_dir / make_builder.name / config.name / version
  if not (final / 'dataset_info.json').is_file():
    cache_dir.mkdir(parents=True, exist_ok=True)
    scratch = cache_dir / f'.building-{uuid.uuid4().hex}'
    start = time.monotonic()
    try:
      _build_in(scratch, make_builder, config, final)
    finally:
      shutil.rmtree(scratch, ignore_errors=True)
    seconds = time.monotonic() - start
    logging.info('Built %s in %.1f s at %s', config.name, seconds, final)
  return tfds.builder_from_directory(str(final))


def _build_in(scratch: pathlib.Path, make_builder, config, final):
  tfds.disable_progress_bar()
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      builder = make_builder(
        data_dir=str(scratch), config=config, file_format='array_record'
      )
      builder.download_and_prepare()
  finally:
    logging.set_verbosity(verbosity)
  final.parent.mkdir(parents=True, exist_ok=True)
  try:
    os.rename(builder.data_dir, final)
  except OSError:
    # Another process was faster, and built the same.
    if not (final / 'dataset_info.json').is_file():
      raise


def _plain(value: Any) -> Any:
  if isinstance(value, np.ndarray | np.generic):
    value = value.tolist()
  if isinstance(value, list):
    return [_plain(item) for item in value]
  if isinstance(value, bytes):
    return value.decode('utf-8')
  return value
