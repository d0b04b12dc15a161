"""Reading finished and unfinished runs, and refusing damaged ones."""

import json

import pytest

from dllm_jax import errors
from dllm_jax.analysis import record
from tests.analysis import made_run


def test_an_unfinished_run_is_read_without_results(tmp_path):
  run = made_run.make(tmp_path / 'run', finished=False)
  with (run / 'metrics.jsonl').open('a') as file:
    file.write('{"phase": "rl", "step": 31, "rew')  # cut off
  found = record.read(run)
  assert found.results is None and found.verdicts is None
  assert found.problems == [] and found.name == 'run'
  assert found.curves['rl']['reward/mean'].steps.tolist() == [*range(1, 31)]
  assert found.curves['rl']['eval/accuracy'].steps.tolist() == [10, 20, 30]


def test_non_finite_values_are_left_out_of_curves(tmp_path):
  run = made_run.make(tmp_path / 'run')
  rows = [
    {'phase': 'rl', 'step': 1, 'policy/kl': 0.5},
    {
      'phase': 'rl',
      'step': 2,
      'policy/kl': None,
      'nonfinite': {'policy/kl': 'nan'},
    },
    {'phase': 'sft', 'step': 1, 'policy/kl': 2.0},
  ]
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (run / 'metrics.jsonl').write_text(text)
  curves = record.read(run).curves
  assert curves['rl']['policy/kl'].values.tolist() == [0.5]
  assert curves['sft']['policy/kl'].values.tolist() == [2.0]


SAMPLE = made_run.sample('base', ['a', 'b'], [0, 1], 2)


@pytest.mark.parametrize(
  'file, text, line',
  [
    (
      'config.json',
      None,
      'is not the workdir of a run: config.json is missing',
    ),
    ('config.json', '{"config": {}}', 'is not the config of a run'),
    ('config.json', '[]', 'is not a JSON object'),
    ('eval.json', '{"base": {}}', 'is not the results of a run'),
    ('eval.json', '{"base', 'cannot read .*eval.json'),
    (
      'metrics.jsonl',
      '{"phase": "rl"}\n{}\n',
      'line 1, is not a row of metrics',
    ),
    ('metrics.jsonl', '{}}\n{}\n', 'line 1, is not a row of metrics'),
    ('trajectories.jsonl', '{}\n', 'line 1, is not a problem'),
    (
      'trajectories.jsonl',
      json.dumps(made_run.problem('fixed', [SAMPLE | {'pieces': ['a', 3]}]))
      + '\n',
      'line 1, is not a problem',
    ),
    (
      'trajectories.jsonl',
      json.dumps(made_run.problem('fixed', [SAMPLE | {'commit_step': [0]}]))
      + '\n',
      'line 1, is not a problem',
    ),
  ],
)
def test_a_damaged_file_is_one_line_with_its_path(tmp_path, file, text, line):
  run = made_run.make(tmp_path / 'run')
  (run / file).unlink(missing_ok=True)
  if text is not None:
    (run / file).write_text(text)
  with pytest.raises(errors.UserError, match=line) as caught:
    record.read(run)
  assert str(run) in str(caught.value) and '\n' not in str(caught.value)
