"""Public test files of Countdown and Sudoku, as the rows that tasks take.

The files are those of d1 (`countdown_cd3_test.jsonl`, `4x4_test_sudoku.csv`),
SPG (`test_sudoku_split_new.csv`) and Dream (`dream_*.jsonl`), under
`countdown/` and `sudoku/` of the data directory. Some puzzles of d1 have more
than one solution.
"""

import csv
import json
import pathlib
import re
from collections.abc import Iterator, Sequence

from dllm_jax.tasks import arithmetic, sudoku
from dllm_jax.tasks import task as task_lib

DEFAULT_FILES = {
  'countdown': 'countdown_cd3_test.jsonl',
  'sudoku': '4x4_test_sudoku.csv',
}
MAX_COUNTED = 3  # numbers up to which solutions are counted


def load(
  task_name: str, data_dir: str | pathlib.Path, file: str | None = None
) -> list[task_lib.Row]:
  """Rows of a public test file.

  Args:
    task_name: 'countdown' or 'sudoku'.
    data_dir: the folder that holds `countdown/` and `sudoku/`.
    file: a file name in the task's folder; None takes `DEFAULT_FILES`.

  Returns:
    Rows in file order, with ids 'file:line'. For Countdown problems of more
    than three numbers `num_solutions` is 0: not counted.

  Raises:
    ValueError: for an unknown task, or a malformed row, with file and line.
    FileNotFoundError: if the file is absent.
  """
  if task_name not in DEFAULT_FILES:
    raise ValueError(
      f'no public files for task {task_name!r}; there are '
      f'{sorted(DEFAULT_FILES)}'
    )
  file = DEFAULT_FILES[task_name] if file is None else file
  path = pathlib.Path(data_dir) / task_name / file
  if not path.is_file():
    raise FileNotFoundError(
      f'the test file {file!r} of task {task_name!r} is not at {path}: set '
      f'data_dir to the folder that holds {task_name}/{file}'
    )
  read = _countdown_row if task_name == 'countdown' else _sudoku_row
  rows = []
  for line, left, right in _pairs(path):
    try:
      row = read(left, right)
    except ValueError as error:
      raise ValueError(f'{path}:{line}: {error}') from error
    rows.append({'id': f'{path.stem}:{line}', **row})
  return rows


def num_solvable(rows: Sequence[task_lib.Row], operators: str) -> int:
  """How many Countdown problems a model that writes `operators` can solve.

  Problems of more than `MAX_COUNTED` numbers, which would take long, count as
  solvable.
  """
  return sum(
    len(row['numbers']) > MAX_COUNTED
    or bool(arithmetic.solutions(row['numbers'], row['target'], operators))
    for row in rows
  )


def _pairs(path: pathlib.Path) -> Iterator[tuple[int, str, str]]:
  """(line number, input, output) of a JSONL or CSV file."""
  with path.open(encoding='utf-8', newline='') as lines:
    if path.suffix == '.csv':
      reader = csv.reader(lines, strict=True)
      try:
        header = next(reader, [])
        if [name.strip().lower() for name in header] != ['puzzle', 'solution']:
          raise ValueError(f'the header must be Puzzle,Solution: {header}')
        for fields in reader:
          if len(fields) != 2:
            raise ValueError(f'expected 2 fields, found {len(fields)}')
          yield reader.line_num, fields[0], fields[1]
      except (csv.Error, ValueError) as error:
        line = max(reader.line_num, 1)
        raise ValueError(f'{path}:{line}: {error}') from error
      return
    for number, line in enumerate(lines, 1):
      if not line.strip():
        continue
      try:
        record = json.loads(line)
      except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}:{number}: not JSON: {error}') from error
      fields = record if isinstance(record, dict) else {}
      left, right = fields.get('input'), fields.get('output')
      if not isinstance(left, str) or not isinstance(right, str):
        raise ValueError(
          f"{path}:{number}: 'input' and 'output' must both be text"
        )
      yield number, left, right


def _countdown_row(left: str, right: str) -> task_lib.Row:
  """A row from 'a,b,c' and 'target', or 'a,b,c,target' and worked steps."""
  numbers = [_whole(text) for text in left.split(',')]
  solution = None
  if '=' in right:
    *numbers, target = numbers
    solution = expression(numbers, target, right)
  else:
    target = _whole(right)
  if not 2 <= len(numbers) <= 6:
    raise ValueError(f'expected 2 to 6 numbers, found {len(numbers)}')
  count = 0
  if len(numbers) <= MAX_COUNTED or solution is None:
    found = arithmetic.solutions(numbers, target, '+-*/')
    if not found:
      raise ValueError(f'{numbers} cannot make {target}')
    count, solution = len(found), solution or found[0]
  return {
    'numbers': numbers,
    'target': target,
    'solution': solution,
    'num_solutions': count,
  }


def expression(numbers: list[int], target: int, steps: str) -> str | None:
  """One expression from worked steps such as '44-15=29,79-29=50'.

  Args:
    numbers: what the steps start from.
    target: what the last step must give.
    steps: comma-separated equations, each over numbers at hand.

  Returns:
    The expression, or None where the steps do not work out.
  """
  at_hand = [arithmetic.atom(number) for number in numbers]
  for step in steps.split(','):
    match = re.fullmatch(
      r'\s*([0-9]+)\s*([-+*/])\s*([0-9]+)\s*=\s*([0-9]+)\s*', step
    )
    if match is None:
      return None
    left = _pop(at_hand, int(match[1]))
    right = _pop(at_hand, int(match[3]))
    if left is None or right is None:
      return None
    joined = arithmetic.join(left, match[2], right)
    if joined is None or joined.value != int(match[4]):
      return None
    at_hand.append(joined)
  done = len(at_hand) == 1 and at_hand[0].value == target
  return at_hand[0].text if done else None


def _pop(
  at_hand: list[arithmetic.Expression], value: int
) -> arithmetic.Expression | None:
  """Takes the latest entry of that value; None if there is none."""
  for i in reversed(range(len(at_hand))):
    if at_hand[i].value == value:
      return at_hand.pop(i)
  return None


def _whole(text: str) -> int:
  if not re.fullmatch(r'\s*[0-9]{1,6}\s*', text):
    raise ValueError(f'not a whole number: {text[:40]!r}')
  return int(text)


def _sudoku_row(left: str, right: str) -> task_lib.Row:
  """A row from grids of 16 digits, in one line or in four."""
  puzzle, solution = (re.sub(r'[ \r\n]', '', text) for text in (left, right))
  sudoku.check(puzzle, solution)
  return {'puzzle': puzzle, 'solution': solution}
