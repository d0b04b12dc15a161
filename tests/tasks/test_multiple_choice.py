"""AQuA and OpenBookQA: which letter an answer names."""

import pytest

from dllm_jax import tasks
from dllm_jax.tasks import multiple_choice, tags, task
from dllm_jax.text import tokenizer

OPTIONS = ['16', '20', '24', '30', '36']
ROW = {
  'id': 'a',
  'question': 'What is 4 * 5?',
  'options': OPTIONS,
  'answer': 'B',
  'reasoning': '4 * 5 = 20',
}
TASK = tasks.TASKS['aqua']()


@pytest.mark.parametrize('name', ['aqua', 'openbookqa'])
def test_is_a_task(name):
  found = tasks.TASKS[name](prompt_style='terse')
  assert isinstance(found, task.Task) and found.name == name


def test_demonstration_earns_everything():
  text = TASK.demonstration(ROW)
  found = TASK.score(ROW, text)
  assert found.correct and found.parsed == 'B'
  assert found.terms == {
    'correctness': 2.0,
    'letter': 0.5,
    'xmlcount': 0.5,
    'soft_format': 0.5,
    'strict_format': 0.5,
  }
  assert not TASK.reasoning_has_gold(ROW, text)
  for reasoning, has in (
    ('it is (B)', True),
    ('so B', True),
    ('(B) or rather (C)', False),
    ('A bird and (B)', True),
  ):
    leak = tags.completion_text(reasoning, 'B')
    assert TASK.reasoning_has_gold(ROW, leak) == has


@pytest.mark.parametrize('style', ['terse', 'd1'])
def test_prompts(style):
  styled = tasks.TASKS['aqua'](prompt_style=style)
  prompt = styled.prompt(ROW)
  assert 'A) 16\nB) 20\nC) 24\nD) 30\nE) 36\n' in prompt
  assert ('<answer>' in prompt) == (style == 'd1')
  braces = {w.strip() for w in styled.words() if '{' in w and len(w) > 1}
  assert braces <= {r'\boxed{}'}  # no field of the template
  t = tokenizer.Tokenizer.from_words(styled.words())
  for text in (prompt, styled.demonstration(ROW)):
    assert t.decode(t.encode(text)) == text


@pytest.mark.parametrize(
  ('answer', 'letter'),
  [
    ('B', 'B'),
    (' B\n', 'B'),
    ('(B)', 'B'),
    ('B)', 'B'),
    ('B.', 'B'),
    ('B:', 'B'),
    ('(B) 20', 'B'),
    ('B) 20', 'B'),
    ('B 20', 'B'),
    (r'\boxed{B}', 'B'),
    (r'\boxed{A} \boxed{B}', 'B'),
    ('B) 24', None),  # another option's text
    ('A or B', None),
    ('AB', None),
    ('20', None),
    ('b', 'B'),
    ('be', None),
    ('F', None),  # no such option
    ('Ｂ', None),
    ('В', None),  # Cyrillic
    ('B' + ' x' * 10**6, None),
    ('', None),
    ('the answer is B', 'B'),
    ('the answer is 20', None),
  ],
)
def test_read_letter(answer, letter):
  assert multiple_choice.read_letter(answer, OPTIONS) == letter


@pytest.mark.parametrize(
  ('completion', 'correct'),
  [
    ('<answer>B</answer>', True),
    ('<answer>A</answer><answer>B</answer>', True),
    ('<answer>B</answer><answer>A</answer>', False),
    ('<answer>B', False),
    ('B', False),
    ('', False),
  ],
)
def test_the_last_answer_block_counts(completion, correct):
  assert TASK.score(ROW, completion).correct == correct


def test_bad_style():
  with pytest.raises(ValueError, match='d2'):
    multiple_choice.MultipleChoice(name='aqua', prompt_style='d2')
