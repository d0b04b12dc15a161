import json

import pytest

from dllm_jax import tasks
from dllm_jax.data import public


def _write(tmp_path, task, file, text):
  path = tmp_path / task / file
  path.parent.mkdir(exist_ok=True)
  path.write_text(text, encoding='utf-8')


def test_countdown_by_hand(tmp_path):
  _write(
    tmp_path,
    'countdown',
    'a.jsonl',
    '{"input": "3,2,1", "output": "4"}\n\n'
    '{"input": "15,44,79,50", "output": "44-15=29,79-29=50"}\n'
    '{"input": "8,1,2,3,24", "output": "1+2=3,3+3=6,8*6=48"}\n',
  )
  # The last row's steps do not give the target: a solution is searched for.
  first, second, third = public.load('countdown', tmp_path, 'a.jsonl')
  assert first['id'] == 'a:1' and second['id'] == 'a:3'
  assert (first['numbers'], first['target']) == ([3, 2, 1], 4)
  assert second['numbers'] == [15, 44, 79]
  assert second['solution'] == '79 - ( 44 - 15 )'
  assert third['num_solutions'] > 0


@pytest.mark.parametrize(
  ('steps', 'expected'),
  [
    ('1+2=3,3+3=6', '3 + ( 1 + 2 )'),
    ('1+2=3,3*3=9', None),
    ('1+2=4,4+3=7', None),
    ('1+2=3', None),
    ('1+5=6,6+3=9', None),
    ('1+2', None),
  ],
)
def test_expression(steps, expected):
  found = public.expression([1, 2, 3], 6, steps)
  if expected is None:
    assert found is None
  else:
    assert found in (expected, '1 + 2 + 3', '3 + 1 + 2')


COUNTDOWN = [
  ('countdown_cd3_test.jsonl', 256, 3),
  ('dream_cd3_test.jsonl', 1000, 3),
  ('dream_cd4_test.jsonl', 1000, 4),
  ('dream_cd5_test.jsonl', 1000, 5),
]


@pytest.mark.parametrize(('file', 'size', 'count'), COUNTDOWN)
def test_countdown_files(shared_dir, file, size, count):
  rows = public.load('countdown', shared_dir / 'data', file)
  assert len(rows) == len({row['id'] for row in rows}) == size
  task = tasks.TASKS['countdown'](operators='+-*/', max_number=100)
  for row in rows:
    assert len(row['numbers']) == count
    assert task.score(row, task.demonstration(row)).correct


SUDOKU = [('4x4_test_sudoku.csv', 500), ('test_sudoku_split_new.csv', 256)]
SUDOKU += [(f'dream_sudoku_4x4_{n}.jsonl', 108) for n in range(4, 13)]


@pytest.mark.parametrize(('file', 'size'), SUDOKU)
def test_sudoku_files(shared_dir, file, size):
  rows = public.load('sudoku', shared_dir / 'data', file)
  assert len(rows) == size
  task = tasks.TASKS['sudoku']()
  assert all(task.score(r, task.demonstration(r)).correct for r in rows)
  unique = sum(len(tasks.sudoku.solve(row['puzzle'])) == 1 for row in rows)
  assert unique == (376 if file == '4x4_test_sudoku.csv' else size)


def test_default_files(shared_dir):
  assert len(public.load('countdown', shared_dir / 'data')) == 256
  assert len(public.load('sudoku', str(shared_dir / 'data'))) == 500


def test_problems_within_reach_of_some_operators(shared_dir):
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


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match='set data_dir to') as error:
    public.load('sudoku', tmp_path)
  assert str(tmp_path) in str(error.value)
  assert '4x4_test_sudoku.csv' in str(error.value)
  with pytest.raises(ValueError, match='chess'):
    public.load('chess', tmp_path)


GRID = '3142243142131324'


@pytest.mark.parametrize(
  ('task', 'file', 'text', 'reason'),
  [
    ('countdown', 'a.jsonl', '\n{"input": 3', ':2: not JSON'),
    ('countdown', 'a.jsonl', '[' * 100000, ':1: not JSON'),
    ('countdown', 'a.jsonl', '[1]', ":1: 'input' and 'output'"),
    ('countdown', 'a.jsonl', '{"input": 3, "output": "2"}', ':1: .*text'),
    ('countdown', 'a.jsonl', '{"input": "3,x", "output": "2"}', ':1: not a'),
    ('countdown', 'a.jsonl', '{"input": "3", "output": "2"}', ':1: expected'),
    ('countdown', 'a.jsonl', '{"input": "1,1", "output": "9"}', 'cannot'),
    ('sudoku', 'a.csv', 'A,B\n', ':1: the header'),
    ('sudoku', 'a.csv', '', ':1: the header'),
    ('sudoku', 'a.csv', 'Puzzle,Solution\n1\n', ':2: expected 2 fields'),
    ('sudoku', 'a.csv', f'Puzzle,Solution\n{GRID},11\n', ':2: not a solved'),
    ('sudoku', 'a.csv', f'Puzzle,Solution\n4{GRID[1:]},{GRID}\n', ':2: .*clue'),
    ('sudoku', 'a.jsonl', json.dumps({'input': GRID}), ':1: .*text'),
  ],
)
def test_malformed_rows(tmp_path, task, file, text, reason):
  _write(tmp_path, task, file, text)
  with pytest.raises(ValueError, match=reason) as error:
    public.load(task, tmp_path, file)
  assert file in str(error.value)
