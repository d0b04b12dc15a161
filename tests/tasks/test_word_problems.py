"""Word problems: what the templates make, held-out rows, and the verdict."""

import collections
import operator
import re
import string
from fractions import Fraction

import hypothesis
import pytest
from hypothesis import strategies as st

from dllm_jax import errors, tasks
from dllm_jax.eval import accuracy
from dllm_jax.tasks import problem_templates, tags, task, word_problems
from dllm_jax.text import tokenizer
from tests import timing

TASK = word_problems.WordProblems()
ROW = {
  'id': 'a',
  'question': 'Mia has 12 apples. She buys 3 bags with 4 apples each and gives '
  '5 apples to Tom. How many apples does Mia have now?',
  'reasoning': '3 * 4 = 12 apples are in the bags.\n12 + 12 = 24 apples in '
  'all.\n24 - 5 = 19 apples are left.',
  'answer': 19,
}
GOOD = ROW['reasoning'] + '\n#### 19'
OPERATIONS = {
  '+': operator.add,
  '-': operator.sub,
  '*': operator.mul,
  '/': Fraction,
}


def pattern(question):
  """Matches the questions of a template; the groups are their numbers."""
  parts = []
  for text, field, _, _ in string.Formatter().parse(question):
    parts.append(re.escape(text))
    if field:
      parts.append('([0-9]+)' if len(field) == 1 else '[A-Za-z]+')
  return re.compile(''.join(parts))


PATTERNS = [pattern(t.question) for t in problem_templates.TEMPLATES]


def problem(row):
  """(index of the template, numbers) of a row: it without its words."""
  found = [p.fullmatch(row['question']) for p in PATTERNS]
  [index] = [i for i, match in enumerate(found) if match]
  return index, tuple(map(int, found[index].groups()))


@pytest.fixture(scope='module')
def rows():
  """All rows, by split."""
  return {split: list(TASK.rows(split)) for split in word_problems.NUM_ROWS}


@pytest.fixture(scope='module')
def problems(rows):
  return {split: [problem(row) for row in rows[split]] for split in rows}


def test_is_a_task():
  found = tasks.TASKS['word_problems']()
  assert isinstance(found, task.Task) and isinstance(found, task.RowSource)
  assert found == TASK and found.name == 'word_problems'
  assert not isinstance(TASK, task.BatchScorer)


def test_texts():
  assert TASK.prompt(ROW) == ROW['question'] + '\n'
  assert TASK.demonstration(ROW) == GOOD
  assert TASK.gold(ROW) == '19'


def test_every_template_makes_its_share_of_each_split(problems):
  assert len(problem_templates.TEMPLATES) == 20
  for split, found in problems.items():
    assert len(found) == word_problems.NUM_ROWS[split]
    counts = collections.Counter(index for index, _ in found)
    assert min(counts[i] for i in range(20)) > 0.6 * len(found) / 20


def test_every_demonstration_is_right(rows, problems):
  for split in rows:
    for row, (_, numbers) in zip(rows[split], problems[split], strict=True):
      *lines, last = TASK.demonstration(row).split('\n')
      known = set(numbers)
      if re.search('twice|half|same way home', row['question']):
        known.add(2)
      unused = set(numbers)
      for line in lines:
        left, sign, right, equals, result, *words = line.split()
        assert equals == '=' and words and words[-1].endswith('.')
        left, right, value = int(left), int(right), int(result)
        assert OPERATIONS[sign](left, right) == value, line
        assert {left, right} <= known and 2 <= value <= 200
        known.add(value)
        unused -= {left, right}
      assert 2 <= len(lines) <= 3 and not unused and min(numbers) >= 2
      assert last == f'#### {value}' and row['answer'] == value


