"""diffu-GRPO on Countdown: AG-GRPO without its guided rows.

  python launch/train.py --config configs/diffu_grpo.py --workdir runs/diffu \
    --config.base.path=runs/ag_grpo/base

`base.path` starts from the base model of another run; without it one is
trained. On two CPU cores, greedy accuracy at 12 steps 22.5 -> 36.6 % (3 seeds,
+14.1 +- 2.7 points; docs/results.md). The tiny run uses the `trajectory`
estimator; `--config.method.policy.estimator=one_step` is the paper's. Presets:
those of configs/ag_grpo.py; llada_8b,TASK has the values of d1 (Zhao et al.
2025). Not run here:

  python launch/train.py --config configs/diffu_grpo.py:llada_8b,gsm8k \
    --config.base.path=LLaDA-8B-Instruct --config.data_dir=DATA --workdir RUN

d1 took eight A100s for about two days; 7700 optimiser steps for gsm8k, 6600 for
math, 5000 for countdown, 3800 for sudoku (its issue #25). Reported, at 256
tokens: GSM8K 76.4 -> 79.8 %, MATH-500 32.4 -> 37.2 %, Countdown 19.5 -> 31.3 %;
the rest, and where each figure is from, in configs/presets.py.
"""

from ml_collections import config_dict

from configs import base, presets


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The run's configuration; `arg` is the preset."""
  config = base.get_config()
  config.method.name = 'diffu_grpo'
  presets.apply(config, arg)
  return config.lock()
