"""Task rows of recorded programs.

A record of task 'code' has `code`, `test` and optionally `entry_point`; all of
`code` is the program. A record of HumanEval, MBPP or KodCode has `generation`
(or `completion`). It either contains its problem (`test`, and optionally
`entry_point`, `prompt` and `setup`), or refers to a problem in the data
directory by `id`, `task_id` or `question`.
"""

import pathlib
from collections.abc import Callable
from typing import Any

from dllm_jax.data import benchmarks
from dllm_jax.tasks import task as task_lib

TASKS = ('code', 'humaneval', 'mbpp', 'kodcode')
FIELDS = ('prompt', 'entry_point', 'test', 'setup')

# Published names of the problem on a 1-based line.
_NAMES = {
  'humaneval': lambda number: [f'HumanEval/{number - 1}'],
  'mbpp': lambda number: [number, str(number), f'Mbpp/{number}'],
  'kodcode': lambda number: [],
}


def text_of(record: dict[str, Any], task_name: str) -> str:
  """The recorded completion.

  Raises:
    ValueError: the record has none.
  """
  names = ('code',) if task_name == 'code' else ('generation', 'completion')
  for name in names:
    if isinstance(record.get(name), str):
      return record[name]
  raise ValueError(f'{names[0]!r} must be a string')


def reader(
  task_name: str, data_dir: str | pathlib.Path | None
) -> Callable[[dict[str, Any]], task_lib.Row]:
  """A function from a record to its task row.

  Args:
    task_name: one of `TASKS`.
    data_dir: directory of the public data sets, read when first needed; None
      if every record contains its problem.
  """
  problems: dict[Any, task_lib.Row] = {}

  def row(record):
    if 'test' in record or task_name == 'code':
      return (
        {'prompt': '', 'entry_point': '', 'setup': ''}
        | {name: text(record, name) for name in FIELDS if name in record}
        | {'test': text(record, 'test')}
      )
    if data_dir is None:
      raise ValueError(
        "no 'test': pass --data_dir, the directory of the data set's files"
      )
    if not problems:
      problems.update(_problems(task_name, data_dir))
    names = [record.get(field) for field in ('id', 'task_id', 'question')]
    for name in names:
      if isinstance(name, str | int) and name in problems:
        return problems[name]
    raise ValueError(f'no {task_name} problem matches {names!r:.60}')

  return row


def _problems(
  task_name: str, data_dir: str | pathlib.Path
) -> dict[Any, task_lib.Row]:
  """All problems of a data set by all their names."""
  by_name: dict[Any, task_lib.Row] = {}
  for split in benchmarks.SPLITS[task_name]:
    if split == 'sanitized_test':  # a subset of 'test', numbered differently
      continue
    for row in benchmarks.load(task_name, split, data_dir):
      number = int(row['id'].rpartition(':')[2])
      names = [row['id'], row['prompt'], *_NAMES[task_name](number)]
      by_name |= dict.fromkeys(names, row)
  return by_name


def text(record: dict[str, Any], name: str) -> str:
  """A string field of a record.

  Raises:
    ValueError: it is missing or not a string.
  """
  value = record.get(name)
  if not isinstance(value, str):
    raise ValueError(f'{name!r} must be a string, got {value!r:.60}')
  return value
