"""Problems of one's own: each verifier by name, and Python functions."""

import sys

import pytest

from dllm_jax import errors
from dllm_jax.data import own_rows
from dllm_jax.tasks import rows, tags, task
from tests import tiny_rows


def row(place, of, **record):
  """A row as it is read from a file."""
  file = tiny_rows.write(
    place / 'own.jsonl', [record, {**record, 'prompt': 'other'}]
  )
  files = own_rows.Files(train=str(file), test='', held_out=0.5)
  found = own_rows.load(of, files)
  return min(found['train'] + found['test'], key=lambda row: row['id'])


def answer(text):
  return tags.completion_text('so', text)


@pytest.mark.parametrize(
  ('verifier', 'gold', 'right', 'wrong'),
  [
    ('exact', 'Paris', ' Paris\n', 'paris'),
    ('exact', 7, '7', '7.0'),
    ('number', 1080, '$1,080', '1081'),
    ('number', '1,080', '1080 apples', '1080 or 1081'),
    ('math', r'\frac{1}{2}', r'\boxed{0.5}', r'\boxed{0.6}'),
  ],
)
def test_verifiers_by_name(tmp_path, verifier, gold, right, wrong):
  made = rows.make_task(verifier=verifier)
  assert isinstance(made, task.Task) and isinstance(made, task.BatchScorer)
  own = row(tmp_path, made, prompt='p?', answer=gold)
  assert 'p?' in made.prompt(own) and '<answer>' in made.prompt(own)
  good, bad, bare = made.score_batch(
    [own] * 3, [answer(right), answer(wrong), right]
  )
  assert (good.correct, bad.correct, bare.correct) == (True, False, False)
  assert good.terms == {'verified': 1.0} | tags.terms(answer(right))
  assert bad.terms['verified'] == bare.terms['verified'] == 0.0
  shown = made.demonstration(own)
  assert made.score(own, shown).correct and made.gold(own) in shown
  leaked = tags.completion_text(made.gold(own), 'x')
  assert made.reasoning_has_gold(own, leaked)
  assert not made.reasoning_has_gold(own, answer(right))


def test_terse_prompts_are_the_rows_own(tmp_path):
  for verifier in ('exact', 'number', 'math'):
    made = rows.make_task(verifier=verifier, prompt_style='terse')
    own = row(tmp_path, made, prompt='p?', answer='3', completion='told')
    assert made.prompt(own) == 'p?\n' and made.demonstration(own) == 'told'
  with pytest.raises(ValueError, match='terse or d1'):
    rows.make_task(verifier='exact', prompt_style='loud')


def test_code_is_run_by_the_judge_of_code(tmp_path, monkeypatch):
  made = rows.make_task(verifier='code')
  own = row(tmp_path, made, prompt='p', test='assert f() == 1', answer='F')
  seen = []

  def score_batch(self, of, texts):
    seen.append((of[0]['test'], of[0]['solution'], *texts))
    verdict = task.Score({'tests': 0.5}, False, {}, reason='assertion')
    return [verdict, verdict._replace(judged=False, reason='sandbox')]

  monkeypatch.setattr(type(made.judge), 'score_batch', score_batch)
  bad, unknown = made.score_batch([own] * 2, ['a', 'b'])
  assert seen == [('assert f() == 1', 'F', 'a', 'b')]
  assert bad.terms['verified'] == 0.0 and bad.reason == 'assertion'
  assert unknown.terms['verified'] != unknown.terms['verified']  # nan
  assert not unknown.judged


@pytest.fixture
def module(tmp_path, monkeypatch):
  """Writes `own_module.py` into the working directory."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  rows.find_function.cache_clear()

  def write(text):
    sys.modules.pop('own_module', None)
    (tmp_path / 'own_module.py').write_text(text)

  yield write
  sys.modules.pop('own_module', None)
  rows.find_function.cache_clear()


def test_a_function_gets_the_text_and_the_row_of_the_file(module, tmp_path):
  module(
    'def judge(text, row):\n'
    '  return row["weight"] * text.count("x") / row["id"]\n'
  )
  made = rows.make_task(verifier='own_module:judge')
  own = row(tmp_path, made, prompt='p', weight=3, id=4)
  assert not made.has_answer(own)
  half, whole = made.score_batch([own] * 2, ['x', 'x' + answer('x')])
  assert half.terms == {'verified': 0.75} | tags.terms('x')
  assert (half.correct, half.parsed) == (False, None)
  assert (whole.terms['verified'], whole.correct) == (1.5, True)
  assert whole.parsed == 'x'
  assert not made.reasoning_has_gold(own, answer('x'))


def test_a_function_that_fails_judges_nothing(module, tmp_path):
  module(
    'def judge(text, row):\n'
    '  return {"none": None, "nan": float("nan")}.get(text, 1 / len(text))\n'
  )
  made = rows.make_task(verifier='own_module:judge')
  own = row(tmp_path, made, prompt='p', answer='a')
  failed = made.score(own, '')
  assert not failed.judged and not failed.correct
  assert failed.reason == 'ZeroDivisionError: division by zero'
  for text, shown in (('none', 'None'), ('nan', 'nan')):
    with pytest.raises(errors.UserError) as caught:
      made.score(own, text)
    line = f'own_module:judge returned {shown} for row {tmp_path}/own.jsonl:1'
    assert line in str(caught.value)


@pytest.mark.parametrize(
  ('verifier', 'text', 'line'),
  [
    ('numbers', '', 'expected one of exact, number, math, code, or module:'),
    ('own_module:absent', 'x = 1', "own_module has no function 'absent'"),
    ('own_module:x', 'x = 1', "own_module has no function 'x'"),
    ('own_module:f', 'f = 1 / 0', 'ZeroDivisionError'),
    ('own_module:f', 'f = (', 'SyntaxError'),
    ('no_such_module:f', '', 'ModuleNotFoundError'),
    (':f', '', 'cannot import'),
  ],
)
def test_verifiers_that_are_not_there(module, verifier, text, line):
  module(text)
  with pytest.raises(ValueError, match=line) as caught:
    rows.make_task(verifier=verifier)
  assert '\n' not in str(caught.value)


def test_conversations_have_no_verdict():
  made = rows.make_task()
  assert isinstance(made, task.Task) and isinstance(made, task.OpenEnded)
  own = {'id': 'a', 'messages': tiny_rows.messages('user: a', 'assistant: b')}
  assert (made.prompt(own), made.demonstration(own)) == ('a', 'b')
  assert not made.score(own, 'b').judged and made.words() == ()
