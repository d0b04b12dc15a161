"""SciTLDR and SQuAD: prompts, and scores by hand."""

import importlib.util

import pytest

from dllm_jax import tasks
from dllm_jax.tasks import references, task
from tests import timing

SUMMARY = {
  'id': 'a',
  'text': 'We train cats. They sleep.',
  'references': ['cats are trained', 'a cat sleeps all day'],
}
QUESTION = {
  'id': 'b',
  'title': 'T',
  'context': 'The Eiffel Tower is in Paris.',
  'question': 'Where is it?',
  'references': ['Paris, France', 'in Paris'],
}


@pytest.fixture(params=['scitldr', 'squad'])
def named(request):
  row = {'scitldr': SUMMARY, 'squad': QUESTION}[request.param]
  return tasks.TASKS[request.param](), row


def test_the_demonstration_is_right(named):
  made, row = named
  assert isinstance(made, task.Task)
  assert made.demonstration(row) == f' {made.gold(row)}'
  found = made.score(row, made.demonstration(row))
  assert found.correct and set(found.terms.values()) == {1.0}
  assert not made.score(row, '').correct
  assert set(made.score(row, '').terms.values()) == {0.0}
  assert not made.reasoning_has_gold(row, made.demonstration(row))


def test_what_follows_the_first_line_does_not_count(named):
  made, row = named
  once = made.score(row, f'\n  {row["references"][1]} \nmore words\n')
  assert once.correct and once.parsed == row['references'][1]


def test_hostile_completions_take_no_time(named):
  made, row = named
  row = row | {'references': ['a b ' * 2000]}
  for text in ('a ' * 10**6, '\n' * 10**6, '\x00' * 10**5, '(' * 10**5):
    assert timing.seconds(lambda text=text: made.score(row, text)) < 3


def test_prompts():
  made = tasks.TASKS['scitldr']()
  assert made.prompt(SUMMARY) == 'We train cats. They sleep.\nTL;DR:'
  assert tasks.TASKS['squad']().prompt(QUESTION) == (
    'The Eiffel Tower is in Paris.\nQuestion: Where is it?\nAnswer:'
  )


def test_rouge_by_hand():
  """Stemmed: 'cat sleep' of 2 words, against 'cat are train' and 5 words."""
  found = tasks.TASKS['scitldr']().score(SUMMARY, 'cats sleep')
  assert found.terms == pytest.approx(
    {'rouge1': 4 / 7, 'rouge2': 2 * 1 / (1 + 4), 'rougeL': 4 / 7}
  )
  # Words in another order are no subsequence; 'cats are trained' would have
  # the larger ROUGE-L, but has the smaller ROUGE-1.
  found = tasks.TASKS['scitldr']().score(SUMMARY, 'sleeping cat')
  assert found.terms == pytest.approx(
    {'rouge1': 4 / 7, 'rouge2': 0.0, 'rougeL': 2 / 7}
  )


def test_the_package_of_rouge_is_asked_for(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r"pip install -e '\.\[rouge\]'"):
    tasks.TASKS['scitldr']()


@pytest.mark.parametrize(
  ('answer', 'exact', 'f1'),
  [
    ('paris france', 1, 1.0),
    ('In the PARIS!', 1, 1.0),  # articles and punctuation
    ('Paris', 0, 2 / 3),
    ('It is in Paris', 0, 2 * 2 / (4 + 2)),
    ('Paris Paris', 0, 2 * 1 / (2 + 2)),  # multisets
    ('the', 0, 0.0),
    ('Rome', 0, 0.0),
  ],
)
def test_squad_by_hand(answer, exact, f1):
  found = tasks.TASKS['squad']().score(QUESTION, answer)
  assert found.terms == pytest.approx({'exact': exact, 'f1': f1})
  assert found.correct == bool(exact)


def test_f1_of_nothing():
  assert references.word_f1('the', 'a') == 1.0
  assert references.word_f1('', 'b') == 0.0
