"""The rows of any task's split, generated or read from files.

rows(task, 'train', data_dir=cfg.data_dir, cache_dir=cache)
"""

import pathlib
from collections.abc import Sequence

from dllm_jax import errors
from dllm_jax.data import benchmarks, pipeline, public, text_rows
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
  known = set(benchmarks.SPLITS[data_set])
  if 'train' in known:
    known.add('validation')
  if split not in known:
    raise errors.UserError(
      f'data set {data_set!r} has no split {split!r}; it has '
      f'{", ".join(sorted(known))}'
    )
  config = text_rows.Config(data_set=data_set, data_dir=str(data_dir))
  builder = pipeline.build(text_rows.TextRows, config, cache_dir)
  return pipeline.open_split(builder, split)
