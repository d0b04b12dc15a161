"""MoE-ERL: reinforcement learning of expert routing, beside its controls.

python launch/train.py --config configs/moe_erl.py --workdir runs/moe_erl
"""

from ml_collections import config_dict

from configs import base

PRESETS = ('merged', 'scratch', 'upcycled', 'trained')


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The run's configuration; `arg` is the preset."""
  arg = arg or 'merged'
  if arg not in PRESETS:
    raise ValueError(f'unknown preset {arg!r}; there are {" | ".join(PRESETS)}')
  config = base.get_config()
  config.task = config_dict.ConfigDict(
    {
      'name': 'tagged_functions',
      'num_tags': 8,
      'num_symbols': 32,
      'num_given': 3,
      'length': 12,
    }
  )
  config.data.update(num_demonstrations=0, num_validation=128, num_test=256)
  config.model.update(
    causal=True,
    hidden_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=12,
    mlp_size=48,
    feed_forward='experts',
    num_experts=8,
    experts_per_token=1,
    gate_scale='none',
    capacity_factor=base.PLACEHOLDER(float),
    router_init_std=0.02,
    dispatch='auto',
  )
  config.rollout.update(
    decode='autoregressive',
    temperature=0.0,
    num_prompts=32,
    max_prompt_length=4,
    gen_length=12,
  )
  config.method = config_dict.ConfigDict(
    {
      'name': 'moe_erl',
      'explore': {'num_paths': 3, 'alpha': 0.1, 'replacement': 'router'},
      'credit': {
        'advantage': 'minus',
        'baseline': 'top1',
        'loss': 'reinforce',
        'eps': 0.2,
        'max_weight': 5.0,
        'shuffle': False,
      },
      'rl_weight': 1.0,
      'path_weight': 0.0,
      'path_sum': False,
      'lm_weight': 1.0,
      'balance_weight': 1e-2,
      'z_weight': 1e-3,
      'pooled': False,
      'router_only': False,
      'num_micro': 1,
      'start': '' if arg == 'scratch' else arg,
      'arms': ('aux', 'aux_equal', 'shuffled', 'scaled', 'other', 'wpl'),
      'study': {'num_paths': 100, 'alpha': 0.25, 'replacement': 'other'},
    }
  )
  config.base.update(
    batch_size=64, num_steps=600, eval_every=0, patience=0, num_micro=1
  )
  config.base.optim.update(learning_rate=3e-3, warmup_steps=50)
  config.train.update(num_steps=300, eval_every=0, control=False)
  config.train.optim.update(
    learning_rate=3e-3, warmup_steps=10, max_grad_norm=1.0
  )
  if arg == 'scratch':
    config.base.num_steps = 0
    config.train.num_steps = 800
  config.eval.batch_size = 128
  config.mesh.cpu_devices = 1
  return config.lock()
