"""A reader who does what the pages say has a task and a method that train."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests import commands
from tests.docs import pages

# The run of a page, over in seconds.
TINY = {
  'data.num_demonstrations': 32,
  'data.num_validation': 8,
  'data.num_test': 8,
  'model.hidden_size': 16,
  'model.num_layers': 1,
  'model.num_heads': 2,
  'model.num_kv_heads': 2,
  'model.head_dim': 8,
  'model.mlp_size': 32,
  'rollout.num_prompts': 4,
  'rollout.group_size': 2,
  'base.batch_size': 8,
  'base.num_steps': 2,
  'base.eval_every': 2,
  'base.patience': 0,
  'train.num_steps': 2,
  'train.eval_every': 2,
  'train.control': False,
  'eval.batch_size': 8,
}


def run(place: pathlib.Path, *command: str) -> str:
  """The standard output of a command in the copy of the repository."""
  env = os.environ | {'XLA_FLAGS': commands.XLA_FLAGS, 'PYTHONPATH': str(place)}
  done = subprocess.run(
    [sys.executable, *command],
    cwd=place,
    env=env,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def follow(
  page: str, config: str, place: pathlib.Path, *, tiny: dict | None = None
) -> dict:
  """Does what the page says in a copy of the repository; its eval.json."""
  tiny = TINY if tiny is None else tiny
  for folder in ('dllm_jax', 'configs', 'launch'):
    shutil.copytree(pages.REPO / folder, place / folder)
  for path, text in pages.files(page).items():
    (place / path).write_text(text)
  for path, diff in pages.edits(page):
    file = place / path
    file.write_text(pages.apply(diff, file.read_text()))
  flags = [f'--config.{key}={value}' for key, value in tiny.items()]
  train = ['launch/train.py', '--config', config, '--workdir', 'run']
  run(place, *train, *flags)
  return json.loads((place / 'run' / 'eval.json').read_text())


def test_a_task_is_short():
  """What a reader writes is under 60 lines."""
  written = pages.files('add_a_task.md')
  assert set(written) == {'dllm_jax/tasks/sorting.py', 'configs/sorting.py'}
  lines = [
    line
    for text in written.values()
    for line in text.splitlines()
    if line.strip()
  ]
  assert len(lines) < 60


def test_the_task_trains(tmp_path):
  found = follow('add_a_task.md', 'configs/sorting.py', tmp_path)
  assert found['task'] == 'sorting' and found['num'] == 8
  assert 'terms/places' in (tmp_path / 'run/metrics.jsonl').read_text()


def test_the_method_trains(tmp_path):
  found = follow('add_a_method.md', 'configs/raft.py', tmp_path)
  assert found['final']['trained_steps'] == 2
  log = (tmp_path / 'run/metrics.jsonl').read_text()
  assert any(json.loads(row)['phase'] == 'rl' for row in log.splitlines())


def test_a_method_is_one_file_of_at_most_80_lines():
  written = pages.files('add_a_method.md')
  method = 'dllm_jax/train/methods/raft.py'
  assert set(written) == {method, 'configs/raft.py'}
  assert len(written[method].splitlines()) <= 80
  assert [path for path, _ in pages.edits('add_a_method.md')] == [
    'dllm_jax/train/methods/__init__.py'
  ]


def test_decoder_of_the_page_trains_generates_and_evaluates(tmp_path):
  found = follow('add_a_decoder.md', 'configs/bounded.py', tmp_path)
  assert found['final']['trained_steps'] == 2
  flags = [f'--config.{key}={value}' for key, value in TINY.items()]
  chosen = ['--model', 'run', '--decode', 'bounded', '--gamma', '0.5']
  prompt = ['--prompt', ' 24 4 29 = 57\n']
  row = json.loads(run(tmp_path, 'launch/generate.py', *chosen, *prompt))
  assert len(row['completion_ids']) == 12 and 1 <= row['num_steps'] <= 12
  evaluate = ['launch/eval.py', '--config', 'configs/bounded.py', *flags]
  run(tmp_path, *evaluate, *chosen, '--out', 'out.json')
  results = json.loads((tmp_path / 'out.json').read_text())
  assert results['decoding']['gamma'] == 0.5 and results['num'] == 8


def test_an_edit_wants_its_place():
  assert pages.apply(' b\n+c\n', 'a\nb\nd\n') == 'a\nb\nc\nd\n'
  assert pages.apply('-b\n+c\n', 'a\nb\n') == 'a\nc\n'
  with pytest.raises(ValueError, match='x'):
    pages.apply(' x\n+c\n', 'a\nb\n')
