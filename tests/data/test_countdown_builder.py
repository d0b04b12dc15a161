import collections
import itertools

import pytest

from dllm_jax.data import countdown_builder as data
from dllm_jax.data import pipeline
from dllm_jax.tasks import arithmetic
from dllm_jax.tasks import countdown as task_lib

SMALL = task_lib.Countdown(count=3, max_number=6, max_target=18)


def _rows(task, **fields):
  return list(data.problems(data.Config(task=task, **fields)))


def test_problems_are_all_that_brute_force_finds():
  rows = {}
  for _, row in _rows(SMALL):
    rows[tuple(sorted(row['numbers'])), row['target']] = row
  expected = {}
  for numbers in itertools.combinations_with_replacement(range(1, 7), 3):
    for target, texts in arithmetic.expressions(numbers, '+-').items():
      if 1 <= target <= 18:
        expected[numbers, target] = texts
  assert rows.keys() == expected.keys()
  for problem, row in rows.items():
    assert row['num_solutions'] == len(expected[problem])
    assert row['solution'] in expected[problem]


@pytest.mark.parametrize(
  'task', [SMALL, task_lib.Countdown(count=3, max_number=5, operators='+-*/')]
)
def test_solutions_have_positive_steps_and_score_correct(task):
  words = set(task.words())
  for _, row in _rows(task):
    steps = arithmetic.evaluate(row['solution']).steps
    assert all(step.value > 0 for step in steps)
    assert all(f' {step.value}' in words for step in steps)
    assert task.score(row, task.demonstration(row)).correct


def test_solutions_are_drawn_uniformly():
  # 1 + 2 + 3 in any of six orders, and so for all with three numbers.
  ranks = collections.Counter()
  for _, row in _rows(task_lib.Countdown(count=3, max_number=14)):
    numbers = sorted(row['numbers'])
    if len(set(numbers)) == 3 and row['target'] == sum(numbers):
      order = arithmetic.evaluate(row['solution']).numbers
      ranks[tuple(numbers.index(n) for n in order)] += 1
  total = sum(ranks.values())
  assert total == 364 and len(ranks) == 6
  four_sigma = 4 * (total * 5 / 36) ** 0.5
  assert all(abs(n - total / 6) < four_sigma for n in ranks.values())


def test_row_depends_only_on_its_problem_and_seed():
  every = {row['id']: (split, row) for split, row in _rows(SMALL)}
  some = _rows(SMALL, max_multisets=20)
  assert 0 < len(some) < len(every)
  assert all(every[row['id']] == (split, row) for split, row in some)
  assert _rows(SMALL) == _rows(SMALL)
  assert _rows(SMALL) != _rows(SMALL, seed=1)


def test_splits_share_no_problem_and_have_the_stated_sizes():
  where = {}
  for split, row in _rows(task_lib.Countdown(count=3, max_number=20)):
    key = tuple(sorted(row['numbers'])), row['target']
    assert where.setdefault(key, split) == split
    assert data.split_of(row['numbers'][::-1], row['target'], 0) == split
  shares = collections.Counter(where.values())
  assert shares['test'] / len(where) == pytest.approx(0.05, abs=0.01)
  assert shares['validation'] / len(where) == pytest.approx(0.05, abs=0.01)


def test_name_differs_exactly_where_the_data_differ():
  variants = [
    {},
    {'count': 3},
    {'max_number': 10},
    {'operators': '+-*'},
    {'max_target': 50},
  ]
  names = {data.Config(task=task_lib.Countdown(**v)).name for v in variants}
  names.add(data.Config(task=task_lib.Countdown(), seed=1).name)
  names.add(data.Config(task=task_lib.Countdown(), max_multisets=5).name)
  assert len(names) == 7
  # What does not change the data does not change the name.
  same = task_lib.Countdown(operators='-+', prompt_style='d1')
  assert data.config(same).name == data.config(task_lib.Countdown()).name


def test_built_rows_equal_the_generated_problems(tmp_path):
  builder = pipeline.prepare(SMALL, tmp_path)
  for split in data.SPLITS:
    expected = [row for s, row in _rows(SMALL) if s == split]
    assert list(pipeline.Source(builder, split)) == expected


def test_negative_max_multisets_raises():
  with pytest.raises(ValueError, match='max_multisets'):
    data.Config(task=SMALL, max_multisets=-1)


def test_empty_split_raises(tmp_path):
  tiny = task_lib.Countdown(count=2, max_number=2, max_target=3)
  with pytest.raises(ValueError, match='too few problems: none in'):
    pipeline.prepare(tiny, tmp_path)
