"""4x4 Sudoku on strings of 16 digits, row by row.

A row is {'id': str, 'puzzle': str, 'solution': str}; '0' marks an empty cell.
Answers are judged by the rules, so a puzzle with several solutions accepts
each. There are 288 grids in all, so data must be split by solution.

Deviations from the public d1 reward (which `parity=True` follows): 15 or 17
digits are malformed rather than padded or cut, a changed clue costs all
credit, and correct means a solved puzzle.
"""

import dataclasses
import functools
import re

from dllm_jax.tasks import tags, task

_MAX_ANSWER_CHARS = 256
_MAX_REASONING_CHARS = 4096
_MAX_D1_CHARS = 8192
_UNITS = tuple(
  [tuple(range(4 * i, 4 * i + 4)) for i in range(4)]
  + [tuple(range(i, 16, 4)) for i in range(4)]
  + [(i, i + 1, i + 4, i + 5) for i in (0, 2, 8, 10)]
)
_PEERS = tuple(
  tuple(sorted({j for u in _UNITS if i in u for j in u} - {i}))
  for i in range(16)
)

_D1_PROMPT = (
  tags.XML_DIRECTIVE
  + '\nFill the 4x4 Sudoku grid so that every row, every column and every 2x2 '
  'box holds each digit from 1 to 4 once. The grid is written row by row as 16 '
  'digits, where 0 is an empty cell. Keep the digits that are given, and put '
  'the 16 digits of the full grid inside the answer tags.\n\n{puzzle}\n'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sudoku:
  """The 4x4 Sudoku task.

  Attributes:
    prompt_style: 'terse' for tiny word-level models, 'd1' for instruct models.
    parity: judge as the public d1 code does: `cells` takes the digits of the
      answer block, padded or cut; correct and `cells_right` are those of its
      evaluation, which reads the answer in another way.
  """

  prompt_style: str = 'terse'
  parity: bool = False

  name = 'sudoku'

  def __post_init__(self):
    tags.check_style(self.prompt_style)

  def words(self) -> tuple[str, ...]:
    """Tags, a space, a newline and digits; for 'd1' also the prompt's words."""
    words = [*tags.words(), '\n', ' ', *'01234']
    if self.prompt_style == 'd1':
      words += tags.text_words(_D1_PROMPT.format(puzzle=''))
      words += re.findall(r'[0-9]', _D1_PROMPT)
    return tuple(dict.fromkeys(words))

  def prompt(self, row: task.Row) -> str:
    """The puzzle."""
    if self.prompt_style == 'd1':
      return _D1_PROMPT.format(puzzle=row['puzzle'])
    return row['puzzle'] + '\n'

  def demonstration(self, row: task.Row) -> str:
    """The missing digits of each row, then the solution."""
    return tags.completion_text(missing(row['puzzle']), row['solution'])

  def gold(self, row: task.Row) -> str:
    """The stored solution."""
    return row['solution']

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """Whether the reasoning spells the stored solution, whatever its spaces."""
    reasoning = tags.reasoning_text(completion)
    return row['solution'] in ''.join(reasoning.split())

  def score(self, row: task.Row, completion: str) -> task.Score:
    """Judges the grid in the last answer block.

    Terms: `cells` is the share of the originally empty cells that are right,
    against the nearest solution of the puzzle, and 0 for a malformed grid or
    one that changes a clue; `solved` is 1 for a solved puzzle; then the format
    terms. Correct means solved. The published cell accuracy is the sum of
    the metric `cells_right` over that of `cells_empty`. Of a completion longer
    than `tags.MAX_CHARS` only the end is read.
    """
    completion = completion[-tags.MAX_CHARS :]
    answer = tags.extract_answer(completion)
    grid = _read(answer or '')
    if self.parity:
      digits = ''.join(re.findall(r'[0-9]', (answer or '')[:_MAX_D1_CHARS]))
      cells = _share(row, _cut(digits))
      parsed = _cut(_d1_answer(completion))
      share = _share(row, parsed)
      solved = share == 1
    else:
      cells, solved = _judge(row, grid)
      share = cells
      parsed = grid
    terms = {'cells': cells, 'solved': float(solved)}
    terms |= tags.terms(completion, parity=self.parity)
    reasoning = tags.reasoning_text(completion)[:_MAX_REASONING_CHARS]
    num_empty = row['puzzle'].count('0')
    metrics = {
      'cells_right': float(round(share * num_empty)),
      'cells_empty': float(num_empty),
      'has_answer': float(answer is not None),
      'well_formed': float(grid is not None),
      'reasoning_right': float(reasoning.strip() == missing(row['puzzle'])),
    }
    return task.Score(terms, solved, metrics, parsed)


def _judge(row: task.Row, grid: str | None) -> tuple[float, bool]:
  """Share of empty cells that are right, and whether all is."""
  puzzle = row['puzzle']
  if grid is None or not keeps_clues(puzzle, grid):
    return 0.0, False
  if is_solved(grid):
    return 1.0, True
  empty = [i for i in range(16) if puzzle[i] == '0']
  solutions = solve(puzzle) or (row['solution'],)
  right = max(sum(s[i] == grid[i] for i in empty) for s in solutions)
  return right / max(len(empty), 1), False


def _share(row: task.Row, text: str) -> float:
  """The share of empty cells where `text` has the stored solution's digit."""
  empty = [i for i in range(16) if row['puzzle'][i] == '0']
  right = sum(text[i] == row['solution'][i] for i in empty)
  return right / len(empty) if empty else 0.0


def _cut(text: str) -> str:
  return text[:16].ljust(16, '0')


def _d1_answer(completion: str) -> str:
  """What d1's evaluation takes for the grid, without its white space.

  Digits in a code fence of the answer block; else what follows the first
  '<answer>' up to the end of the block or of the text; else what follows
  '</answer>'; else the first run of 16 digits.
  """
  text = completion[:_MAX_D1_CHARS]
  _, opened, block = text.partition('<answer>')
  fence = re.search(r'```\s*([0-9\s]+)```', block)
  closed = re.search(r'</answer>|<\|eot_id\|>|<\|endoftext\|>', block)
  _, ended, after = text.partition('</answer>')
  run = re.search(r'(?<![0-9])[0-9]{16}(?![0-9])', text)
  if fence:
    digits = fence[1]
  elif opened and closed:
    digits = block[: closed.start()]
  elif ended:
    digits = re.split(r'<\|eot_id\|>|<\|endoftext\|>', after)[0]
  else:
    digits = run[0] if run else ''
  return ''.join(digits.split())


def _read(answer: str) -> str | None:
  """The 16 digits 1-4 of an answer, or None; ASCII white space is dropped."""
  if len(answer) > _MAX_ANSWER_CHARS:
    return None
  grid = re.sub(r'[ \t\r\n]', '', answer)
  return grid if re.fullmatch(r'[1-4]{16}', grid) else None


def missing(puzzle: str) -> str:
  """For each row of the grid the digits that it lacks; '0' for none."""
  rows = [puzzle[i : i + 4] for i in range(0, 16, 4)]
  return ' '.join(
    ''.join(d for d in '1234' if d not in row) or '0' for row in rows
  )


def keeps_clues(puzzle: str, grid: str) -> bool:
  """Whether `grid` holds every given digit of `puzzle`."""
  return all(p in ('0', g) for p, g in zip(puzzle, grid, strict=True))


def is_solved(grid: str) -> bool:
  """Whether every row, column and box of 16 digits holds 1 to 4."""
  return all({grid[i] for i in unit} == set('1234') for unit in _UNITS)


def check(puzzle: str, solution: str) -> None:
  """Raises a ValueError unless both are well formed and agree."""
  if not re.fullmatch(r'[0-4]{16}', puzzle):
    raise ValueError(f'a puzzle is 16 digits 0-4: {puzzle[:40]!r}')
  if not re.fullmatch(r'[1-4]{16}', solution) or not is_solved(solution):
    raise ValueError(f'not a solved grid: {solution[:40]!r}')
  if not keeps_clues(puzzle, solution):
    raise ValueError(f'{solution} does not keep the clues of {puzzle}')


@functools.lru_cache(maxsize=1)
def grids() -> tuple[str, ...]:
  """All 288 solved grids, sorted."""
  return tuple(_fill('0' * 16))


@functools.lru_cache(maxsize=4096)
def solve(puzzle: str) -> tuple[str, ...]:
  """All solutions of a puzzle of 16 digits 0-4, sorted."""
  return tuple(grid for grid in grids() if keeps_clues(puzzle, grid))


def _fill(grid: str):
  cell = grid.find('0')
  if cell < 0:
    yield grid
    return
  for digit in '1234':
    if all(grid[peer] != digit for peer in _PEERS[cell]):
      yield from _fill(grid[:cell] + digit + grid[cell + 1 :])
