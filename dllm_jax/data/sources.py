"""The rows of any task's split, generated or read from files.

rows(task, 'train', data_dir=cfg.data_dir, cache_dir=cache)
"""

import hashlib
import pathlib
from collections.abc import Iterable, Sequence

from dllm_jax import errors
from dllm_jax.data import benchmarks, own_rows, pipeline, public, text_rows
from dllm_jax.tasks import task as task_lib

SPLITS = ('train', 'validation', 'test')


def rows(
  task: task_lib.Task,
  split: str,
  *,
  data_dir: str | pathlib.Path,
  cache_dir: str | pathlib.Path,
  files: own_rows.Files | None = None,
) -> Sequence[task_lib.Row]:
  """The rows of a split, with random access.

  Countdown and Sudoku are generated, but with a `data_dir` their test split is
  the public file in it. A `task.RowSource` makes its own rows. The rows of
  other tasks are read from the files in `data_dir`; those of a `task.Cut` are
  pieces of them.

  Args:
    task: its name and fields determine the rows.
    split: 'train', 'validation' or 'test'; see `benchmarks.SPLITS` for more.
    data_dir: the directory of the public data sets; '' for none.
    cache_dir: directory of the built data sets; created if it does not exist.
    files: of the task 'rows', which is read from them and nothing else.

  Raises:
    errors.UserError: the split does not exist, or its file is missing,
      malformed or another version.
    OSError: the cache cannot be written.
  """
  if isinstance(task, task_lib.RowSource):
    return task.rows(split)
  if files is not None:
    return own_rows.load(task, files)[split]
  if task.name in pipeline.BUILDERS:
    if split == 'test' and data_dir:
      return public.load(task.name, data_dir)
    return pipeline.Source(pipeline.prepare(task, cache_dir), split)
  if task.name not in benchmarks.SPLITS:
    raise errors.UserError(
      f'no data set for task {task.name!r}: expected one of '
      f'{", ".join(benchmarks.SPLITS)}, or a task that makes its own rows'
    )
  splits = set(benchmarks.SPLITS[task.name])
  if 'train' in splits:
    splits |= {'validation', 'test'}
  if split not in splits:
    raise errors.UserError(
      f'data set {task.name!r} has no split {split!r}: expected one of '
      f'{", ".join(sorted(splits))}'
    )
  if not data_dir:
    raise errors.UserError(
      f'the rows of {task.name!r} are read from files: set data_dir to the '
      f'directory that contains {task.name}/'
    )
  config = text_rows.Config(data_set=task.name, data_dir=str(data_dir))
  builder = pipeline.build(text_rows.TextRows, config, cache_dir)
  source = pipeline.Source(builder, split)
  return task.pieces(source) if isinstance(task, task_lib.Cut) else source


def digests(
  task: task_lib.Task,
  *,
  data_dir: str | pathlib.Path,
  cache_dir: str | pathlib.Path,
  files: own_rows.Files | None = None,
) -> dict[str, str]:
  """The digest of the rows of each split that a run reads, in hexadecimal.

  Rows are digested, not files: a data set that is built again has the same rows
  in other bytes. A `task.RowSource` is code and has no digests.

  Raises:
    errors.UserError: see `rows`.
    OSError: the cache cannot be written.
  """
  if isinstance(task, task_lib.RowSource):
    return {}
  return {
    split: digest(
      rows(task, split, data_dir=data_dir, cache_dir=cache_dir, files=files)
    )
    for split in SPLITS
  }


def digest(rows: Iterable[task_lib.Row]) -> str:
  """The SHA-256 of the rows as lines of canonical JSON, in hexadecimal.

  The order of the rows counts, the order of a row's keys does not.
  """
  sha256 = hashlib.sha256()
  for row in rows:
    sha256.update(own_rows.canonical_json(row).encode() + b'\n')
  return sha256.hexdigest()
