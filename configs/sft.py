"""Supervised fine-tuning alone: the base model that the RL runs start from.

  python launch/train.py --config configs/sft.py --workdir runs/sft

Ends when validation accuracy has not risen for `base.patience` evaluations.
On two CPU cores: 70 s; greedy accuracy at 12 steps 22.5 +- 6.8 % (3 seeds).
Presets: those of configs/ag_grpo.py.
"""

from ml_collections import config_dict

from configs import base, presets


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The run's configuration; `arg` is the preset."""
  config = base.get_config()
  config.method.name = 'sft'
  presets.apply(config, arg)
  return config.lock()
