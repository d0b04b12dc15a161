import itertools

import pytest

from dllm_jax.data import pipeline
from dllm_jax.data import sudoku_builder as data
from dllm_jax.tasks import sudoku as task_lib

SMALL = data.Config(num_train=300, num_validation=60, num_test=60)


def test_deal_divides_all_grids_among_the_splits():
  dealt = data.deal(0)
  assert {s: len(g) for s, g in dealt.items()} == data.NUM_GRIDS
  assert set(itertools.chain(*dealt.values())) == set(task_lib.grids())
  assert data.deal(0) == dealt != data.deal(1)


def test_dig_empties_cells_in_order_down_to_num_clues():
  grid = '1234341221434321'
  # The first cell that is tried goes; nothing goes once the clues are few.
  assert data.dig(grid, [0, 1], 15) == '0' + grid[1:]
  assert data.dig(grid, [0, 1], 14) == '00' + grid[2:]
  assert data.dig(grid, [0, 1], 16) == grid


def test_built_puzzles_are_distinct_and_have_one_solution(tmp_path):
  builder = pipeline.build(data.Sudoku, SMALL, tmp_path)
  dealt = data.deal(0)
  clues = set()
  for split, size in (('train', 300), ('validation', 60), ('test', 60)):
    rows = list(pipeline.Source(builder, split))
    assert len(rows) == len({row['puzzle'] for row in rows}) == size
    for row in rows:
      task_lib.check(row['puzzle'], row['solution'])
      assert task_lib.solve(row['puzzle']) == (row['solution'],)
      assert row['solution'] in dealt[split]
      clues.add(16 - row['puzzle'].count('0'))
  assert max(clues) == 10 and min(clues) <= 5


def test_puzzles_depend_only_on_split_and_config():
  grids = data.deal(0)['test']
  first, second = (
    list(data.puzzles(grids, 30, 'test', SMALL)) for _ in range(2)
  )
  assert first == second
  assert first != list(data.puzzles(grids, 30, 'train', SMALL))


def test_asking_for_too_many_puzzles_raises():
  cfg = data.Config(min_clues=15, max_clues=15)
  grids = data.deal(0)['test'][:2]
  assert len(list(data.puzzles(grids, 20, 'test', cfg))) == 20
  with pytest.raises(ValueError, match='distinct'):
    list(data.puzzles(grids, 50, 'test', cfg))


def test_name_differs_for_every_config():
  configs = [
    data.Config(),
    data.Config(num_train=1),
    data.Config(num_test=1),
    data.Config(min_clues=5),
    data.Config(max_clues=11),
    data.Config(seed=1),
  ]
  assert len({config.name for config in configs}) == len(configs)


def test_min_clues_above_max_clues_raises():
  with pytest.raises(ValueError, match='clues'):
    data.Config(min_clues=11)
