"""TA-GRPO-d on Countdown: fewer denoising steps at no loss of accuracy.

python launch/train.py --config configs/ta_grpo_d.py --workdir runs/ta
"""

from ml_collections import config_dict

from configs import base, presets


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The run's configuration; `arg` is the preset."""
  config = base.get_config()
  config.method.name = 'ta_grpo_d'
  config.rollout.decode = 'gated'
  config.method.credit.delta = 0.5
  config.train.floor_patience = 3
  config.eval.thresholds = (0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)
  presets.apply(config, arg)
  return config.lock()
