"""MATH: which text is the answer, rewards, hostile answers, d1's rule."""

import numpy as np
import pytest

from dllm_jax import tasks
from dllm_jax.rollout import score as score_lib
from dllm_jax.tasks import (
  latex,
  math_equal,
  mathematics,
  tags,
  task,
)
from dllm_jax.text import tokenizer
from tests import timing

ROW = {
  'id': 'a',
  'problem': r'What is $\frac{3}{2} - 1$?',
  'solution': r'$\frac{3}{2} - \frac{2}{2} = \boxed{\frac{1}{2}}$.',
  'answer': r'\frac{1}{2}',
  'level': 1,
  'subject': 'Algebra',
}
TASK = mathematics.Mathematics()
D1 = mathematics.Mathematics(parity=True)


@pytest.fixture(scope='module', autouse=True)
def pool():
  pool = math_equal.Pool(1, cpu_seconds=1.0)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(math_equal, 'shared_pool', lambda: pool)
    yield pool
  pool.close()


def test_is_a_task():
  found = tasks.TASKS['math']()
  assert isinstance(found, task.Task) and isinstance(found, task.BatchScorer)


def test_demonstration_earns_everything():
  text = TASK.demonstration(ROW)
  assert text.endswith('<answer>\n\\boxed{\\frac{1}{2}}\n</answer>')
  found = TASK.score(ROW, text)
  assert found.correct and found.judged and found.parsed == ROW['answer']
  assert found.terms == {
    'correctness': 2.0,
    'boxed': 1.0,
    'xmlcount': 0.5,
    'soft_format': 0.5,
    'strict_format': 0.5,
  }
  assert TASK.reasoning_has_gold(ROW, text)


@pytest.mark.parametrize('style', ['terse', 'd1'])
def test_prompts(style):
  styled = mathematics.Mathematics(prompt_style=style)
  prompt = styled.prompt(ROW)
  assert ROW['problem'] in prompt and prompt.endswith('\n')
  assert (r'\boxed{}' in prompt) == (style == 'd1')
  braces = {w.strip() for w in styled.words() if '{' in w and len(w) > 1}
  assert braces <= {r'\boxed{}'}  # no field of the template
  t = tokenizer.Tokenizer.from_words(styled.words())
  for text in (prompt, styled.demonstration(ROW)):
    assert t.decode(t.encode(text)) == text


@pytest.mark.parametrize(
  ('completion', 'correct', 'boxed'),
  [
    (r'<answer>\boxed{0.5}</answer>', True, 1.0),
    ('<answer>0.5</answer>', True, 0.75),
    ('<answer>$0.5$</answer>', True, 0.75),
    (r'<answer>\(\frac12\)</answer>', True, 0.75),
    (r'\boxed{\frac12}', False, 0.25),
    (r'<think>\boxed{\frac12}</think><answer>7</answer>', False, 0.75),
    (r'<answer>\boxed{7} \boxed{\frac12}</answer>', True, 1.0),
    (r'<answer>\boxed{\frac12} \boxed{7}</answer>', False, 1.0),
    (r'<answer>\boxed{7 \boxed{\frac12}}</answer>', True, 1.0),
    (r'<answer>\boxed 0.5</answer>', True, 1.0),
    (r'<answer>\boxed{}</answer>', False, 1.0),
    (r'<answer>\boxed{0.5</answer>', False, 0.75),
    (r'<answer>0.5 or 0.6</answer>', False, 0.75),
    (r'<answer>\text{see }\frac{1}{2}\text{ above}</answer>', None, 0.75),
    ('<answer>The value is 0.5</answer>', False, 0.75),
    ('<answer>$1$ or $0.5$</answer>', False, 0.75),
    (r'<answer>\$0.5</answer>', True, 0.75),
    ('<answer>0.5} 4</answer>', False, 0.75),
    ('<answer>0.5}{4}{3</answer>', False, 0.75),
    (r'<answer>0.5}\text{ \{</answer>', False, 0.75),
    ('<answer>4. 0.5</answer>', False, 0.75),
    (r'<answer>\boxed{it is 4. no it is 0.5}</answer>', False, 1.0),
    (r'<answer>\boxed{4 \\ 0.5}</answer>', False, 1.0),
    (r'<answer>\boxed{4 \lor 0.5}</answer>', False, 1.0),
    (r'<answer>\boxed{4 \cup 0.5}</answer>', False, 1.0),
    (r'<answer>\boxed{4 \to 0.5}</answer>', False, 1.0),
    (r'<answer>\boxed{4 \in 0.5}</answer>', False, 1.0),
    (r'<answer>\boxed{4 \hspace{1cm} 0.5}</answer>', False, 1.0),
    (r'<answer>\boxed{0.5 \text{ square feet}}</answer>', True, 1.0),
    ('<answer>0.5', False, 0.25),
    ('', False, 0.25),
  ],
)
def test_what_is_read(completion, correct, boxed):
  found = TASK.score(ROW, completion)
  if correct is not None:
    assert found.correct == correct
    assert found.terms['correctness'] == 2.0 * correct
  assert found.terms['boxed'] == boxed


