"""Instructions with paraphrases, without right answers."""

import pytest

from dllm_jax import tasks
from dllm_jax.tasks import paraphrases, task

ROW = {
  'id': 'a',
  'prompt': 'Name two fruits.',
  'paraphrases': ['Tell me two fruits.', 'Which two fruits?', 'Fruits: two.'],
}


def test_a_row_is_asked_under_every_phrasing_once():
  own = tasks.TASKS['paraphrases'](num_unseen=1)
  seen, unseen = own.views(ROW), own.unseen_views(ROW)
  texts = [own.prompt(view) for view in seen + unseen]
  assert texts == [ROW['prompt'], *ROW['paraphrases']]
  assert [view['view'] for view in seen + unseen] == [0, 1, 2, 3]
  assert len(unseen) == 1 and own.prompt(ROW) == ROW['prompt']


@pytest.mark.parametrize(
  ('num_unseen', 'seen'), [(0, 4), (2, 2), (4, 0), (9, 0)]
)
def test_the_last_paraphrases_are_kept_for_evaluation(num_unseen, seen):
  own = paraphrases.Paraphrases(num_unseen=num_unseen)
  assert len(own.views(ROW)) == seen
  assert len(own.unseen_views(ROW)) == 4 - seen


def test_nothing_is_judged():
  own = paraphrases.Paraphrases()
  assert isinstance(own, task.OpenEnded) and isinstance(own, task.Paraphrased)
  score = own.score(ROW, 'apple and pear')
  assert not score.judged and not score.terms and score.parsed is None
  assert not own.reasoning_has_gold(ROW, 'apple')
  for name in ('countdown', 'gsm8k', 'phrasings', 'humaneval'):
    assert not isinstance(tasks.TASKS[name](), task.OpenEnded)


@pytest.mark.parametrize(
  ('texts', 'why'),
  [
    (['Add 2 and 3.', 'What is 2 + 3?'], ''),
    (['Add 1,000 to 5.', 'Sum 5, 1000'], ''),
    (['Add 2 and 3.', 'What is 2 + 4?'], 'the number 3 is not in all of them'),
    (['Write a tagline.', 'Some taglines, please.'], ''),
    (['Do it.', 'Write a slogan.'], ''),  # no long word to compare
    (
      ['Sparkling water, always.', 'Write a slogan.', 'A slogan, please.'],
      'phrasing 0 shares no word with the others',
    ),
    (['Name it.'], ''),
  ],
)
def test_doubtful_sets_by_hand(texts, why):
  assert paraphrases.doubt(texts) == why
