"""CPC-GRPO: answer-free RL from the agreement of paraphrases."""

from ml_collections import config_dict

from configs import base


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The run's configuration."""
  config = base.get_config()
  config.task = config_dict.ConfigDict(
    {'name': 'phrasings', 'seed': 0, 'misreading': 0.48, 'shared_bias': 0}
  )
  config.data.update(num_demonstrations=0, num_validation=512, num_test=256)
  config.model.update(causal=True, num_layers=3)
  config.rollout.update(
    decode='autoregressive',
    num_prompts=8,
    group_size=8,
    max_prompt_length=10,
    gen_length=6,
  )
  config.method = config_dict.ConfigDict(
    {
      'name': 'cpc_grpo',
      'num_views': 8,
      'signal': 'consensus',
      'pairs': 'all',
      'cross_negative': 0.0,
      'aggregate': 'mean',
      'include_self': False,
      'subtract_unrelated': False,
      'scorer': 'policy',
      'candidates': 'per_view',
      'ensemble_mean': 'geometric',
      'prefix': 0,
      'advantage': config.method.advantage,
      'policy': config.method.policy,
    }
  )
  config.method.advantage.min_std = 0.05
  config.method.policy.estimator = 'next_token'
  config.base.update(batch_size=64, num_steps=900, eval_every=300, patience=0)
  config.base.optim.update(schedule='cosine', decay_steps=900)
  config.train.update(num_steps=160, eval_every=40, control=False)
  config.arms = config_dict.ConfigDict(
    {
      'majority': _arm('majority', 5e-4, pairs='all'),
      'self_likelihood': _arm('self_likelihood', 1e-4),
      'self_certainty': _arm('self_certainty', 1e-4),
      'entropy': _arm('entropy', 1e-4),
      'random': _arm('random', 1e-4),
    }
  )
  return config.lock()


def _arm(signal: str, learning_rate: float, *, pairs: str = 'own') -> dict:
  """Another answer-free reward, with the rate that is best on validation."""
  return {
    'method': {'signal': signal, 'pairs': pairs},
    'train': {'optim': {'learning_rate': learning_rate}},
  }
