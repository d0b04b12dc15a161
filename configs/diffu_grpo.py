"""diffu-GRPO."""

from ml_collections import config_dict

from configs import base


def get_config(arg: str = '') -> config_dict.ConfigDict:
  config = base.get_config()
  config.method.name = 'diffu_grpo'
  return config.lock()
