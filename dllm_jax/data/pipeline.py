"""Built data sets with random access, and the rows of each step.

The rows of a step are a pure function of (seed, step): to resume, a run needs
its step and nothing else.
"""

import contextlib
import io
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.proto import tf_example_pb2

from dllm_jax import errors
from dllm_jax.data import countdown_builder, sudoku_builder
from dllm_jax.tasks import task as task_lib

_READ_ROWS = 1024  # rows per read in a pass over the split
BUILDERS = {
  'countdown': (countdown_builder.Countdown, countdown_builder.config),
  # No field of the task changes puzzles or solutions.
  'sudoku': (sudoku_builder.Sudoku, lambda task: sudoku_builder.Config()),
}


class Source(Sequence[task_lib.Row]):
  """The rows of a split: text as str, scalars as int, tensors as lists.

  A row is decoded when it is first read, and then kept. Rows are shared between
  callers: do not change them. Records are decoded here, because TFDS takes
  several times as long.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
    """Opens a split, such as 'train' or 'test[:50%]'."""
    self._records = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    self._directory = builder.data_dir
    self._specs = {
      name: (np.issubdtype(spec.np_dtype, np.integer), spec.shape == ())
      for name, spec in builder.info.features.get_tensor_info().items()
    }
    self._rows: dict[int, task_lib.Row] = {}

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> task_lib.Row:
    index = range(len(self))[index]
    return self._read([index])[0]

  def __iter__(self) -> Iterator[task_lib.Row]:
    for start in range(0, len(self), _READ_ROWS):
      end = min(start + _READ_ROWS, len(self))
      yield from self._read(range(start, end))

  def _read(self, indices: Sequence[int]) -> list[task_lib.Row]:
    missing = [i for i in indices if i not in self._rows]
    try:
      records = self._records.__getitems__(missing)
    except RuntimeError as e:
      reason = ' '.join(str(e).split())
      raise errors.UserError(
        f'cannot read the built data set {self._directory} ({reason}): remove '
        'it, and it is built again'
      ) from e
    self._rows |= zip(missing, map(self._decode, records), strict=True)
    return [self._rows[i] for i in indices]

  def _decode(self, record: bytes) -> task_lib.Row:
    """The row of a serialised tf.train.Example."""
    features = tf_example_pb2.Example.FromString(record).features.feature
    row = {}
    for name, (is_integer, is_scalar) in self._specs.items():
      if is_integer:
        values = list(features[name].int64_list.value)
      else:
        values = [text.decode() for text in features[name].bytes_list.value]
      row[name] = values[0] if is_scalar else values
    return row


class Batches:
  """The rows of each step; every epoch has each row once, in a new order."""

  def __init__(
    self, source: Sequence[task_lib.Row], *, seed: int, batch_size: int
  ):
    """Shuffles the rows of a source.

    Args:
      source: the rows, a `Source` or a list.
      seed: seed of the order, >= 0.
      batch_size: rows per step. A batch may contain the last rows of one epoch
        and the first rows of the next.
    """
    if not len(source):
      raise ValueError('the source has no rows')
    if batch_size < 1:
      raise ValueError(f'batch_size must be at least 1, got {batch_size}')
    self._source = source
    self._batch_size = batch_size
    self._indices = (
      grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    )

  def rows(self, step: int) -> list[task_lib.Row]:
    """The rows of a step, a pure function of (seed, step)."""
    if step < 0:
      raise ValueError(f'step must not be negative, got {step}')
    start = step * self._batch_size
    return [
      self._source[int(self._indices[i])]
      for i in range(start, start + self._batch_size)
    ]


def pick(
  source: Sequence[task_lib.Row], num_rows: int, *, seed: int
) -> list[task_lib.Row]:
  """`num_rows` random rows of the source, or all rows if `num_rows` is 0.

  Raises:
    ValueError: if the source has fewer rows.
  """
  if num_rows > len(source):
    raise ValueError(f'expected at least {num_rows} rows, got {len(source)}')
  return Batches(source, seed=seed, batch_size=num_rows or len(source)).rows(0)


def prepare(
  task: task_lib.Task, cache_dir: str | pathlib.Path
) -> tfds.core.DatasetBuilder:
  """Opens the generated data set of a task; builds it if it does not exist.

  The name of the directory contains everything that determines the data. A data
  set is built in a temporary directory and renamed when it is complete: an
  interrupted build is never taken for a finished one, and several processes can
  build at once.

  Args:
    task: a task whose name is in `BUILDERS`.
    cache_dir: directory of the built data sets; created if it does not exist.
  """
  make_builder, make_config = BUILDERS[task.name]
  return build(make_builder, make_config(task), cache_dir)


def build(
  make_builder: type[tfds.core.GeneratorBasedBuilder],
  config: tfds.core.BuilderConfig,
  cache_dir: str | pathlib.Path,
) -> tfds.core.DatasetBuilder:
  """Opens the data set of a configuration, as `prepare` does.

  Args:
    make_builder: the builder class.
    config: what to build.
    cache_dir: directory of the built data sets.
  """
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
    # Another process may have finished the same data set first.
    if not (final / 'dataset_info.json').is_file():
      raise
