"""MoE-ERL: reinforcement learning of expert routing, beside its controls.

  python launch/train.py --config configs/moe_erl.py --workdir runs/moe_erl

Trains a causal transformer of 2 layers and 8 experts on tagged functions, then
its routing by MoE-ERL and by the arms, from the same base and on the same
batches, and measures the routing of all of them: routing.json and the report.
Presets, by where the base comes from: merged (the default; each expert has seen
the rows of one tag, and the routers are new), scratch, upcycled (every expert
is a copy of a dense model's MLP), trained (with the auxiliary losses), and gpu,
not run here: 12 layers of width 512, upcycled. On text, with perplexity:
wikitext, a dense model of the characters of WikiText-2, upcycled, where the
method gained nothing (3 seeds); and gpt2, the same as GPT-2 is built, 12 layers
of width 512 of which every other one has experts, for one GPU, not run here.
Both need --config.data_dir=DATA, with DATA/wikitext-2/valid.txt and test.txt.
scitldr (summaries of abstracts, ROUGE) and squad (questions, exact matches and
F1) continue a folder with experts, --config.base.path=DIR
(docs/methods/moe_erl.md); they have not been run on a useful model.
On two shared CPU cores: 4 min 41 s, with one arm less. MRR .998 (chance .0515)
against .067 of auxiliary losses at equal compute; docs/methods/moe_erl.md has
all arms. The paper reports up to 8.9 times its baselines.
"""

from ml_collections import config_dict

from configs import base

PRESETS = (
  'merged',
  'scratch',
  'upcycled',
  'trained',
  'gpu',
  'wikitext',
  'gpt2',
  'scitldr',
  'squad',
)
_LARGE = {
  'hidden_size': 512,
  'num_layers': 12,
  'num_heads': 8,
  'num_kv_heads': 8,
  'head_dim': 64,
  'dtype': 'bfloat16',
}
# By preset, where that is not the start of its name.
_STARTS = {'scratch': '', **dict.fromkeys(PRESETS[4:], 'upcycled')}


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
    sparse_every=1,  # 2: in every other layer
    experts_per_token=1,
    gate_scale='none',
    capacity_factor=base.PLACEHOLDER(float),
    shared_size=0,  # width of an expert that serves every token too
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
      'jitter': 0.0,  # of routers; Switch has 0.01
      'num_micro': 1,
      'start': _STARTS.get(arg, arg),
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
    config.model.update(**_LARGE, mlp_size=1024)
    config.rollout.num_prompts = 256
    config.base.update(batch_size=256, num_steps=2000)
    config.train.num_steps = 2000
    config.base.optim.learning_rate = config.train.optim.learning_rate = 5e-4
  config.eval.batch_size = 128
  if arg in ('wikitext', 'gpt2'):
    _text(config)
  if arg == 'gpt2':
    _gpt2(config)
  if arg in _REFERENCES:
    _references(config, arg)
  config.mesh.cpu_devices = 1
  config.arms = config_dict.ConfigDict(_arms(config))
  if arg in ('wikitext', 'gpt2'):
    del config.arms['other']
  return config.lock()


def _text(config: config_dict.ConfigDict) -> None:
  """A small model of characters."""
  config.task = config_dict.ConfigDict(
    {'name': 'wikitext-2', 'num_given': 32, 'length': 96, 'ascii_only': True}
  )
  config.data.update(num_demonstrations=0, num_validation=32, num_test=64)
  config.model.update(
    hidden_size=96, num_heads=4, num_kv_heads=4, head_dim=24, mlp_size=192
  )
  config.rollout.update(num_prompts=16, max_prompt_length=32, gen_length=96)
  config.base.update(batch_size=32, num_steps=600)
  config.train.num_steps = 150
  config.train.optim.learning_rate = 1e-3
  config.eval.batch_size = 32


# Tokens of a prompt and of a completion, for a vocabulary like GPT-2's.
_REFERENCES = {'scitldr': (800, 192), 'squad': (800, 64)}


def _references(config: config_dict.ConfigDict, name: str) -> None:
  """Short texts after long ones."""
  config.task = config_dict.ConfigDict({'name': name})
  config.base.path = 'checkpoints/gpt2_moe'
  config.data.update(num_demonstrations=0, num_validation=32, num_test=64)
  prompt, completion = _REFERENCES[name]
  config.rollout.update(
    num_prompts=8, max_prompt_length=prompt, gen_length=completion
  )
  config.train.num_steps = 500
  config.train.optim.learning_rate = 5e-5
  config.eval.batch_size = 8


def _gpt2(config: config_dict.ConfigDict) -> None:
  """The blocks of GPT-2, larger."""
  config.task.update(num_given=64, length=256)
  config.model.update(
    **_LARGE,
    mlp_size=2048,
    norm='layer',
    max_positions=320,
    attention_bias=True,
    output_bias=True,
    tie_embeddings=True,
    embed_init_std=0.02,
    feed_forward='gelu_experts',
    sparse_every=2,
    router_init_std=1.0,
    remat='block',
  )
  config.rollout.update(num_prompts=64, max_prompt_length=64, gen_length=256)
  config.base.update(batch_size=128, num_steps=2000)
  config.base.optim.learning_rate = config.train.optim.learning_rate = 3e-4
  config.train.num_steps = 1000


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
    # The next-token loss as large as wPL's.
    'aux_double_loss': {'method': {**aux()['method'], 'lm_weight': 2.0}},
    'shuffled_advantages': {'method': {'credit': {'shuffle': True}}},
    # The language-model loss then trains the router.
    'scaled_gate': {**aux(), 'model': {'gate_scale': 'probability'}},
    'other': {'method': other()},
    'wpl': {'method': {**other(), 'path_weight': 1.0}},
  }
