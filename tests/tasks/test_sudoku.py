import gzip
import json
import random
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from dllm_jax import tasks
from dllm_jax.tasks import sudoku, tags, task
from dllm_jax.text import tokenizer
from tests import timing

SOLUTION = '3142243142131324'
ROW = {'id': 'a', 'puzzle': '3102200002100320', 'solution': SOLUTION}
NUM_EMPTY = 8


def _score(answer, row=ROW, parity=False):
  completion = tags.completion_text('', answer)
  return sudoku.Sudoku(parity=parity).score(row, completion)


def test_is_a_task():
  assert isinstance(tasks.TASKS['sudoku'](), task.Task)


def test_grids():
  assert len(sudoku.grids()) == len(set(sudoku.grids())) == 288
  assert list(sudoku.grids()) == sorted(sudoku.grids())
  assert all(sudoku.is_solved(grid) for grid in sudoku.grids())
  # Twelve grids for each of the 24 first rows.
  assert sum(grid.startswith('1234') for grid in sudoku.grids()) == 12


def test_solve_by_hand():
  assert sudoku.solve(ROW['puzzle']) == (SOLUTION,)
  assert len(sudoku.solve('0' * 16)) == 288
  assert sudoku.solve('11' + '0' * 14) == ()


@hypothesis.given(
  st.integers(0, 287), st.lists(st.booleans(), min_size=16, max_size=16)
)
def test_solve_finds_what_was_hidden(index, keep):
  grid = sudoku.grids()[index]
  puzzle = ''.join(d if k else '0' for d, k in zip(grid, keep, strict=True))
  found = sudoku.solve(puzzle)
  assert grid in found
  assert all(sudoku.keeps_clues(puzzle, other) for other in found)


def test_demonstration():
  sd = sudoku.Sudoku()
  assert sd.prompt(ROW) == '3102200002100320\n'
  expected = (
    '<reasoning>\n4 134 34 14\n</reasoning>\n'
    '<answer>\n3142243142131324\n</answer>'
  )
  assert sd.demonstration(ROW) == expected
  score = sd.score(ROW, expected)
  assert score.correct
  assert score.terms == {
    'cells': 1.0,
    'solved': 1.0,
    'xmlcount': 0.5,
    'soft_format': 0.5,
    'strict_format': 0.5,
  }
  assert score.metrics == {
    'cells_right': 8.0,
    'cells_empty': 8.0,
    'has_answer': 1.0,
    'well_formed': 1.0,
    'reasoning_right': 1.0,
  }
  assert sudoku.missing('123412341234000' + '0') == '0 0 0 1234'


@pytest.mark.parametrize('style', ['terse', 'd1'])
def test_words_cover_prompts_and_demonstrations(style):
  sd = sudoku.Sudoku(prompt_style=style)
  t = tokenizer.Tokenizer.from_words(sd.words())
  for text in (sd.prompt(ROW), sd.demonstration(ROW), sd.gold(ROW)):
    assert t.decode(t.encode(text)) == text


def test_leakage_monitor():
  sd = sudoku.Sudoku()
  leak = tags.completion_text('3142 2431\n4213 1324', '1')
  assert sd.reasoning_has_gold(ROW, leak)
  assert not sd.reasoning_has_gold(ROW, sd.demonstration(ROW))


ATTACKS = [
  ('clue rewritten', '4' + SOLUTION[1:], 0.0),
  ('all same digit', '1' * 16, 0.0),
  ('15 digits', SOLUTION[:15], 0.0),
  ('17 digits', SOLUTION + '1', 0.0),
  ('1000 digits', SOLUTION + '1' * 1000, 0.0),
  ('superscripts', SOLUTION.replace('2', '²'), 0.0),
  ('fullwidth', SOLUTION.replace('2', '２'), 0.0),
  ('prose', 'row 1: 3142 row 2: 2431 row 3: 4213 row 4: 1324', 0.0),
  ('letters', 'abcdabcdabcdabcd', 0.0),
  ('zeros', ROW['puzzle'], 0.0),
  ('1 MB', SOLUTION * 65536, 0.0),
  ('spaces', '3142\n2431\n4213\n1324', 1.0),
  ('no-break space', '3142\u00a0243142131324', 0.0),
]


