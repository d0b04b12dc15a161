"""A whole run that is over in seconds: a config file, and its parts.

--config tests/tiny_run.py:ag_grpo
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

import configs.ag_grpo
import configs.cpc_grpo
import configs.ta_grpo_d
from configs import base
from dllm_jax.run import settings, setup
from dllm_jax.state import arrays
from dllm_jax.train import methods, optim, progress
from dllm_jax.train import state as state_lib

SHAPE = {
  'hidden_size': 16,
  'num_layers': 1,
  'num_heads': 2,
  'num_kv_heads': 2,
  'head_dim': 8,
  'mlp_size': 32,
}
# A reward that an untrained model gets some of, so that RL moves.
REWARD = {'solution': 1.0, 'xmlcount': 1.0}


def get_config(arg: str = 'ag_grpo'):
  """The tiny run of a method, or 'sudoku': AG-GRPO on that task."""
  if arg == 'cpc_grpo':
    config = configs.cpc_grpo.get_config().unlock()
    config.arms = {}
  else:
    config = base.get_config()
    config.method.name = 'ag_grpo' if arg == 'sudoku' else arg
    config.method.reward = REWARD
    config.task.max_number = 9
    config.task.max_target = 20
  if config.method.name == 'ag_grpo':
    config.method.guided = configs.ag_grpo.get_config().method.guided
    config.method.guided.update(
      {'num_guided': 2, 'answer_steps': 4, 'margin': 0, 'max_anchor': 7}
    )
  config.method.policy.num_micro = 2
  config.method.advantage.divide_by_std = arg == 'cpc_grpo'
  config.train.optim.learning_rate = 1e-3
  config.model.update(SHAPE)
  config.rollout.update({'num_prompts': 4, 'group_size': 4})
  if arg == 'cpc_grpo':
    config.method.num_views = 4
  config.data.update(
    {'num_demonstrations': 32, 'num_validation': 12, 'num_test': 12}
  )
  config.base.update(
    {'num_steps': 4, 'batch_size': 8, 'eval_every': 2, 'patience': 0}
  )
  config.train.update({'num_steps': 6, 'eval_every': 3, 'control': False})
  config.eval.update({'num_steps': (6, 3), 'batch_size': 8})
  config.checkpoint.every = 1
  if arg == 'ta_grpo_d':
    config.rollout.update({'decode': 'gated', 'threshold': 0.1})
    config.method.credit = configs.ta_grpo_d.get_config().method.credit
    config.eval.thresholds = (0.2, 0.05)
    config.train.floor_patience = 3
  if arg == 'sudoku':
    config.task = {'name': 'sudoku', 'prompt_style': 'terse', 'parity': False}
    config.method.reward = {'cells': 1.0, 'xmlcount': 1.0}
    config.rollout.update(
      {'max_prompt_length': 17, 'gen_length': 40, 'block_length': 40}
    )
    config.method.guided.max_anchor = 20
  return config.lock()


def values(arg: str = 'ag_grpo', **changes) -> dict:
  """The config as nested dicts; `rollout__gen_length=16` changes a key."""
  return changed(get_config(arg), **changes)


def changed(config, **changes) -> dict:
  """A config as nested dicts, with changes such as those of `values`."""
  config = config.unlock()
  with config.ignore_type():
    for name, value in changes.items():
      *groups, last = name.split('__')
      group = config
      for part in groups:
        group = group[part]
      group[last] = value
  return config.to_dict()


def flags(**changes) -> list[str]:
  """The same changes for a command line."""
  return [
    f'--config.{name.replace("__", ".")}={value}'
    for name, value in changes.items()
  ]


def parts(arg: str = 'ag_grpo', *, devices: int = 1, **changes):
  """(settings, context) of the tiny run, on some of the fake devices."""
  changes = {'mesh__data': devices} | changes
  cfg = settings.from_config(values(arg, **changes))
  return cfg, setup.make_context(cfg, None)


optimizer = functools.cache(optim.make)  # jit knows an optimiser by identity


def start(cfg, ctx):
  """(method, state) of RL from random parameters, which a KL term refers to."""
  made = optimizer(cfg.optim)
  params = setup.fresh_params(ctx)
  method = methods.METHODS[cfg.method_name](
    cfg=cfg.method,
    ctx=ctx,
    rollout=cfg.rollout,
    optimizer=made,
    reference=jax.tree.map(jnp.copy, params),
  )
  return method, progress.on_one_mesh(state_lib.create(params, made))


def rows(*solutions: str, numbers=(5, 3, 1)) -> list[dict]:
  """Countdown rows with the given gold answers, right or not."""
  return [
    {
      'id': f'row{i}',
      'numbers': list(numbers),
      'target': 7,
      'solution': solution,
      'num_solutions': 1,
    }
    for i, solution in enumerate(solutions)
  ]


def kept(directory) -> dict[str, np.ndarray]:
  """The tensors of a model folder, or the leaves of a checkpoint, by name."""
  if (directory / 'dllm_jax.json').exists():
    files = sorted(directory.glob('*.safetensors'))
    return {k: v for file in files for k, v in load_file(file).items()}
  manifest = json.loads((directory / 'manifest.json').read_text())
  like = {
    name: jax.ShapeDtypeStruct(tuple(shape), dtype)
    for name, (shape, dtype) in manifest['leaves'].items()
  }
  leaves = arrays.restore((directory / 'arrays').absolute(), like)
  return jax.device_get(leaves)


def assert_same(got, want):
  """Trees that are equal bit for bit."""
  jax.tree.map(np.testing.assert_array_equal, got, want)
