"""CPC-GRPO: answer-free RL from the agreement of paraphrases, on a laptop.

  python launch/train.py --config configs/cpc_grpo.py --workdir runs/cpc_grpo

A causal transformer of 0.5M parameters learns to reorder four letters from a
corpus that misreads about half of the sixteen phrasings. CPC-GRPO then trains
it on eight of them without any answer, and so do the arms: the form that is
closest to the abstract, majority vote and the intrinsic rewards, each from the
same base and for as many updates. On two CPU cores (5 seeds, docs/results.md):
49.5 -> 85.2 % over the phrasings, 18.3 -> 78.0 % under the worst; 10 to 11
minutes beside other work. No published figure could be read.

Presets, after a colon:
  shared_bias         two intents are misread under all phrasings alike.
  ablation            arms that change one choice of the method each.
  gsm8k, openbookqa   the questions of the data set under eight instructions of
                      ours, for a causal model folder with LoRA:
                        --config.base.path=DIR --config.data_dir=DATA
                      Rank, alpha, rate, schedule, warm-up and clipping are
                      those of the first author's GRPO code for another task;
                      the paper's could not be read.
  paraphrases         the same for instructions and paraphrases of your own,
                      without answers: DATA/paraphrases/train.jsonl has lines
                      such as {"instruction": "...", "paraphrases": ["..."]},
                      the form of RobustAlpacaEval. Measures agreement on
                      held-out rows, under unseen phrasings too.
"""

from ml_collections import config_dict

from configs import base

PRESETS = ('shared_bias', 'ablation', 'gsm8k', 'openbookqa', 'paraphrases')


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The run's configuration; `arg` is the preset."""
  if arg and arg not in PRESETS:
    raise ValueError(f'unknown preset {arg!r}; there are {" | ".join(PRESETS)}')
  config = base.get_config()
  config.task = config_dict.ConfigDict(
    {'name': 'phrasings', 'seed': 0, 'misreading': 0.48, 'shared_bias': 0}
  )
  config.data.update(num_demonstrations=0, num_validation=512, num_test=256)
  config.model.update(
    causal=True,
    hidden_size=128,
    num_layers=3,
    num_heads=8,
    num_kv_heads=8,
    head_dim=16,
  )
  config.rollout.update(
    decode='autoregressive',
    num_prompts=8,
    group_size=8,
    max_prompt_length=12,
    gen_length=6,
  )
  config.method = config_dict.ConfigDict(
    {
      'name': 'cpc_grpo',
      'num_views': 8,
      'signal': 'consensus',  # or what an arm learns from
      'pairs': 'all',  # or 'own'
      'cross_negative': 0.0,
      'aggregate': 'mean',  # or 'log_mean_exp', 'worst', 'probability'
      'include_self': False,
      'subtract_unrelated': False,
      'scorer': 'reference',  # or 'policy'
      'candidates': 'per_view',  # or 'ensemble', 'mixed'
      'ensemble_mean': 'geometric',  # or 'arithmetic'
      'prefix': 0,  # of all tokens; or the first few
      'advantage': config.method.advantage,
      'policy': config.method.policy,
    }
  )
  config.method.advantage.min_std = 0.05
  config.method.policy.estimator = 'next_token'
  config.base.update(batch_size=64, num_steps=900, eval_every=300, patience=0)
  config.base.optim.update(
    learning_rate=2e-3, schedule='cosine', decay_steps=900
  )
  config.train.update(num_steps=80, eval_every=40, control=False)
  config.arms = config_dict.ConfigDict(
    {
      # Closest to what the abstract says.
      'all_signs': _arm('consensus', 2e-4, scorer='policy', cross_negative=1.0),
      'majority': _arm('majority', 2e-4, cross_negative=1.0),
      'self_likelihood': _arm('self_likelihood', 1e-4, pairs='own'),
      'self_certainty': _arm('self_certainty', 3e-5, pairs='own'),
      'entropy': _arm('entropy', 3e-5, pairs='own'),
      'random': _arm('random', 3e-5, pairs='own'),
    }
  )
  if arg == 'shared_bias':
    config.task.shared_bias = 2
  elif arg == 'ablation':
    config.arms = config_dict.ConfigDict(_ABLATION)
  elif arg:
    _pretrained(config, arg)
  return config.lock()


_ABLATION = {
  'include_self': {'method': {'include_self': True}},
  'three_views': {
    'method': {'num_views': 3},
    'rollout': {'group_size': 3},
  },
  'three_views_include_self': {
    'method': {'num_views': 3, 'include_self': True},
    'rollout': {'group_size': 3},
  },
  'prefix_1': {'method': {'prefix': 1}},
  'prefix_2': {'method': {'prefix': 2}},
  'prefix_3': {'method': {'prefix': 3}},
  'ensemble': {'method': {'candidates': 'ensemble'}},
  'mixed': {'method': {'candidates': 'mixed'}},
  'own_pairs': {'method': {'pairs': 'own'}},
  'cross_negative_1': {'method': {'cross_negative': 1.0}},
  'worst_view': {'method': {'aggregate': 'worst'}},
  'policy_scorer': {
    'method': {'scorer': 'policy'},
    'train': {'optim': {'learning_rate': 1e-4}},
  },
  'subtract_unrelated': {'method': {'subtract_unrelated': True}},
}


def _arm(signal: str, learning_rate: float, **method) -> dict:
  """Another answer-free reward, with a rate of its own."""
  return {
    'method': {'signal': signal, **method},
    'train': {'optim': {'learning_rate': learning_rate}},
  }


def _pretrained(config: config_dict.ConfigDict, task: str) -> None:
  """A causal model folder with LoRA on a benchmark, or on the user's rows."""
  config.task = config_dict.ConfigDict({'name': f'{task}_phrasings'})
  config.data.update(num_demonstrations=0, num_validation=64, num_test=128)
  if task == 'paraphrases':
    config.task = config_dict.ConfigDict({'name': task, 'num_unseen': 2})
    config.data.update(num_validation=0, num_test=0)  # all that are held out
  config.model.update(lora_rank=16, lora_alpha=32.0, remat='block')
  config.rollout.update(
    num_prompts=2, max_prompt_length=512, gen_length=256, stop_at_eos=True
  )
  config.method.policy.num_micro = 16
  config.train.update(num_steps=150, eval_every=0)
  config.train.optim.update(
    learning_rate=3e-5,
    schedule='cosine',
    decay_steps=150,
    warmup_steps=5,
    max_grad_norm=0.2,
  )
  config.eval.batch_size = 32
  config.base.path = 'checkpoints/causal'
  config.arms = config_dict.ConfigDict()
  config.mesh.cpu_devices = 1
