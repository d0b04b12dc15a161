r"""Answers of MATH by their form; forms/math.jsonl has right and wrong ones."""

import gzip
import json
import pathlib

import pytest

from dllm_jax.tasks import claims, latex, mathematics, spelling
from tests import timing

TASK = mathematics.Mathematics()
PATH = pathlib.Path(__file__).parent / 'forms' / 'math.jsonl'
CASES = [json.loads(line) for line in PATH.read_text('utf-8').splitlines()]


@pytest.mark.parametrize('case', CASES, ids=lambda case: case['gold'])
def test_answers_count_by_their_value_in_every_form(case):
  answers = [case['gold'], *case['right'], *case['wrong']]
  scores = TASK.score_batch(
    [{'answer': case['gold']}] * len(answers),
    [f'<answer>\n{answer}\n</answer>' for answer in answers],
  )
  assert all(score.judged for score in scores)
  right = {a for a, s in zip(answers, scores, strict=True) if s.correct}
  assert {*case['right'], case['gold']} - right == set()
  assert right & set(case['wrong']) == set()


FORMS = [
  *('{}', '${}$.', '**{}**', '= {}', r'\[ {} \]', r'\mathbf{{{}}}', r'{}\,'),
  *(r'{}\quad', r'\boxed{{{}}}', 'Answer: {}', r'{{\large {}}}', '{},'),
]


def test_gold_answers_equal_themselves_in_every_form(shared_dir):
  folder = shared_dir / 'data' / 'math'
  with gzip.open(folder / 'math_train7500.jsonl.gz', 'rt') as lines:
    golds = [json.loads(line)['answer'] for line in lines]
  lines = (folder / 'math500_test.jsonl').read_text().splitlines()
  golds += [json.loads(line)['answer'] for line in lines]
  lines = (folder / 'math_test5000.jsonl').read_text().splitlines()
  golds += [latex.last_boxed(json.loads(line)['solution']) for line in lines]
  golds = [gold for gold in golds if gold]
  assert len(golds) > 12_000
  for i, gold in enumerate(golds):
    for form in {'{}', FORMS[i % len(FORMS)]}:
      pairs = claims.pairs(form.format(gold), gold)
      assert pairs and all(a == b for a, b in pairs), (gold, form)


@pytest.mark.parametrize(
  'part',
  [
    *(
      '*',
      '`',
      '$',
      r'\(',
      '{',
      '=',
      'answer: ',
      r'\sqrt(',
      '1 ',
      '1/2 ',
      '\u00bd',
    ),
    *(
      r'\text{a}',
      r'5\text{ cm}',
      ' or ',
      ',',
      r'\ldots,',
      '\u00b2',
      '^{',
      'a.m.',
    ),
    *(
      ' cm',
      '/m',
      r'\,',
      r'1\,000',
      'x=',
      '/',
      '^2',
      '. ',
      r'\color{a}',
      r'\\',
    ),
  ],
)
def test_time_is_bounded(part):
  text = part * (2000 // len(part))

  def read():
    spelling.plain(text)
    claims.pairs(text, '5')
    claims.pairs('5' + text, r'5\text{ cm}')

  # 0.5 at most on a slow core; patterns that backtrack would take far longer.
  assert timing.seconds(read) < 1.5


def test_a_plain_text_is_plain():
  for case in CASES:
    for text in (case['gold'], *case['right'], *case['wrong']):
      once = spelling.plain(text)
      assert spelling.plain(once) == once
