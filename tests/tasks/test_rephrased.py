"""Questions under several instructions: what they say, and what they keep."""

import re

import pytest

from dllm_jax import tasks
from dllm_jax.data import benchmarks
from dllm_jax.tasks import rephrased, tags, task
from dllm_jax.text import tokenizer

NAMES = ('gsm8k', 'openbookqa', 'aqua')
CHOICE = {
  'id': 'b',
  'question': 'Which {one} is {0} even?',
  'reasoning': 'Two halves of 4 are equal. (B)',
  'options': ['3', '4', '5', 'none'],
  'answer': 'B',
}
ROWS = {
  'gsm8k': {
    'id': 'a',
    'question': 'How many are 30 {times} 36?',
    'reasoning': '30 * 36 = 1080',
    'answer': '1,080',
  },
  'openbookqa': CHOICE,
  'aqua': CHOICE,
}


def make(name):
  return tasks.TASKS[f'{name}_phrasings'](), tasks.TASKS[name](), ROWS[name]


@pytest.mark.parametrize('name', NAMES)
def test_is_the_wrapped_task_but_for_the_prompt(name):
  found, wrapped, row = make(name)
  assert isinstance(found, task.Task) and isinstance(found, task.Paraphrased)
  assert not isinstance(found, task.RowSource)
  assert found.name == wrapped.name == name and name in benchmarks.SPLITS
  hash(found)  # static under jit
  text = wrapped.demonstration(row)
  for view in found.views(row) + found.unseen_views(row):
    assert found.demonstration(view) == text
    assert found.gold(view) == wrapped.gold(row)
    for completion in (text, text.replace(wrapped.gold(row), '7'), ''):
      assert found.score(view, completion) == wrapped.score(row, completion)
      assert found.reasoning_has_gold(
        view, completion
      ) == wrapped.reasoning_has_gold(row, completion)
  assert found.score(row, text).correct


@pytest.mark.parametrize('name', NAMES)
def test_views(name):
  found, _, row = make(name)
  views, unseen = found.views(row), found.unseen_views(row)
  assert [view['view'] for view in views + unseen] == list(range(12))
  assert (len(views), len(unseen)) == (8, 4)
  for view in views + unseen:
    assert {k: v for k, v in view.items() if k != 'view'} == row
  assert found.views(unseen[0]) == views
  assert found.prompt(row) == found.prompt(views[0])
  assert len({found.prompt(view) for view in views + unseen}) == 12


@pytest.mark.parametrize('name', NAMES)
def test_every_prompt_has_the_question_and_the_format(name):
  found, _, row = make(name)
  question = row['question']
  if 'options' in row:
    question += '\nA) 3\nB) 4\nC) 5\nD) none'
  answer = 'number' if name == 'gsm8k' else 'letter'
  for view in found.views(row) + found.unseen_views(row):
    prompt = found.prompt(view)
    assert prompt.count(question) == 1 and prompt.endswith('\n')
    tagged = re.findall('</?[a-z]+>', prompt)
    assert tagged == ['<reasoning>', '</reasoning>', '<answer>', '</answer>']
    words = prompt.replace(question, '')
    assert 'step' in words.lower() and answer in words
    assert words.count(answer) == 1


def test_instructions_differ_in_their_words():
  texts = [t.format(question='', answer='') for t in rephrased._ALL]
  sets = [set(re.findall('[a-z]+', text.lower())) for text in texts]
  for i, one in enumerate(sets):
    for other in sets[:i]:
      assert len(one & other) < 0.6 * len(one | other)
  places = [text.index('{question}') / len(text) for text in rephrased._ALL]
  assert min(places) == 0 and max(places) > 0.9


@pytest.mark.parametrize('name', NAMES)
def test_lexicon(name):
  found, wrapped, row = make(name)
  words = found.words()
  assert len(set(words)) == len(words) and set(tags.lexicon()) <= set(words)
  assert not any('{' in word and len(word) > 1 for word in words)
  t = tokenizer.Tokenizer.from_words(words)
  for view in found.views(row) + found.unseen_views(row):
    for text in (found.prompt(view), found.demonstration(view)):
      ids = t.encode(text)
      assert t.decode(ids) == text
    # The words of an instruction are no single characters.
    assert len(t.encode(found.prompt(view))) < 0.5 * len(found.prompt(view))


def test_unknown_task():
  with pytest.raises(ValueError, match='name must be one of gsm8k, openbook'):
    rephrased.Rephrased(name='math')
