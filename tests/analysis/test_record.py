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


def test_a_comparison_of_decoders_is_read_as_it_is(tmp_path):
  run = made_run.make(tmp_path / 'run')
  assert record.read(run).speculation is None
  study = made_run.speculation(run)
  assert record.read(run).speculation == study


def test_drafts_are_texts_or_nothing(tmp_path):
  run = made_run.make(tmp_path / 'run')
  rows = [made_run.problem('drafted', [DRAFTED])]
  made_run.problems(run, rows)
  assert record.read(run).problems == rows


@pytest.mark.parametrize(
  'change',
  [
    {'rows': []},
    {'rows': [made_run.compared('draft', 1, cost=None)]},
    {'rows': [made_run.compared('draft', 1, cost=float('nan'))]},
    {'rows': [made_run.compared('draft', 1, histogram=None)]},
    {'rows': [made_run.compared('draft', 1, compression='int4')]},
    {'rows': [made_run.compared('draft', 1) | {'decode': 'beam'}]},
    {'rows': [made_run.compared('draft', 1, tokens_per_round='2')]},
    {'agreement': [0.5]},
    {'greedy': {'no_cache': {'tokens_per_second': 1.0}}},
    {'greedy': {'cache': {'tokens_per_second': None}}},
  ],
)
def test_a_damaged_comparison_is_one_line(tmp_path, change):
  run = made_run.make(tmp_path / 'run')
  made_run.speculation(run, **change)
  with pytest.raises(errors.UserError, match='is not a comparison') as caught:
    record.read(run)
  assert str(run) in str(caught.value) and '\n' not in str(caught.value)


DRAFTED = made_run.drafted('draft int8, m = 4', [' 3', ' -', None, ''])
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
    ('speculation.json', '{"rows": [', 'cannot read .*speculation.json'),
    ('speculation.json', '{"rows": []}', 'is not a comparison of decoders'),
    (
      'trajectories.jsonl',
      json.dumps(made_run.problem('drafted', [DRAFTED | {'drafted': [None]}]))
      + '\n',
      'line 1, is not a problem',
    ),
    (
      'trajectories.jsonl',
      json.dumps(made_run.problem('drafted', [DRAFTED | {'drafted': [1] * 4}]))
      + '\n',
      'line 1, is not a problem',
    ),
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
