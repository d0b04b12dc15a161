"""Public test files of Countdown and Sudoku: those of d1.

Some of the puzzles have more than one solution.
"""

import csv
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from dllm_jax import errors
from dllm_jax.data import json_rows
from dllm_jax.tasks import arithmetic, sudoku
from dllm_jax.tasks import task as task_lib

FILES = {
  'countdown': 'countdown/countdown_cd3_test.jsonl',
  'sudoku': 'sudoku/4x4_test_sudoku.csv',
}
_MAX_CHECKED = 3  # numbers of a problem


def load(task_name: str, data_dir: str | pathlib.Path) -> list[task_lib.Row]:
  """The rows of a task's public test file, in file order.

  Args:
    task_name: 'countdown' or 'sudoku'.
    data_dir: the directory of the public data sets.

  Returns:
    Rows with ids 'FILE:LINE'.

  Raises:
    errors.UserError: the file is missing or malformed; the message has the
      line.
  """
  path = pathlib.Path(data_dir) / FILES[task_name]
  if not path.is_file():
    raise errors.UserError(
      f'test file {path} of task {task_name!r} is missing: set data_dir to the '
      f'directory that contains {FILES[task_name]}'
    )
  if task_name == 'countdown':
    records, read = _json_records(path), _countdown_row
  else:
    records, read = _csv_records(path), _sudoku_row
  rows = []
  line = 1
  try:
    for line, texts in records:
      if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        raise ValueError(f'expected a pair of texts, got {texts!r:.60}')
      rows.append({'id': f'{path.stem}:{line}', **read(*texts)})
  except ValueError as error:
    raise errors.UserError(f'{path}:{line}: {error}') from error
  return rows


def num_solvable(rows: Sequence[task_lib.Row], operators: str) -> int:
  """Number of Countdown problems that can be solved with `operators` alone.

  Problems of more than three numbers take long to check: they count as
  solvable.
  """
  return sum(
    len(row['numbers']) > _MAX_CHECKED
    or bool(arithmetic.solutions(row['numbers'], row['target'], operators))
    for row in rows
  )


def _csv_records(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
  """Yields (line number, fields) below the header Puzzle,Solution."""
  with path.open(encoding='utf-8', newline='') as lines:
    reader = csv.reader(lines, strict=True)
    try:
      header = next(reader, [])
      if [name.strip().lower() for name in header] != ['puzzle', 'solution']:
        raise ValueError(f'expected the header Puzzle,Solution, got {header}')
      for fields in reader:
        yield reader.line_num, fields
    except csv.Error as error:
      raise errors.UserError(f'{path}:{reader.line_num}: {error}') from error


def _json_records(path: pathlib.Path) -> Iterator[tuple[int, list[Any]]]:
  """Yields (line number, [input, output])."""
  for line, record in json_rows.records(path):
    yield line, [record.get('input'), record.get('output')]


def _countdown_row(left: str, right: str) -> task_lib.Row:
  """A row from the texts 'a,b,c' and 'target'."""
  numbers = [_integer(text) for text in left.split(',')]
  target = _integer(right)
  if not 2 <= len(numbers) <= 6:
    raise ValueError(f'expected 2 to 6 numbers, got {len(numbers)}')
  solutions = arithmetic.solutions(numbers, target, '+-*/')
  if not solutions:
    raise ValueError(f'{numbers} cannot make {target}')
  return {
    'numbers': numbers,
    'target': target,
    'solution': solutions[0],
    'num_solutions': len(solutions),
  }


def _integer(text: str) -> int:
  if not re.fullmatch(r'\s*[0-9]{1,6}\s*', text):
    raise ValueError(f'not an integer: {text[:40]!r}')
  return int(text)


def _sudoku_row(left: str, right: str) -> task_lib.Row:
  """A row from two grids of 16 digits, each in one line or in four."""
  puzzle, solution = (re.sub(r'[ \r\n]', '', text) for text in (left, right))
  sudoku.check(puzzle, solution)
  return {'puzzle': puzzle, 'solution': solution}