@pytest.mark.parametrize(
  ('gold', 'right', 'wrong'),
  [
    # math-verify takes the right-hand side, whatever is on the left.
    ('31', ['x = 31', '2 + 29 = 31', 'f(2) = 31'], ['5 = 31', '31 = 5']),
    ('31', [r'\text{Area} = 31', r'\theta = 31'], [r'\pi = 31', '31 + 1 = 31']),
    # It drops a subscript, ...
    ('2516_8', ['2516_8', '2516_{8}', '2516'], ['2516_7', '2516_{10}', '1358']),
    # ... a relation, and words.
    ('31', [r'31 \text{ cm}', r'31^\circ'], [r'\neq 31', r'31 \text{ not}']),
    ('31', [], [r'31 \text{ is wrong}', r'31 \approx 5', "isn't 31"]),
    # The last box is the answer: the specification says so.
    ('31', [r'\boxed{5} \boxed{31}'], [r'\boxed{31} \boxed{5}']),
  ],
)
def test_what_math_verify_would_let_pass(gold, right, wrong):
  rows = [{**ROW, 'answer': gold}] * (len(right) + len(wrong))
  texts = [f'<answer>{text}</answer>' for text in (*right, *wrong)]
  found = [s.correct for s in TASK.score_batch(rows, texts)]
  assert found == [True] * len(right) + [False] * len(wrong)


def test_a_side_that_was_not_judged_is_no_verdict(monkeypatch):
  verdicts = iter([[True, None], [False, None]])
  monkeypatch.setattr(math_equal, 'equal', lambda pairs: next(verdicts))
  row = {**ROW, 'answer': '31'}
  assert not TASK.score(row, '<answer>2 + 29 = 31</answer>').judged
  wrong = TASK.score(row, '<answer>5 = 31</answer>')
  assert wrong.judged and not wrong.correct


def test_an_echo_of_the_prompt_is_no_answer():
  """The gold may stand in the prompt; only the answer block counts."""
  echo = f'<reasoning>{ROW["problem"]} {ROW["answer"]}</reasoning>'
  assert not TASK.score(ROW, echo).correct
  block = f'{echo}<answer>{ROW["problem"]} {ROW["answer"]}</answer>'
  assert not TASK.score(ROW, block).correct


@pytest.mark.parametrize(
  'answer',
  [
    r'\boxed{' * 2000,
    '$' * 20001,
    '{' * 10**6,
    '9^{9^{9}}',
    r'\log_2(3^{10^8})',
    r'\text{__import__("os").system("true")}',
    '\0\ud800',
    '9' * 5000 + '/1',
    '1/' + '9' * 5000,
  ],
)
def test_hostile_answers(answer):
  boxed = rf'\boxed{{{answer}}}'
  found = TASK.score(ROW, tags.completion_text('', answer))
  assert not found.correct and found.judged
  assert not TASK.score(ROW, tags.completion_text('', boxed)).correct
  assert not D1.score(ROW, tags.completion_text('', boxed)).correct
  # The trainer asks this of every rollout.
  assert not TASK.reasoning_has_gold(ROW, tags.completion_text(boxed, '1'))
  unboxed = tags.completion_text('', answer)
  assert timing.seconds(lambda: D1.score(ROW, unboxed)) < 1


