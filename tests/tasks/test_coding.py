"""Code: prompts, what is handed to the judge, and what its verdicts become."""

import dataclasses
import math

import pytest

from dllm_jax import tasks
from dllm_jax.tasks import coding, tags, task

ROW = {
  'id': 'a',
  'prompt': 'Write f, which returns 1.\n',
  'entry_point': 'f',
  'test': 'def check(candidate):\n  assert candidate() == 1\n',
  'solution': 'def f():\n  return 1\n',
  'setup': '',
}


@dataclasses.dataclass
class Fixed:
  """Answers what it was told to, and keeps what it was asked."""

  verdicts: list

  def judge(self, submissions):
    self.asked = list(submissions)
    return self.verdicts[: len(self.asked)]


PASS = coding.Verdict(True, 1.0, '')
FAIL = coding.Verdict(False, 0.25, 'wrong')
LOST = coding.Verdict(None, 0.0, 'no sandbox')


def make(judge, **changes):
  return coding.Coding(**({'name': 'mbpp', 'judge': judge} | changes))


def test_it_is_a_task():
  found = make(Fixed([]))
  assert isinstance(found, task.Task) and isinstance(found, task.BatchScorer)
  assert isinstance(Fixed([]), coding.CodeJudge)
  for name in ('humaneval', 'mbpp', 'kodcode'):
    assert tasks.TASKS[name]().name == name


def test_prompts():
  judge = Fixed([])
  prompt = make(judge).prompt(ROW)
  assert '```python' in prompt and prompt.endswith('returns 1.\n')
  terse = make(judge, prompt_style='terse')
  assert terse.prompt(ROW) == 'Write f, which returns 1.\n'
  assert not any('{' in w and len(w) > 1 for w in terse.words())
  words = make(judge).words()
  assert not any('{' in w and len(w) > 1 for w in words)
  with pytest.raises(ValueError, match='d2'):
    make(judge, prompt_style='d2')


def test_demonstration_hands_over_the_program():
  judge = Fixed([PASS])
  verifier = make(judge)
  found = verifier.score(ROW, verifier.demonstration(ROW))
  (asked,) = judge.asked
  assert asked.code == ROW['solution'] and asked.entry_point == 'f'
  assert asked.test == ROW['test']
  assert found.correct and found.judged
  assert found.terms == {
    'tests': 1.0,
    'passed': 1.0,
    'fence': 0.5,
    'xmlcount': 0.5,
    'soft_format': 0.5,
    'strict_format': 0.5,
  }
  assert not verifier.reasoning_has_gold(ROW, verifier.demonstration(ROW))
  leak = tags.completion_text('def  f():\n return 1', '')
  assert verifier.reasoning_has_gold(ROW, leak)


def test_verdicts_by_row():
  judge = Fixed([FAIL, LOST, PASS])
  texts = ['<answer>a</answer>', '', '<answer>b</answer>', '<answer>c</answer>']
  rows = [ROW, ROW, ROW, ROW | {'setup': 'import os'}]
  found = make(judge).score_batch(rows, texts)
  assert [a.code for a in judge.asked] == ['a', 'b', 'c\nimport os']
  assert [s.correct for s in found] == [False, False, False, True]
  assert [s.judged for s in found] == [True, True, False, True]
  assert [s.terms['tests'] for s in found[:2]] == [0.25, 0.0]
  assert math.isnan(found[2].terms['tests'])
  assert math.isnan(found[2].terms['passed'])
  assert [s.reason for s in found] == ['wrong', 'no program', 'no sandbox', '']


def test_a_program_may_go_on_from_the_prompt():
  judge = Fixed([PASS] * 2)
  verifier = make(judge, name='humaneval', reading='continuation')
  head = 'import math\n\ndef f():\n  """One."""\n'
  row = ROW | {'prompt': head}
  verifier.score_batch([row, row], ['  return 1\n', '<answer>x = 1</answer>'])
  assert judge.asked[0].code == head + '  return 1\n'
  assert judge.asked[1].code == head + 'x = 1'


def test_words_spell_a_demonstration_in_few():
  words = make(Fixed([]), prompt_style='terse').words()
  assert '```python\n' in words and '\n```' in words
  assert len(set(words)) == len(words)


@pytest.mark.parametrize(
  ('completion', 'fence'),
  [
    ('<answer>```python\nx = 1\n```</answer>', 0.5),
    ('<answer>x = 1</answer>', 0.0),
    ('```python\nx = 1\n```', 0.0),
    ('```python\nx\n```<answer>y</answer>', 0.0),
    ('<answer>```python\nx = 1</answer>', 0.0),
    ('', 0.0),
  ],
)
def test_the_fence_term_wants_the_block_in_the_answer(completion, fence):
  found = make(Fixed([PASS])).score(ROW, completion)
  assert found.terms['fence'] == fence
