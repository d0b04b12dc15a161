"""Rows of recorded programs: what a completion is to be tested by.

A record of task 'code' has `code`, `test` and perhaps `entry_point`: nothing is
read out of it. One of HumanEval, MBPP or KodCode has a `generation` (or
`completion`) and either all of its problem, `test` with `entry_point`, `prompt`
and `setup`, as the generations of evaluations do, or names a problem of the
files in a data directory, by `id` or `task_id` or by its `question`.
"""

import pathlib
from collections.abc import Callable
from typing import Any

from dllm_jax.data import benchmarks
from dllm_jax.tasks import task as task_lib

TASKS = ('code', 'humaneval', 'mbpp', 'kodcode')
FIELDS = ('prompt', 'entry_point', 'test', 'setup')

# How others number problems: HumanEval from 0, MBPP from 1, as the lines.
_NAMES = {
  'humaneval': lambda number: [f'HumanEval/{number - 1}'],
  'mbpp': lambda number: [number, str(number), f'Mbpp/{number}'],
  'kodcode': lambda number: [],
}


def text_of(record: dict[str, Any], task_name: str) -> str:
  """The recorded text.

  Raises:
    ValueError: there is none.
  """
  names = ('code',) if task_name == 'code' else ('generation', 'completion')
  for name in names:
    if isinstance(record.get(name), str):
      return record[name]
  raise ValueError(f'{names[0]!r} must be text')


def reader(
  task_name: str, data_dir: str | pathlib.Path | None
) -> Callable[[dict[str, Any]], task_lib.Row]:
  """What makes a row of a record; files are read when first needed.

  Args:
    task_name: one of `TASKS`.
    data_dir: the folder of public data sets; None for none.
  """
  problems: dict[Any, task_lib.Row] = {}

  def row(record):
    if 'test' in record or task_name == 'code':
      return (
        {'prompt': '', 'entry_point': '', 'setup': ''}
        | {name: _text(record, name) for name in FIELDS if name in record}
        | {'test': _text(record, 'test')}
      )
    if data_dir is None:
      raise ValueError(
        "no 'test': give --data_dir, the folder of the data set's files"
      )
    if not problems:
      problems.update(_problems(task_name, data_dir))
    asked = [record.get(name) for name in ('id', 'task_id', 'question')]
    for name in asked:
      if isinstance(name, str | int) and name in problems:
        return problems[name]
    raise ValueError(f'no problem of {task_name} is named by {asked!r:.60}')

  return row


def _problems(
  task_name: str, data_dir: str | pathlib.Path
) -> dict[Any, task_lib.Row]:
  """All problems of a data set by all their names."""
  by_name: dict[Any, task_lib.Row] = {}
  for split in benchmarks.SPLITS[task_name]:
    if split == 'sanitized_test':  # numbered otherwise, and all in the other
      continue
    for row in benchmarks.load(task_name, split, data_dir):
      number = int(row['id'].rpartition(':')[2])
      names = [row['id'], row['prompt'], *_NAMES[task_name](number)]
      by_name |= dict.fromkeys(names, row)
  return by_name


def _text(record: dict[str, Any], name: str) -> str:
  value = record.get(name)
  if not isinstance(value, str):
    raise ValueError(f'{name!r} must be text, found {value!r:.60}')
  return value
