"""Plain text: pieces of articles, their characters, and their verdicts."""

import pytest

from dllm_jax import tasks
from dllm_jax.tasks import task, text

TASK = text.Text(num_given=3, length=4)


def test_pieces_by_hand():
  assert isinstance(TASK, task.Cut) and isinstance(TASK, task.Task)
  rows = [{'id': 'a', 'text': 'abcdefghijkl'}, {'id': 'b', 'text': 'ABCDEFG'}]
  assert TASK.pieces(rows) == [
    {'id': 'a:3', 'prompt': 'abc', 'text': 'defg'},
    {'id': 'a:7', 'prompt': 'efg', 'text': 'hijk'},  # l is left
    {'id': 'b:3', 'prompt': 'ABC', 'text': 'DEFG'},
  ]
  assert TASK.pieces([{'id': 'c', 'text': 'ABCDEF'}]) == []


def test_every_character_is_a_label_once():
  article = ''.join(chr(ord('!') + i) for i in range(3 + 4 * 20))
  rows = TASK.pieces([{'id': 'a', 'text': article}])
  assert ''.join(map(TASK.demonstration, rows)) == article[3:]


def test_other_characters_are_spelled_in_ascii():
  given = 'Ŝtéfan – “naïve” ½ 東\n'
  found = text.ascii_of(given)
  assert found == 'Stefan - "naive" 1?2 ?\n'
  assert set(found) <= set(TASK.words())
  kept = text.Text(num_given=1, length=3, ascii_only=False)
  assert kept.pieces([{'id': 'a', 'text': 'ŝ–東x'}])[0]['text'] == '–東x'


def test_a_completion_is_judged_by_its_beginning():
  row = {'id': 'a', 'prompt': 'abc', 'text': 'defg'}
  score = TASK.score(row, 'dexg')
  assert (score.correct, score.metrics) == (False, {'prefix': 0.5})
  score = TASK.score(row, 'defg')
  assert (score.correct, score.metrics) == (True, {'prefix': 1.0})
  assert TASK.score(row, 'defgh').correct is False
  assert TASK.score(row, 'x' * 10**6).metrics == {'prefix': 0.0}


def test_by_name():
  assert tasks.TASKS['wikitext-2'](num_given=1, length=1).name == 'wikitext-2'
  with pytest.raises(ValueError, match='length 0 is not positive'):
    text.Text(num_given=1, length=0)
