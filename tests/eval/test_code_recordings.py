"""Recorded programs: found in the data files, judged in the sandbox."""

import json

import pytest

from dllm_jax import errors
from dllm_jax.data import benchmarks
from dllm_jax.eval import code_recordings, recordings
from dllm_jax.tasks.sandbox import hosts

pytestmark = pytest.mark.skipif(
  not hosts.available_tiers(), reason='no program can be confined'
)
CHECK = (
  'def check(candidate):\n  for x in (1, 2):\n    assert candidate(x) == x\n'
)


def write(path, *records):
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))
  return path


def score(path, task, data_dir=None):
  return recordings.evaluate(
    task, recordings.read(path, task, data_dir), 'strict'
  )


def test_code_records_become_rows(tmp_path):
  row = {'id': 'a', 'entry_point': 'f', 'test': CHECK}
  path = write(
    tmp_path / 'a.jsonl',
    row | {'code': 'def f(x): return x'},
    row | {'code': 'def f(x): return 1'},
    row | {'code': '```python\ndef f(x): return x\n```'},  # nothing is read out
    row | {'code': 'def f(x): return x\ny = "<|endoftext|>" + 1'},
    {'code': 'def f(x): return x', 'test': 'assert f(3) == 3'},
    {'code': 'f = 1', 'test': 'this is no Python'},
    row | {'code': 'while True: pass'},
  )
  report = score(path, 'code')
  verdicts = [item['correct'] for item in report['items']]
  assert verdicts == [True, False, False, False, True, None, False]
  assert report['unjudged'] == 1 and report['accuracy'] == 2 / 6
  reasons = [item.get('reason', '') for item in report['items']]
  assert reasons[0] == '' and reasons[6] == 'timeout'
  assert reasons[5].startswith('unsupported')
  assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_problems_are_looked_up_by_each_of_their_names(shared_dir, tmp_path):
  data = shared_dir / 'data'
  human = benchmarks.load('humaneval', 'test', data)[2]
  body = human['solution'].removeprefix(human['prompt'])
  report = score(
    write(
      tmp_path / 'h.jsonl',
      {'task_id': 'HumanEval/2', 'completion': body},
      {'id': human['id'], 'generation': body + 'def other(): pass'},
      {'question': human['prompt'], 'generation': human['solution']},
      {'task_id': 'HumanEval/3', 'completion': body},
    ),
    'humaneval',
    data,
  )
  verdicts = [item['correct'] for item in report['items']]
  assert verdicts == [True, True, True, False]
  mbpp = benchmarks.load('mbpp', 'test', data)[1]
  block = f'Sure.\n```python\n{mbpp["solution"]}\n```'
  report = score(
    write(
      tmp_path / 'm.jsonl',
      {'task_id': 12, 'generation': block},
      {'id': '12', 'generation': f'<answer>\n{block}\n</answer>'},
      {'question': mbpp['prompt'], 'generation': f'<answer>{block}'},
      {'task_id': 'Mbpp/13', 'generation': block},
    ),
    'mbpp',
    data,
  )
  verdicts = [item['correct'] for item in report['items']]
  assert verdicts == [True, True, False, False]


def test_records_with_their_problem_need_no_files(tmp_path):
  problem = {
    'prompt': 'def f(x):\n',
    'entry_point': 'f',
    'test': CHECK,
    'setup': '',
  }
  assert recordings.truth(
    'humaneval', problem | {'solution': '', 'id': 'a'}
  ) == (problem)
  path = write(tmp_path / 'a.jsonl', problem | {'generation': '  return x'})
  assert score(path, 'humaneval')['accuracy'] == 1
  assert score(path, 'mbpp')['accuracy'] == 0  # there prompts are no code


@pytest.mark.parametrize(
  ('task', 'record', 'line'),
  [
    ('code', {'test': 'x'}, "'code' must be a string"),
    ('code', {'code': 'x'}, "'test' must be a string, got None"),
    ('code', {'code': 'x', 'test': 7}, "'test' must be a string, got 7"),
    ('mbpp', {'generation': 'x'}, 'pass --data_dir'),
    ('mbpp', {'test': 'x'}, "'generation' must be a string"),
    (
      'humaneval',
      {'completion': 'x', 'test': 'x', 'setup': []},
      "'setup' must",
    ),
  ],
)
def test_malformed_rows_are_refused_with_their_line(
  tmp_path, task, record, line
):
  path = write(tmp_path / 'a.jsonl', record)
  with pytest.raises(errors.UserError, match=f'a.jsonl:1: .*{line}'):
    recordings.read(path, task)


def test_unknown_problems_and_missing_files_are_refused(shared_dir, tmp_path):
  path = write(tmp_path / 'a.jsonl', {'task_id': 999_999, 'generation': ''})
  with pytest.raises(errors.UserError, match='no mbpp problem matches'):
    recordings.read(path, 'mbpp', shared_dir / 'data')
  with pytest.raises(errors.UserError, match='is missing'):
    recordings.read(path, 'mbpp', tmp_path)


@pytest.mark.parametrize('task', code_recordings.TASKS)
def test_d1_rules_of_code_tasks_are_refused(task):
  with pytest.raises(errors.UserError, match='--rules strict'):
    recordings.make_task(task, 'd1')
