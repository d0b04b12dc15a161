import pytest

from dllm_jax import errors, tasks
from dllm_jax.data import public


def _write(tmp_path, task, text):
  path = tmp_path / public.FILES[task]
  path.parent.mkdir(exist_ok=True)
  path.write_text(text, encoding='utf-8')


def test_countdown_rows_by_hand(tmp_path):
  _write(
    tmp_path,
    'countdown',
    '{"input": "3,2,1", "output": "4"}\n\n{"input": "9,4", "output": "36"}\n',
  )
  first, second = public.load('countdown', tmp_path)
  assert first['id'] == 'countdown_cd3_test:1' and first['num_solutions'] > 1
  assert second == {
    'id': 'countdown_cd3_test:3',
    'numbers': [9, 4],
    'target': 36,
    'solution': second['solution'],
    'num_solutions': 2,
  }
  assert second['solution'] in ('9 * 4', '4 * 9')


def test_public_countdown_solutions_score_correct(shared_dir):
  rows = public.load('countdown', shared_dir / 'data')
  assert len(rows) == len({row['id'] for row in rows}) == 256
  task = tasks.TASKS['countdown'](operators='+-*/', max_number=100)
  for row in rows:
    assert len(row['numbers']) == 3
    assert task.score(row, task.demonstration(row)).correct


def test_public_sudoku_solutions_score_correct(shared_dir):
  rows = public.load('sudoku', str(shared_dir / 'data'))
  assert len(rows) == 500
  task = tasks.TASKS['sudoku']()
  assert all(task.score(r, task.demonstration(r)).correct for r in rows)
  unique = sum(len(tasks.sudoku.solve(row['puzzle'])) == 1 for row in rows)
  assert unique == 376


def test_num_solvable_counts_problems_of_the_operators(shared_dir):
  rows = public.load('countdown', shared_dir / 'data')
  assert len(rows) == 256
  assert public.num_solvable(rows, '+-*/') == 256
  assert public.num_solvable(rows, '+-') == 229
  by_hand = [
    {'numbers': [2, 3, 4], 'target': 9},
    {'numbers': [2, 3, 4], 'target': 24},
    {'numbers': [2, 3, 4, 5], 'target': 120},  # too many to look through
  ]
  assert public.num_solvable(by_hand, '+-') == 2


def test_missing_file_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match='set data_dir to') as error:
    public.load('sudoku', tmp_path)
  assert str(tmp_path / 'sudoku' / '4x4_test_sudoku.csv') in str(error.value)


GRID = '3142243142131324'


@pytest.mark.parametrize(
  ('task', 'text', 'reason'),
  [
    ('countdown', '\n{"input": 3', ':2: not JSON'),
    ('countdown', '[' * 100000, 'not JSON'),
    ('countdown', '1\n', ':1: not a JSON object'),
    ('countdown', '{"input": 3, "output": "2"}', ':1: expected a pair'),
    ('countdown', '{"input": "3,2"}', ':1: expected a pair'),
    ('countdown', '{"input": "3,x", "output": "2"}', ':1: not an integer'),
    ('countdown', '{"input": "3", "output": "2"}', ':1: expected 2 to 6'),
    ('countdown', '{"input": "1,1", "output": "9"}', ':1: .* cannot make 9'),
    ('sudoku', 'A,B\n', ':1: expected the header'),
    ('sudoku', '', ':1: expected the header'),
    ('sudoku', 'Puzzle,Solution\n1\n', ':2: expected a pair'),
    ('sudoku', 'Puzzle,Solution\n"1', ':2: unexpected end'),
    ('sudoku', f'Puzzle,Solution\n{GRID},11\n', ':2: not a solved'),
    ('sudoku', f'Puzzle,Solution\n4{GRID[1:]},{GRID}\n', ':2: .*clue'),
  ],
)
def test_malformed_rows_are_refused_with_their_line(
  tmp_path, task, text, reason
):
  _write(tmp_path, task, text)
  with pytest.raises(errors.UserError, match=reason) as error:
    public.load(task, tmp_path)
  assert public.FILES[task] in str(error.value)
  assert '\n' not in str(error.value)
