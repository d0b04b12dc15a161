"""The rows of any task's split, generated or read from files.

rows(task, 'train', data_dir=cfg.data_dir, cache_dir=cache)
"""

import pathlib
from collections.abc import Sequence

import tensorflow_datasets as tfds

from dllm_jax import errors
from dllm_jax.data import benchmarks, pipeline, public, text_rows
from dllm_jax.runtime import digests as digests_lib
from dllm_jax.tasks import task as task_lib


def rows(
  task: task_lib.Task,
  split: str,
  *,
  data_dir: str | pathlib.Path,
  cache_dir: str | pathlib.Path,
) -> Sequence[task_lib.Row]:
  """The rows of a split, read at random.

  Countdown and Sudoku are generated; with a `data_dir` their test split is the
  public file in it. A `task.RowSource` has rows of its own. Other tasks are
  read from the files in `data_dir`.

  Args:
    task: its name and fields decide the rows.
    split: 'train', 'validation' or 'test'; see `benchmarks.SPLITS` for more.
    data_dir: the folder of public data sets; '' for none.
    cache_dir: of built data sets; made if absent.

  Raises:
    errors.UserError: the split is not there, or its file is missing, another
      version, or malformed.
    OSError: the cache cannot be written.
  """
  if isinstance(task, task_lib.RowSource):
    return task.rows(split)
  if task.name in pipeline.BUILDERS:
    if split == 'test' and data_dir:
      try:
        return public.load(task.name, data_dir)
      except (FileNotFoundError, ValueError) as error:
        raise errors.UserError(str(error)) from error
    return pipeline.open_split(pipeline.prepare(task, cache_dir), split)
  return text_split(task.name, split, data_dir=data_dir, cache_dir=cache_dir)


def digests(
  task: task_lib.Task,
  *,
  data_dir: str | pathlib.Path,
  cache_dir: str | pathlib.Path,
) -> dict[str, str]:
  """SHA-256 by file of all that `rows` reads, once it has been built.

  The built files are the same bytes whenever they are built of the same data,
  by the same libraries. A `task.RowSource` reads nothing.
  """
  if isinstance(task, task_lib.RowSource):
    return {}
  if task.name not in pipeline.BUILDERS:
    builder = _text_builder(task.name, data_dir, cache_dir)
  else:
    builder = pipeline.prepare(task, cache_dir)
  built = pathlib.Path(builder.data_dir)
  found = digests_lib.of_folder(built, '*.array_record*')
  if task.name in pipeline.BUILDERS and data_dir:
    name = public.DEFAULT_FILES[task.name]
    path = pathlib.Path(data_dir) / task.name / name
    if path.is_file():  # else `rows` says so
      found[name] = digests_lib.of_file(path)
  return found


def text_split(
  data_set: str,
  split: str,
  *,
  data_dir: str | pathlib.Path,
  cache_dir: str | pathlib.Path,
) -> Sequence[task_lib.Row]:
  """The rows of a split of a data set of `benchmarks.SPLITS`.

  Raises:
    errors.UserError: as `rows`.
    OSError: the cache cannot be written.
  """
  known = set(benchmarks.SPLITS.get(data_set, ()))
  if 'train' in known:
    known |= {'validation', 'test'}
  if known and split not in known:
    raise errors.UserError(
      f'data set {data_set!r} has no split {split!r}; it has '
      f'{", ".join(sorted(known))}'
    )
  builder = _text_builder(data_set, data_dir, cache_dir)
  return pipeline.open_split(builder, split)


def _text_builder(
  data_set: str, data_dir: str | pathlib.Path, cache_dir: str | pathlib.Path
) -> tfds.core.DatasetBuilder:
  if not data_dir:
    raise errors.UserError(
      f'the rows of {data_set!r} are read from files: set data_dir to the '
      f'folder that holds {data_set}/'
    )
  if data_set not in benchmarks.SPLITS:
    raise errors.UserError(
      f'there is no data set {data_set!r}; there are '
      f'{", ".join(benchmarks.SPLITS)}'
    )
  config = text_rows.Config(data_set=data_set, data_dir=str(data_dir))
  return pipeline.build(text_rows.TextRows, config, cache_dir)