def test_a_batch_is_each_by_itself(pool):
  texts = [
    f'<answer>{a}</answer>' for a in ('0.5', '1/2', '2', '0.5', '.50', 'x')
  ]
  rows = [ROW] * 5 + [{**ROW, 'answer': 'x'}]
  found = task.score_all(TASK, rows, texts)
  assert [s.correct for s in found] == [True, True, False, True, True, True]
  alone = [TASK.score(r, t) for r, t in zip(rows, texts, strict=True)]
  assert found == alone
  with pytest.raises(ValueError, match='6 rows for 5'):
    task.score_all(TASK, rows, texts[:5])


def test_a_lost_verifier_is_no_zero(monkeypatch):
  """The reward is nan, which training leaves out; never a silent 0."""
  monkeypatch.setattr(
    math_equal, 'equal', lambda pairs: [None, True][: len(pairs)]
  )
  found = TASK.score_batch([ROW] * 2, ['<answer>0.5</answer>'] * 2)
  assert [s.judged for s in found] == [False, True]
  cfg = score_lib.RewardConfig(weights=(('correctness', 1.0), ('boxed', 1.0)))
  rewards = [score_lib.weigh(s, cfg) for s in found]
  assert rewards[0] != rewards[0] and rewards[1] == 2.75
  assert found[0].terms['boxed'] == 0.75
  assert score_lib.finite_mean(np.array([rewards[0], 1, 2])) == 1.5


@pytest.mark.parametrize(
  ('left', 'right'),
  [
    (r'\dfrac{1}{2}', r'\frac12'),
    ('1/2', r'\frac{1}{2}'),
    ('0.5', r'\frac12'),
    ('.3', '0.3'),
    (r'x = 7', '7'),
    (r'90^\circ', '90'),
    (r'\$5', '5'),
    (r'10\%', '10'),
    (r'5 \text{ cm}', '5'),
    (r'\left(1, 2\right)', '(1,2)'),
    (r'\sqrt2', r'\sqrt{2}'),
    (r'11,\!111', '11,111'),
    ('007/02', r'\frac{7}{2}'),
    ('-03/-00', r'\frac{-3}{0}'),
    ('-0/5', r'\frac{0}{5}'),
  ],
)
def test_normal_forms(left, right):
  assert latex.equal_by_form(left, right)


@pytest.mark.parametrize(
  ('left', 'right'),
  [
    ('1000', '1,000'),
    ('0.25', r'\frac14'),
    ('abc = 7', '7'),
    ('5', '6'),
    (r'\frac{1}2', r'\frac{1}{2}'),
  ],
)
def test_what_the_normal_form_keeps_apart(left, right):
  assert not latex.equal_by_form(left, right)


def test_missing_answers_by_form():
  assert latex.equal_by_form(None, None)
  assert not latex.equal_by_form(None, '5')


@pytest.mark.parametrize(
  ('text', 'boxed'),
  [
    (r'\boxed{5}', '5'),
    (r'a \boxed{1} b \boxed{\frac{1}{2}} c', r'\frac{1}{2}'),
    (r'\fbox{3}', '3'),
    (r'\boxed{a{b}c}d}', 'a{b}c'),
    (r'\boxed 5$ x', '5'),
    (r'\boxed{5', None),
    (r'\boxed{}', ''),
    (r'\boxedx{5}', None),
    ('', None),
  ],
)
def test_last_boxed(text, boxed):
  assert latex.last_boxed(text) == boxed


@pytest.mark.parametrize(
  ('completion', 'correct', 'boxed'),
  [
    (r'\boxed{1/2}', True, 0.25),
    (r'<answer>\boxed{1/2}</answer>', True, 0.75),
    (r'<answer>1/2</answer>', False, 0.75),  # without a box all of it is read
    (r'\boxed{0.50}', False, 0.25),
    (r'\boxed{1/2 <answer>1/2</answer>', True, 0.75),
    (r'\boxed{1/2', False, 0.25),
  ],
)
def test_d1_rule(completion, correct, boxed):
  found = D1.score(ROW, completion)
  assert found.correct == correct
  assert found.terms['boxed'] == boxed
  assert found.terms['correctness'] == 2.0 * correct


def test_bad_style():
  with pytest.raises(ValueError, match='d2'):
    mathematics.Mathematics(prompt_style='d2')
