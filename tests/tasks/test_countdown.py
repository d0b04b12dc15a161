import gzip
import json

import pytest

from dllm_jax import tasks
from dllm_jax.tasks import countdown, tags, task
from dllm_jax.text import tokenizer
from tests import timing

ROW = {
  'id': 'a',
  'numbers': [12, 5, 3, 6],
  'target': 20,
  'solution': '12 + 5 - 3 + 6',
  'num_solutions': 1,
}
VALUES = (
  '<reasoning>\n 17 14 20\n</reasoning>\n<answer>\n 12 + 5 - 3 + 6\n</answer>'
)
EQUATIONS = VALUES.replace(
  ' 17 14 20', ' 12 + 5 = 17\n 17 - 3 = 14\n 14 + 6 = 20'
)


def _row(numbers, target):
  return {**ROW, 'numbers': numbers, 'target': target}


def test_is_a_task():
  assert isinstance(tasks.TASKS['countdown'](), task.Task)
  assert countdown.Countdown.name == 'countdown'


@pytest.mark.parametrize(
  ('reasoning', 'expected'),
  [('values', VALUES), ('equations', EQUATIONS)],
)
def test_demonstration(reasoning, expected):
  cd = countdown.Countdown(reasoning=reasoning)
  assert cd.demonstration(ROW) == expected
  assert cd.gold(ROW) in expected
  score = cd.score(ROW, expected)
  assert score.correct and score.terms['solution'] == 1
  assert score.metrics['reasoning_right'] == 1


def test_terse_prompt():
  assert countdown.Countdown().prompt(ROW) == ' 12 5 3 6 = 20\n'


@pytest.mark.parametrize('style', ['terse', 'd1'])
@pytest.mark.parametrize('reasoning', ['values', 'equations'])
@pytest.mark.parametrize('operators', ['+-', '+-*/'])
def test_words_cover_prompts_and_demonstrations(style, reasoning, operators):
  cd = countdown.Countdown(
    prompt_style=style, reasoning=reasoning, operators=operators
  )
  words = cd.words()
  assert len(set(words)) == len(words)
  t = tokenizer.Tokenizer.from_words(words)
  for text in (cd.prompt(ROW), cd.demonstration(ROW), cd.gold(ROW)):
    assert t.decode(t.encode(text)) == text
  if style == 'terse':
    assert len(t.encode(cd.prompt(ROW))) == 7
    assert (' (' in words) == (operators == '+-*/')


def test_lexicon_of_the_default():
  words = countdown.Countdown().words()
  assert ' 80' in words and ' 81' not in words
  assert len(words) == 4 + 2 + 2 + 81


def test_score_terms():
  cd = countdown.Countdown()
  right = cd.score(ROW, VALUES)
  assert right.terms == {
    'solution': 1.0,
    'valid': 1.0,
    'xmlcount': 0.5,
    'soft_format': 0.5,
    'strict_format': 0.5,
  }
  wrong = cd.score(ROW, VALUES.replace('- 3', '+ 3'))
  assert not wrong.correct
  assert (wrong.terms['solution'], wrong.terms['valid']) == (0.1, 1.0)
  assert wrong.metrics == {
    'valid': 1.0,
    'has_answer': 1.0,
    'reasoning_right': 0.0,
  }
  missing = cd.score(ROW, ' 12 + 5 - 3 + 6')
  assert (missing.terms['solution'], missing.terms['valid']) == (0.0, 0.0)
  assert missing.metrics['has_answer'] == 0


def test_leakage_monitor():
  cd = countdown.Countdown()
  leak = tags.completion_text('so 12+5  - 3 + 6 is it', '1')
  assert cd.reasoning_has_gold(ROW, leak)
  assert not cd.reasoning_has_gold(ROW, VALUES)
  # A longer number is not the gold.
  assert not cd.reasoning_has_gold(
    ROW, tags.completion_text('12 + 5 - 3 + 67', '1')
  )


ATTACKS = [
  # text, numbers, target, correct
  ('9**9**9', [9, 9, 9], 9, 0),
  ('99**98**97', [99, 98, 97], 9, 0),
  ('(9**9)**(9**9)', [9, 9, 9, 9], 9, 0),
  ('2**5', [2, 5], 32, 0),
  ('7//2', [7, 2], 3, 0),
  ('2.5*4', [2, 5, 4], 10, 0),
  ('1.5', [1, 5], 1, 0),
  ('...', [1, 2], 3, 0),
  ('()', [1, 2], 3, 0),
  ('1/0', [1, 0], 0, 0),
  ('0/0', [0, 0], 0, 0),
  ('(3)(4)', [3, 4], 12, 0),
  ('3 4', [3, 4], 34, 0),
  ('(3\n+4)', [3, 4], 7, 1),
  ('٣+4', [3, 4], 7, 0),
  ('３+4', [3, 4], 7, 0),
  ('3²', [3, 2], 9, 0),
  ('7−3', [7, 3], 4, 1),
  ('3×4', [3, 4], 12, 1),
  ('3\u200b+4', [3, 4], 7, 0),
  ('\u202e3+4', [3, 4], 7, 0),
  ('-' * 10**6 + '3', [3], 3, 0),
  ('(' * 10**6, [3, 4], 7, 0),
  ('(' * 100 + '3+4' + ')' * 100, [3, 4], 7, 0),
  ('1+' * 20000 + '1', [1], 20001, 0),
  ('1' * 10**6, [1], 1, 0),
  ('3+4=7', [3, 4], 7, 0),
  ('3+4 # 1', [3, 4], 7, 0),
  ('', [3, 4], 7, 0),
  (' ' * 10**6, [3, 4], 7, 0),
  ('05+2', [5, 2], 7, 0),
  ('0x10', [10], 16, 0),
  ('1e3', [1, 3], 1000, 0),
  ('1_0', [10], 10, 0),
  ('3j', [3], 3, 0),
  ('True', [1], 1, 0),
  ("__import__('os').system('true')", [1, 2], 0, 0),
  ('3+4;5', [3, 4, 5], 7, 0),
  ('3+4\0', [3, 4], 7, 0),
  ('3+4+4', [3, 4], 11, 0),
  ('3+4', [3, 4, 5], 7, 0),
  ('-3+7', [3, 7], 4, 1),
  ('3+4', [3, 4], 7, 1),
]


