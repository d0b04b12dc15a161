"""The model of docs/add_a_model.md trains, decodes, and ignores padding."""

import json
import sys
import types as python

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dllm_jax import errors, models, types
from dllm_jax.decoding import fixed
from dllm_jax.run import checks, settings, setup
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
  config = json.loads((tmp_path / 'run/final/config.json').read_text())
  assert config['model_type'] == 'dllm_jax'
  assert config['model'] == {'name': 'window', 'reach': 8, 'width': 96}
  generate = ['launch/generate.py', '--prompt= 3 5 7 = 15', '--model']
  row = json.loads(test_extending.run(tmp_path, *generate, 'run'))
  assert len(row['completion_ids']) == 12
  # Its base is a base for another run, as Hugging Face's folders are.
  flags = [f'--config.{key}={value}' for key, value in TINY.items()]
  train = ['launch/train.py', '--config=configs/window.py', *flags]
  test_extending.run(
    tmp_path, *train, '--config.base.path=run/base', '--workdir=again'
  )
  finals = [
    load_file(tmp_path / name / 'final/model.safetensors')
    for name in ('run', 'again')
  ]
  assert 'Conv_0.kernel' in finals[0]
  tiny_run.assert_same(*finals)


def test_it_decodes_and_ignores_padding(window):
  assert isinstance(window, types.Trainable)
  params = window.init(jax.random.key(0))
  canvas = tiny.canvas([[5, 6], [7, 8, 9]], 8)
  trajectory = tiny.decode(
    window,
    params,
    tiny.row_keys(1, [0, 1]),
    canvas,
    fixed.Fixed(gen_length=8, block_length=8, num_steps=4, temperature=1.0),
    vocab=tiny.VOCAB,
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
  return cfg, setup.make_context(cfg, None)


def test_wrong_keys_of_the_model_are_one_line(window):
  with pytest.raises(errors.UserError, match="group 'model': .*'depth'"):
    context_of(WINDOW | {'depth': 2})
  with pytest.raises(errors.UserError, match='expected one of .*window'):
    context_of(WINDOW | {'name': 'windows'})


def test_a_mesh_that_divides_parameters_is_refused_in_one_line(window):
  checks.check_shapes(*context_of(WINDOW, mesh__data=2))
  with pytest.raises(errors.UserError, match='model.name=window has no `part`'):
    checks.check_shapes(*context_of(WINDOW, mesh__data=1, mesh__fsdp=2))
