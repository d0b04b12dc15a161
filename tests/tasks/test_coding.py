"""Code: prompts, what is handed to the judge, and refusal without one."""

import dataclasses
import math

import pytest

from dllm_jax import errors, tasks
from dllm_jax.tasks import coding, format, task

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


def test_it_is_a_task_but_not_on_offer():
  found = coding.Coding(judge=Fixed([]))
  assert isinstance(found, task.Task) and isinstance(found, task.BatchScorer)
  assert isinstance(Fixed([]), coding.CodeJudge)
  assert 'code' not in tasks.TASKS
  with pytest.raises(errors.UserError, match='needs a sandbox') as caught:
    coding.refuse()
  assert '\n' not in str(caught.value)


def test_prompts():
  judge = Fixed([])
  prompt = coding.Coding(judge=judge).prompt(ROW)
  assert '```python' in prompt and prompt.endswith('returns 1.\n')
  terse = coding.Coding(judge=judge, prompt_style='terse')
  assert terse.prompt(ROW) == 'Write f, which returns 1.\n'
  assert not any('{' in w and len(w) > 1 for w in terse.words())
  words = coding.Coding(judge=judge).words()
  assert not any('{' in w and len(w) > 1 for w in words)
  with pytest.raises(ValueError, match='d2'):
    coding.Coding(judge=judge, prompt_style='d2')


def test_demonstration_hands_over_the_program():
  judge = Fixed([PASS])
  verifier = coding.Coding(judge=judge)
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
  leak = format.completion_text('def  f():\n return 1', '')
  assert verifier.reasoning_has_gold(ROW, leak)


def test_verdicts_by_row():
  judge = Fixed([FAIL, LOST, PASS])
  texts = ['<answer>a</answer>', '', '<answer>b</answer>', '<answer>c</answer>']
  rows = [ROW, ROW, ROW, ROW | {'setup': 'import os'}]
  found = coding.Coding(judge=judge).score_batch(rows, texts)
  assert [a.code for a in judge.asked] == ['a', 'b', 'import os\nc']
  assert [s.correct for s in found] == [False, False, False, True]
  assert [s.judged for s in found] == [True, True, False, True]
  assert [s.terms['tests'] for s in found[:2]] == [0.25, 0.0]
  assert math.isnan(found[2].terms['tests'])
  assert math.isnan(found[2].terms['passed'])


@pytest.mark.parametrize(
  ('completion', 'program', 'fence'),
  [
    ('<answer>```python\nx = 1\n```</answer>', 'x = 1\n', 0.5),
    ('<answer>```\nx = 1\n```</answer>', 'x = 1\n', 0.5),
    ('<answer>```py\na\n``` ```python\nb\n```</answer>', 'b\n', 0.5),
    ('<answer>x = 1</answer>', 'x = 1', 0.0),
    ('```python\nx = 1\n```', None, 0.0),
    ('```python\nx\n```<answer>y</answer>', 'y', 0.0),
    ('<answer>```python\nx = 1</answer>', '```python\nx = 1', 0.0),
    ('<answer></answer>', None, 0.0),
    ('<answer>' + '`' * 10**6 + '</answer>', None, 0.0),
    ('', None, 0.0),
  ],
)
def test_extract_program(completion, program, fence):
  assert coding.extract_program(completion) == program
  assert coding.has_fence(completion) == fence