@pytest.mark.parametrize('parity', [False, True])
@pytest.mark.parametrize('case', range(len(ATTACKS)))
def test_hostile_answers(case, parity):
  text, numbers, target, correct = ATTACKS[case]
  cd = countdown.Countdown(parity=parity)
  completion = tags.completion_text('', text)
  row = _row(numbers, target)
  score = cd.score(row, completion)
  if parity:
    # d1's evaluation reads no tags, but takes any left-hand side; its reward
    # allows a sign.
    assert score.correct == (text == '3+4=7')
    correct = correct and text.isascii()
  else:
    assert score.correct == bool(correct)
  # Of a megabyte only the end is read, and so no opening tag.
  wrong = 0.1 if len(completion) <= tags.MAX_CHARS else 0.0
  if parity and not wrong:
    wrong = 0.1 if score.metrics['has_answer'] else 0.0
  assert score.terms['solution'] == (1.0 if correct else wrong)
  assert timing.seconds(lambda: cd.score(row, completion), 5) < 0.002


@pytest.mark.parametrize(
  ('completion', 'correct', 'solution'),
  [
    ('<answer>9</answer><answer>3+4</answer>', True, 1.0),
    ('<answer>3+4</answer><answer>9</answer>', False, 0.1),
    ('<answer>3+4', False, 0.0),
    ('<answer>3+4</answer><answer>9', False, 0.0),
    ('<answer><answer>3+4</answer></answer>', True, 1.0),
  ],
)
def test_hostile_tags(completion, correct, solution):
  score = countdown.Countdown().score(_row([3, 4], 7), completion)
  assert score.correct == correct
  assert score.terms['solution'] == solution


def test_near_values_are_rewarded_but_not_correct():
  row = _row([999999, 1, 999998], 1)
  score = countdown.Countdown().score(
    row, '<answer>999999 / 999998 * 1</answer>'
  )
  assert not score.correct
  assert score.terms['solution'] == 1.0


@pytest.mark.parametrize(
  ('text', 'd1'),
  [
    (r'\boxed{3 \times 4 \div 2 = 6}', True),
    (r'\boxed{1} <answer>\boxed{4 \cdot 3 / 2}</answer>', True),
    ('3*4/2 = 6 I think', True),
    ('<answer>3*4/2</answer>', False),
    (r'\boxed{3*4/2', False),
    # Neither a closed box nor a closed block: the first equation of the text.
    (r'3*4/2 = 6, so \boxed{3*4/2 = 6', True),
    (r'<answer>3*4/2 = 6 \boxed{', True),
    (r'3*4 = 12 and 3*4/2 = 6 \boxed{', False),
    (r'3*4/2 = 6 <answer>1</answer> \boxed{', False),
    (r'\boxed{3*4}', False),
    (r'\boxed{3*(4/2}', False),
    (r'\boxed{--3*4/2}', True),
    ('', False),
  ],
)
def test_d1_evaluation(text, d1):
  row = _row([3, 4, 2], 6)
  assert countdown.Countdown(parity=True).score(row, text).correct == d1


def test_recorded_evaluations_of_d1(shared_dir):
  folder = shared_dir / 'golden' / 'recordings'
  entries = json.loads((folder / 'accuracy.json').read_text())['entries']
  entry = next(e for e in entries if e['task'] == 'countdown')
  with gzip.open(folder / entry['file'], 'rt') as lines:
    records = [json.loads(line) for line in lines]
  task_d1 = countdown.Countdown(parity=True)
  verdicts = []
  for record in records:
    numbers, target = record['ground_truth']
    row = _row(numbers, target)
    verdicts.append(int(task_d1.score(row, record['generation']).correct))
  assert verdicts == entry['is_correct']
  assert sum(verdicts) == 53


@pytest.mark.parametrize(
  'fields',
  [
    {'count': 1},
    {'count': 9},
    {'max_number': 0},
    {'max_target': 1000},
    {'operators': '+^'},
    {'prompt_style': 'd2'},
    {'reasoning': 'some'},
  ],
)
def test_bad_fields(fields):
  with pytest.raises(ValueError):
    countdown.Countdown(**fields)
