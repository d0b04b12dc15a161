"""GSM8K: what counts as the number, hostile answers, d1's rule."""

from fractions import Fraction

import pytest

from dllm_jax import tasks
from dllm_jax.tasks import gsm8k, tags, task
from dllm_jax.text import tokenizer
from tests import timing

ROW = {
  'id': 'a',
  'question': 'How many are 30 times 36?',
  'reasoning': '30 * 36 = 1080',
  'answer': '1,080',
}
TASK = gsm8k.Gsm8k()
D1 = gsm8k.Gsm8k(parity=True)


def test_is_a_task():
  assert isinstance(tasks.TASKS['gsm8k'](), task.Task)
  assert not isinstance(TASK, task.BatchScorer)


def test_demonstration_earns_everything():
  text = TASK.demonstration(ROW)
  assert text == (
    '<reasoning>\n30 * 36 = 1080\n</reasoning>\n<answer>\n1080\n</answer>'
  )
  found = TASK.score(ROW, text)
  assert found.correct and found.parsed == '1080'
  assert found.terms == {
    'correctness': 2.0,
    'integer': 0.5,
    'xmlcount': 0.5,
    'soft_format': 0.5,
    'strict_format': 0.5,
  }
  assert found.metrics == {'has_answer': 1.0, 'is_number': 1.0}
  assert TASK.reasoning_has_gold(ROW, text)
  assert not TASK.reasoning_has_gold(ROW, text.replace('= 1080', '= 10800'))


@pytest.mark.parametrize('style', ['terse', 'd1'])
def test_prompts(style):
  styled = gsm8k.Gsm8k(prompt_style=style)
  prompt = styled.prompt(ROW)
  assert ROW['question'] in prompt and prompt.endswith('\n')
  assert ('<reasoning>' in prompt) == (style == 'd1')
  braces = {w.strip() for w in styled.words() if '{' in w and len(w) > 1}
  assert braces <= {r'\boxed{}'}  # no field of the template
  t = tokenizer.Tokenizer.from_words(styled.words())
  for text in (prompt, styled.demonstration(ROW)):
    assert t.decode(t.encode(text)) == text


@pytest.mark.parametrize(
  ('answer', 'value'),
  [
    ('18', 18),
    (' 18 \n', 18),
    ('$18', 18),
    (r'\$18', 18),
    ('18.00', 18),
    ('18.', 18),
    ('.5', Fraction(1, 2)),
    ('1,080', 1080),
    ('1,234,567', 1234567),
    ('1.000', 1),
    ('1,00', None),
    ('-5', -5),
    ('- 5', -5),
    ('\u22125', -5),
    ('50%', 50),
    (r'50\%', 50),
    (r'\boxed{120\text{ minutes}}', 120),
    (r'\boxed{3} \boxed{4}', 4),
    ('x = 5', 5),
    ('6 = 5', None),
    ('5 or 6', None),
    ('1/2', None),
    (r'1\frac12', None),
    ('3²', None),
    ('٣', None),
    ('５', None),
    ('5٣', None),
    ('1e3', None),
    ('1_0', None),
    ('nan', None),
    ('inf', None),
    ('', None),
    ('five', None),
    ('1' * 33, None),
    ('5' + ' x' * 128, None),
    (r'\boxed{}', None),
    (r'\boxed{5', None),
    ('minus 5', None),
    ('Negative 5', None),
    ('minus = 5', None),
    ('5 million', None),
    ('5 hundred', None),
    ('5k', None),
    ('half of 5', None),
    ('5 dozen', None),
    ('1 or five', None),
    ('not 5', None),
    ('5 is wrong', None),
    ('5 is incorrect', None),
    ("it isn't 5", None),
    ('never 5', None),
    ('5 knots', 5),
    ('1/x', None),
    ('x/5', None),
    ('5x', None),
    ('5 - x', None),
    ('5 + x', None),
    ('x * 5', None),
    ('5 = x', None),
    ('y + z = 5', None),
    ('x^5', None),
    ('5^n', None),
    ('9!', None),
    (r'\sqrt 9', None),
    (r'\sqrt{9}', None),
    ('\u221a9', None),
    (r'\frac{5}{x}', None),
    (r'5\cdot x', None),
    ('+5', 5),
    ('Total cost = $5', 5),
    ('**5**', 5),
    ('**5** eggs!', 5),
    ('60 miles/hour', 60),
    ('$5/hour', 5),
    ('a 5-year span', 5),
    (r'\(5\)', 5),
    (r'\[5\]', 5),
    (r'5 \mathrm{cm}', 5),
    (r'90^\circ', 90),
    (r'\textbf{5}', 5),
    ('the number of seconds is 5', 5),
  ],
)
def test_read_number(answer, value):
  assert gsm8k.read_number(answer) == value


HOSTILE = [
  '9' * 10**6,
  '-' * 10**6,
  ',' * 10**6,
  '1,' * 5 * 10**5,
  r'\boxed{' * 10**5,
  '{' * 10**6,
  '$' * 10**6,
  ' ' * 10**6,
  '1 ' * 10**6,
  '9**9**9',
  "__import__('os').system('true')",
  '1080\0',
  '<answer>' * 10**5,
  '</answer>' * 10**5,
]


@pytest.mark.parametrize('case', range(len(HOSTILE)))
@pytest.mark.parametrize('verifier', [TASK, D1])
def test_hostile_answers(verifier, case):
  completion = tags.completion_text('', HOSTILE[case])
  expected = HOSTILE[case] == '1080\0'
  assert verifier.score(ROW, completion).correct == expected
  assert timing.seconds(lambda: verifier.score(ROW, completion)) < 0.1


@pytest.mark.parametrize(
  ('completion', 'correct', 'reward', 'd1', 'd1_reward'),
  [
    ('<answer>1080</answer>', True, 2.0, True, 0.0),
    ('<answer>1,080</answer>', True, 2.0, False, 2.0),
    (r'\boxed{1080}', False, 0.0, True, 0.0),
    (r'\boxed{1080} <answer>7</answer>', False, 0.0, True, 0.0),
    ('<answer>30 times 36 is 1080</answer>', False, 0.0, True, 0.0),
    ('<answer>9</answer><answer>1080</answer>', True, 2.0, False, 0.0),
    ('<answer>1080', False, 0.0, False, 0.0),
    ('1080', False, 0.0, False, 0.0),
    (r'\boxed{...} \boxed{1080 eggs}', False, 0.0, True, 0.0),
    ('', False, 0.0, False, 0.0),
  ],
)
def test_rules(completion, correct, reward, d1, d1_reward):
  ours, theirs = TASK.score(ROW, completion), D1.score(ROW, completion)
  assert (ours.correct, ours.terms['correctness']) == (correct, reward)
  # d1's evaluation compares floats; the data set's gold has a comma.
  plain = D1.score({**ROW, 'answer': '1080'}, completion)
  assert plain.correct == d1
  assert theirs.terms['correctness'] == d1_reward


def test_bad_style():
  with pytest.raises(ValueError, match='d2'):
    gsm8k.Gsm8k(prompt_style='d2')


def test_equal_numbers_are_one_answer():
  read = lambda answer: TASK.score(ROW, tags.completion_text('', answer)).parsed
  same = {read(x) for x in ('1080', '1,080', '$1080', '1080.0', '1080 dollars')}
  assert same == {'1080'}
  assert read('one') == 'one' and read('540') == '540'
