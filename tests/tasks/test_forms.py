"""Answers by their form: forms/TASK.jsonl has right and wrong ones."""

import json
import pathlib

import pytest

from dllm_jax import tasks
from dllm_jax.eval import recordings
from dllm_jax.tasks import tags

FOLDER = pathlib.Path(__file__).parent / 'forms'
ROWS = {
  'gsm8k': lambda case: {'answer': case['gold']},
  'choice': lambda case: {'answer': case['gold'], 'options': case['options']},
  'countdown': lambda case: dict(
    zip(('numbers', 'target'), case['gold'], strict=True)
  ),
}
CASES = [
  (name, json.loads(line))
  for name in ROWS
  for line in (FOLDER / f'{name}.jsonl').read_text('utf-8').splitlines()
]


@pytest.mark.parametrize(('name', 'case'), CASES)
@pytest.mark.parametrize('right', [True, False])
def test_answers_count_by_their_value_in_every_form(name, case, right):
  task = tasks.TASKS['aqua' if name == 'choice' else name]()
  row = ROWS[name](case)
  other = [
    answer
    for answer in case['right' if right else 'wrong']
    if task.score(row, tags.completion_text('r', answer)).correct != right
  ]
  assert not other


PROGRAMS = json.loads((FOLDER / 'humaneval.jsonl').read_text('utf-8'))


@pytest.mark.parametrize('name', ['humaneval', 'mbpp'])
def test_programs_are_found_in_every_form(name):
  task = tasks.TASKS[name]()
  row = {k: PROGRAMS[k] for k in ('prompt', 'entry_point', 'test')}
  row |= {'setup': ''}
  is_whole = lambda form: True
  if name == 'mbpp':  # no head of a program, no name but in the test
    row |= {'entry_point': '', 'setup': '', 'prompt': 'Add all.'}
    row['test'] = 'assert add_all([1, 2]) == 3\nassert add_all([]) == 0\n'
    is_whole = lambda form: 'body' not in form and 'below' not in form
  for kind in ('right', 'wrong'):
    forms = {k: v for k, v in PROGRAMS[kind].items() if is_whole(k)}
    if name == 'mbpp':
      forms = {k: v.replace('List[int]', 'list') for k, v in forms.items()}
    scores = task.score_batch([row] * len(forms), list(forms.values()))
    other = [
      (form, score.reason)
      for form, score in zip(forms, scores, strict=True)
      if score.correct != (kind == 'right')
    ]
    assert not other


SHARED = [
  'aqua.choice_wrong_that_is_right',
  'code.code_library_results',
  'countdown.countdown_operators',
  'gsm8k.gsm8k_long_block',
  'gsm8k.gsm8k_wrong_that_is_right',
  'humaneval.code_program_not_found',
  'math.math_right_that_is_wrong',
  'math.math_wrong_that_is_right',
]


@pytest.mark.parametrize('name', SHARED)
def test_reported_cases_have_their_right_value(shared_dir, name):
  path = shared_dir / 'cases' / f'{name}.jsonl'
  lines = path.read_text('utf-8').splitlines()
  task_name = name.partition('.')[0]
  report = recordings.evaluate(
    task_name, recordings.read(path, task_name), 'strict'
  )
  expected = [json.loads(line)['expected'] for line in lines]
  assert [item['correct'] for item in report['items']] == expected
