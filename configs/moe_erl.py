"""MoE-ERL: reinforcement learning of expert routing, beside its controls.

  python launch/train.py --config configs/moe_erl.py --workdir runs/moe_erl

Trains a causal transformer of 2 layers and 8 experts on tagged functions, then
its routing by MoE-ERL and by the arms, from the same base and on the same
batches, and measures the routing of all of them: routing.json and the report.
Presets, by where the base comes from: merged (the default; each expert has seen
the rows of one tag, and the routers are new), scratch, upcycled (every expert
is a copy of a dense model's MLP), trained (with the auxiliary losses), and gpu,
not run here: 12 layers of width 512, upcycled.
On two shared CPU cores: 4 min 41 s. MRR .998 (chance .0515) against .067 of
auxiliary losses at equal compute; docs/methods/moe_erl.md has all arms. The
paper reports up to 8.9 times its baselines.
"""

from ml_collections import config_dict

from configs import base

PRESETS = ('merged', 'scratch', 'upcycled', 'trained', 'gpu')


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
      'start': {'scratch': '', 'gpu': 'upcycled'}.get(arg, arg),
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
  if arg == 'gpu':
    config.model.update(
      hidden_size=512,
      num_layers=12,
      num_heads=8,
      num_kv_heads=8,
      head_dim=64,
      mlp_size=1024,
      dtype='bfloat16',
    )
    config.rollout.num_prompts = 256
    config.base.update(batch_size=256, num_steps=2000)
    config.train.num_steps = 2000
    config.base.optim.learning_rate = config.train.optim.learning_rate = 5e-4
  config.eval.batch_size = 128
  config.mesh.cpu_devices = 1
  config.arms = config_dict.ConfigDict(_arms(config))
  return config.lock()


def _arms(config: config_dict.ConfigDict) -> dict:
  """The controls, and other choices of the method."""
  # Auxiliary losses only, and any other expert; arms share no dict, so that
  # the command line changes one of them.
  aux = lambda: {'method': {'rl_weight': 0.0, 'path_weight': 0.0}}
  other = lambda: {'explore': {'replacement': 'other'}}
  # Forward passes of an update of the method; both follow the command line.
  passes = 1 + config.method.explore.get_oneway_ref('num_paths')
  return {
    'aux': aux(),
    'aux_equal_compute': {
      **aux(),
      'train': {'num_steps': passes * config.train.get_oneway_ref('num_steps')},
    },
    'shuffled_advantages': {'method': {'credit': {'shuffle': True}}},
    # The language-model loss then trains the router.
    'scaled_gate': {**aux(), 'model': {'gate_scale': 'probability'}},
    'other': {'method': other()},
    'wpl': {'method': {**other(), 'path_weight': 1.0}},
  }