def test_demonstrations_earn_everything(rows):
  for row in rows['train'][:2000] + rows['test']:
    text = TASK.demonstration(row)
    found = TASK.score(row, text)
    assert found.correct and found.parsed == TASK.gold(row)
    assert found.terms == {'solution': 1.0}
    assert found.metrics == {'has_answer': 1.0, 'equations_right': 1.0}
    assert TASK.reasoning_has_gold(row, text)


def test_held_out_problems_are_no_training_problems(rows, problems):
  splits = {split: set(found) for split, found in problems.items()}
  texts = {s: {TASK.prompt(row) for row in rows[s]} for s in rows}
  for a, b in [('train', 'validation'), ('train', 'test')]:
    assert not splits[a] & splits[b] and not texts[a] & texts[b]
  assert not splits['validation'] & splits['test']
  # Few problems are in a split twice.
  for split, found in texts.items():
    assert len(found) > 0.99 * len(rows[split])


def test_a_row_depends_on_its_split_and_index_alone(rows):
  for split, found in rows.items():
    fresh = TASK.rows(split)
    size = len(fresh)
    assert size == len(found)
    assert [fresh[i] for i in (size - 1, 7, 0, 7)] == [
      found[i] for i in (-1, 7, 0, 7)
    ]
    assert fresh[-1] == found[-1]
    with pytest.raises(IndexError):
      fresh[size]
  ids = [row['id'] for found in rows.values() for row in found]
  assert len(set(ids)) == len(ids) == 22_000
  assert rows['train'][0] != {**rows['test'][0], 'id': 'train-0'}


def test_unknown_split():
  with pytest.raises(
    errors.UserError,
    match="'word_problems' has no split 'dev': expected one of train, valid",
  ):
    TASK.rows('dev')


def test_lexicon(rows):
  words = TASK.words()
  assert len(set(words)) == len(words) < 430
  # Numbers are spelled digit by digit.
  assert all(re.fullmatch(' ?[0-9]', w) for w in words if re.search('[0-9]', w))
  t = tokenizer.Tokenizer.from_words(words)
  some = rows['train'][:4000] + rows['validation'] + rows['test']
  lengths = {}
  for name in ('prompt', 'demonstration', 'gold'):
    texts = [getattr(TASK, name)(row) for row in some]
    ids = t.encode_batch(texts)
    assert t.decode_batch(ids) == texts
    lengths[name] = sum(map(len, ids)) / len(ids), max(map(len, ids))
  assert 30 < lengths['prompt'][0] < 40 and lengths['prompt'][1] <= 48
  assert 35 < lengths['demonstration'][0] < 45
  assert lengths['demonstration'][1] <= 60


@pytest.mark.parametrize(
  ('completion', 'parsed', 'correct'),
  [
    (GOOD, '19', True),
    ('#### 19', '19', True),
    (GOOD + '\n', '19', True),
    (GOOD + ' \nmore #### text\n5', None, False),
    ('#### 19\nSo it is 19.', '19', True),
    ('#### 18\n#### 19', '19', True),
    ('#### 19\n#### 18', '18', False),
    ('#### 19\n#### ', None, False),
    (GOOD.replace('#### 19', '#### 91'), '91', False),
    ('#### 190', '190', False),
    ('#### 1', '1', False),
    ('#### 019', '019', False),
    ('#### -19', None, False),
    ('#### +19', None, False),
    ('#### 19.0', None, False),
    ('#### 19.', None, False),
    ('#### 19 apples', None, False),
    ('#### 19 18', None, False),
    ('#### 1 9', None, False),
    ('#### 1,9', None, False),
    ('#### 20 - 1', None, False),
    ('#### 38/2', None, False),
    ('#### nineteen', None, False),
    ('#### \n19', None, False),
    ('####19', None, False),
    ('### 19', None, False),
    ('19', None, False),
    (ROW['reasoning'], None, False),
    ('#### 1٩', None, False),
    ('#### １９', None, False),
    ('#### 19²', None, False),
    ('#### 19\0', None, False),
    ('', None, False),
  ],
)
def test_answers(completion, parsed, correct):
  found = TASK.score(ROW, completion)
  assert (found.parsed, found.correct) == (parsed, correct)
  assert found.terms == {'solution': float(correct)}
  assert found.metrics['has_answer'] == float(parsed is not None)


