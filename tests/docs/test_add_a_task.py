"""A reader who does what docs/add_a_task.md says has a task that trains."""

import json
import os
import shutil
import subprocess
import sys

from tests.docs import pages

PAGE = 'add_a_task.md'
# The run of the page, over in seconds.
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


def test_it_is_short():
  """What a reader writes is under 60 lines."""
  written = pages.files(PAGE)
  assert set(written) == {'dllm_jax/tasks/sorting.py', 'configs/sorting.py'}
  lines = [
    line
    for text in written.values()
    for line in text.splitlines()
    if line.strip()
  ]
  assert len(lines) < 60


def test_the_task_trains(tmp_path):
  for folder in ('dllm_jax', 'configs', 'launch'):
    shutil.copytree(pages.REPO / folder, tmp_path / folder)
  for path, text in pages.files(PAGE).items():
    (tmp_path / path).write_text(text)
  for path, diff in pages.edits(PAGE):
    file = tmp_path / path
    file.write_text(pages.apply(diff, file.read_text()))
  flags = [f'--config.{key}={value}' for key, value in TINY.items()]
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  done = subprocess.run(
    [sys.executable, 'launch/train.py', '--config', 'configs/sorting.py']
    + ['--workdir', 'runs/sorting', *flags],
    cwd=tmp_path,
    env=env | {'PYTHONPATH': str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'runs/sorting/eval.json').read_text())
  assert found['task'] == 'sorting' and found['num'] == 8
  assert (
    'reward/places' in (tmp_path / 'runs/sorting/metrics.jsonl').read_text()
  )