@pytest.mark.parametrize(('name', 'answer', 'cells'), ATTACKS)
def test_hostile_answers(name, answer, cells):
  del name
  score = _score(answer, parity=False)
  assert score.terms['cells'] == cells
  assert score.correct == (cells == 1)
  for parity in (True, False):
    took = timing.seconds(lambda parity=parity: _score(answer, parity=parity))
    assert took < 0.002


def test_against_the_rules_written_out():
  """Solved grids with random cells changed, by rows, columns and boxes."""
  rng = random.Random(0)
  solved = 0
  for _ in range(2000):
    grid = list(rng.choice(sudoku.grids()))
    for _ in range(rng.choice((0, 1, 2, 16))):
      grid[rng.randrange(16)] = rng.choice('1234')
    text = ''.join(grid)
    clues = rng.sample(range(16), 8)
    puzzle = ''.join(SOLUTION[i] if i in clues else '0' for i in range(16))
    if rng.random() < 0.5:
      puzzle = ''.join(text[i] if i in clues else '0' for i in range(16))
    cell = lambda r, c, text=text: text[4 * r + c]
    rows = [[cell(r, c) for c in range(4)] for r in range(4)]
    columns = [[cell(r, c) for r in range(4)] for c in range(4)]
    boxes = [
      [cell(r + i, c + j) for i in (0, 1) for j in (0, 1)]
      for r in (0, 2)
      for c in (0, 2)
    ]
    units = rows + columns + boxes
    right = all(sorted(unit) == list('1234') for unit in units)
    right &= all(p in ('0', t) for p, t in zip(puzzle, text, strict=True))
    row = {'id': 'a', 'puzzle': puzzle, 'solution': SOLUTION}
    assert _score(text, row).correct == right, (puzzle, text)
    solved += right
  assert 200 < solved < 1800


def test_partial_credit():
  # Two of the eight empty cells are wrong: cells 2 and 5.
  wrong = SOLUTION[:2] + '1' + SOLUTION[3:5] + '1' + SOLUTION[6:]
  score = _score(wrong)
  assert not score.correct
  assert score.terms['cells'] == pytest.approx(6 / NUM_EMPTY)


def test_each_solution_counts():
  puzzle = '1200340000000000'
  first, *others = sudoku.solve(puzzle)
  assert others
  row = {'id': 'b', 'puzzle': puzzle, 'solution': first}
  for grid in (first, *others):
    assert _score(grid, row).correct
  # d1 knows only the stored one.
  assert _score(first, row, parity=True).correct
  assert not _score(others[0], row, parity=True).correct


@pytest.mark.parametrize(
  ('answer', 'cells'),
  [
    (SOLUTION + '999', 1.0),
    ('row: ' + SOLUTION, 1.0),
    (SOLUTION[:8], 4 / 8),
    ('', 0.0),
    # Clues are not looked at.
    ('0' + SOLUTION[1:], 1.0),
  ],
)
def test_parity(answer, cells):
  score = _score(answer, parity=True)
  assert score.terms['cells'] == pytest.approx(cells)


def test_recorded_evaluations_of_d1(shared_dir):
  folder = shared_dir / 'golden' / 'recordings'
  entries = json.loads((folder / 'accuracy.json').read_text())['entries']
  entry = next(e for e in entries if e['task'] == 'sudoku')
  with gzip.open(folder / entry['file'], 'rt') as lines:
    records = [json.loads(line) for line in lines]
  cells, solved = [], []
  for record in records:
    puzzle = re.search(r'[0-9]{16}', record['question'])[0]
    row = {'id': 'a', 'puzzle': puzzle, 'solution': record['ground_truth']}
    score = sudoku.Sudoku(parity=True).score(row, record['generation'])
    metrics = score.metrics
    cells.append([metrics['cells_right'], metrics['cells_empty']])
    solved.append(int(score.correct))
  assert cells == entry['correct_empty_cells']
  assert solved == entry['is_correct']
  assert sum(right for right, _ in cells) == 240


@pytest.mark.parametrize(
  ('puzzle', 'solution', 'reason'),
  [
    ('310220000210032', SOLUTION, 'puzzle'),
    ('٣102200002100320', SOLUTION, 'puzzle'),
    (ROW['puzzle'], '1' * 16, 'solved'),
    ('1102200002100320', SOLUTION, 'clues'),
  ],
)
def test_check(puzzle, solution, reason):
  with pytest.raises(ValueError, match=reason):
    sudoku.check(puzzle, solution)


def test_bad_style():
  with pytest.raises(ValueError, match='d2'):
    sudoku.Sudoku(prompt_style='d2')