def test_near_answers_are_wrong(rows):
  for row in rows['test'][:200]:
    text = TASK.demonstration(row)
    start = text.index('#### ')
    for answer in (row['answer'] + 1, row['answer'] - 1, 10 * row['answer']):
      assert not TASK.score(row, f'{text[:start]}#### {answer}').correct


@pytest.mark.parametrize(
  ('completion', 'share'),
  [
    (GOOD, 1),
    (GOOD.replace('= 24', '= 25'), 2 / 3),
    ('3 * 4 = 12 apples\n12 + 12 = 23 apples\n#### 19', 1 / 2),
    ('42 / 6 = 7', 1),
    ('43 / 6 = 7', 0),
    ('7 / 0 = 0', 0),
    ('0 / 7 = 0', 1),
    ('3 - 5 = 2', 0),
    ('3*4=12', 0),
    ('999999 + 1 = 1000000', 0),  # too long to be read
    ('1000000 + 1 = 1000001', 0),
    ('9 ** 9 = 9', 0),
    ('٣ + 4 = 7', 0),
    ('#### 19', 0),
    ('', 0),
  ],
)
def test_equations(completion, share):
  metrics = TASK.score(ROW, completion).metrics
  assert metrics['equations_right'] == pytest.approx(share)


def test_leakage_monitor():
  assert TASK.reasoning_has_gold(ROW, GOOD)
  assert TASK.reasoning_has_gold(ROW, '19')
  assert not TASK.reasoning_has_gold(ROW, '#### 19')
  assert not TASK.reasoning_has_gold(ROW, GOOD.replace('= 19', '= 190'))
  assert not TASK.reasoning_has_gold(ROW, GOOD.replace('= 19', '= 119'))


def test_names_are_not_reserved():
  found = TASK.score(ROW, GOOD)
  assert not accuracy.RESERVED & (found.terms.keys() | found.metrics.keys())


HOSTILE = [
  '9' * 10**6,
  '#### ' * 2 * 10**5,
  '#### ' + '9' * 10**6,
  '#### 19' + ' ' * 10**6,
  '#### ' + '\n' * 10**6,
  '#' * 10**6,
  ' ' * 10**6,
  '1 ' * 10**6,
  '1 + 1 = ' * 10**5,
  '1 + 1 = 2 ' * 10**5,
  '9**9**9**9 #### 9**9**9**9',
  "#### __import__('os').system('true')",
  '#### ' + '(' * 10**5,
  '#### 19\ud800',
]


@pytest.mark.parametrize('case', range(len(HOSTILE)))
def test_hostile_completions(case):
  text = HOSTILE[case]
  found = TASK.score(ROW, text)
  assert not found.correct and found.parsed is None
  assert timing.seconds(lambda: TASK.score(ROW, text)) < 0.02
  assert timing.seconds(lambda: TASK.reasoning_has_gold(ROW, text)) < 0.02


def test_only_the_end_of_a_long_completion_is_read():
  text = 'x' * 10**6 + '\n' + GOOD
  assert TASK.score(ROW, text).correct
  room = tags.MAX_CHARS - len('#### 19\n')
  assert TASK.score(ROW, '#### 19\n' + 'x' * room).correct
  assert not TASK.score(ROW, '#### 19\n' + 'x' * (room + 1)).correct


@hypothesis.given(st.text(alphabet='#19 0+-*/=\n.²٣', max_size=60))
def test_any_text_gets_a_verdict(text):
  found = TASK.score(ROW, text)
  assert 0 <= found.metrics['equations_right'] <= 1
  assert found.correct == (found.parsed == '19')
