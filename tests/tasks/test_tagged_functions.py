"""Tagged functions: chains of permutations, their splits and their verifier."""

import pytest

from dllm_jax import errors
from dllm_jax.tasks import tagged_functions, task

TASK = tagged_functions.TaggedFunctions(
  num_tags=3, num_symbols=10, num_given=2, length=4
)


def test_functions_are_permutations_of_one_cycle_and_differ():
  made = tagged_functions.functions(3, 10)
  assert len(set(made)) == 3
  for after in made:
    x, seen = 0, []
    for _ in range(10):
      seen.append(x)
      x = after[x]
    assert x == 0 and sorted(seen) == list(range(10))


def test_rows_follow_their_function():
  rows = TASK.rows('train')
  assert isinstance(TASK, task.RowSource) and isinstance(TASK, task.Labelled)
  for i in (0, 5, -1):
    row = rows[i]
    after = tagged_functions.functions(3, 10)[TASK.label(row)]
    x = row['symbols'][-1]
    for y in row['chain']:
      assert y == after[x]
      x = y
    text = TASK.prompt(row)
    assert text[0] == 'ABC'[row['tag']] and len(text) == 3
    assert TASK.demonstration(row) == TASK.gold(row) and len(row['chain']) == 4
    assert set(text + TASK.gold(row)) <= set(TASK.words())
  assert rows[7] == TASK.rows('train')[7]


def test_no_prompt_is_in_two_splits():
  prompts = {
    split: {TASK.prompt(TASK.rows(split)[i]) for i in range(200)}
    for split in ('train', 'validation', 'test')
  }
  assert not prompts['train'] & prompts['test']
  assert not prompts['train'] & prompts['validation']
  assert not prompts['validation'] & prompts['test']


def test_scores_by_hand():
  row = {'id': 'x', 'tag': 0, 'symbols': [0, 1], 'chain': [0, 1, 2, 3]}
  assert TASK.score(row, 'abcd').correct
  half = TASK.score(row, 'abdc')
  assert (half.correct, half.metrics) == (False, {'symbols': 0.5})
  assert half.terms == {'solution': 0.0}
  assert not TASK.score(row, 'abcde').correct
  assert TASK.score(row, '').metrics == {'symbols': 0.0}


def test_wrong_fields_and_splits_are_one_line():
  with pytest.raises(ValueError, match=r'length 10 is not in 1..9'):
    tagged_functions.TaggedFunctions(
      num_tags=3, num_symbols=10, num_given=2, length=10
    )
  with pytest.raises(errors.UserError, match="no split 'dev'"):
    TASK.rows('dev')
