"""The model of docs/add_a_model.md trains, decodes, and ignores padding."""

import json
import os
import subprocess
import sys
import types as python

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import errors, models, types
from dllm_jax.decoding import fixed
from dllm_jax.run import checks, settings, setup
from dllm_jax.text import tokenizer
from tests import tiny, tiny_run
from tests.docs import pages, test_extending

TINY = {
  key: value
  for key, value in test_extending.TINY.items()
  if not key.startswith('model.')
}
WINDOW = {'name': 'window', 'reach': 2, 'width': 16}


@pytest.fixture
def window(monkeypatch):
  """The page's model, among the models that a config can name."""
  module = python.ModuleType('window')
  sys.modules['window'] = module  # where dataclasses look for it
  exec(pages.files('add_a_model.md')['dllm_jax/models/window.py'], vars(module))
  monkeypatch.setitem(models.MODELS, 'window', module.WindowDenoiser)
  yield module.WindowDenoiser(vocab_size=tiny.ROWS, reach=2, width=16)
  del sys.modules['window']


def test_the_page_is_short():
  """One file, one config, one line, and the import that it needs."""
  written = pages.files('add_a_model.md')
  assert set(written) == {'dllm_jax/models/window.py', 'configs/window.py'}
  [(path, diff)] = pages.edits('add_a_model.md')
  assert path == 'dllm_jax/models/__init__.py' and diff.count('\n+') == 2
  assert sum(map(str.count, written.values(), '\n' * 2)) < 70


def test_it_trains_by_the_command_and_generates(tmp_path):
  found = test_extending.follow(
    'add_a_model.md', 'configs/window.py', tmp_path, tiny=TINY
  )
  assert found['final']['trained_steps'] == 2
  log = (tmp_path / 'run/metrics.jsonl').read_text()
  phases = [json.loads(row)['phase'] for row in log.splitlines()]
  assert phases.count('sft') == 2 and phases.count('rl') == 2
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  command = ['launch/generate.py', '--model=run', '--prompt= 3 5 7 = 15']
  done = subprocess.run(
    [sys.executable, *command, '--out=out.jsonl'],
    cwd=tmp_path,
    env=env | {'PYTHONPATH': str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  row = json.loads((tmp_path / 'out.jsonl').read_text())
  assert len(row['completion_ids']) == 12


def test_it_decodes_and_ignores_padding(window):
  assert isinstance(window, types.Trainable)
  params = window.init(jax.random.key(0))
  canvas = tiny.canvas([[5, 6], [7, 8, 9]], 8)
  trajectory = fixed.decode(
    window,
    params,
    tiny.row_keys(1, [0, 1]),
    canvas,
    jnp.int32(4),
    jnp.float32(1.0),
    vocab=tiny.VOCAB,
    cfg=fixed.FixedConfig(gen_length=8, block_length=8),
  )
  assert not (np.asarray(trajectory.tokens) == tiny.MASK).any()
  assert trajectory.num_steps.tolist() == [4, 4]

  query = jnp.arange(11)[None].repeat(2, 0)
  logits = window(params, *canvas, query)
  wider = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (5, 0))), canvas)
  again = window(params, *wider, query + 5)
  real = np.asarray(canvas.attention_mask)
  np.testing.assert_allclose(logits[real], again[real], atol=1e-6)


def context_of(model, **changes):
  cfg = settings.from_config(
    tiny_run.values('diffu_grpo', **changes) | {'model': model}
  )
  words = tokenizer.Tokenizer.from_words(cfg.task.words())
  return cfg, setup.make_context(cfg, words)


def test_wrong_keys_of_the_model_are_one_line(window):
  with pytest.raises(errors.UserError, match="group 'model': .*'depth'"):
    context_of(WINDOW | {'depth': 2})
  with pytest.raises(errors.UserError, match="expected one of .*'window'"):
    context_of(WINDOW | {'name': 'windows'})


def test_a_mesh_that_divides_parameters_is_refused_in_one_line(window):
  checks.check_shapes(*context_of(WINDOW, mesh__data=2))
  with pytest.raises(errors.UserError, match='model.name=window has no `part`'):
    checks.check_shapes(*context_of(WINDOW, mesh__data=1, mesh__fsdp=2))
