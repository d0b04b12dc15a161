"""AG-GRPO."""

from ml_collections import config_dict

from configs import base


def get_config(arg: str = '') -> config_dict.ConfigDict:
  config = base.get_config()
  config.method.name = 'ag_grpo'
  config.method.guided.num_guided = 4
  return config.lock()
