"""TA-GRPO-d on Countdown: fewer denoising steps, on a laptop.

  python launch/train.py --config configs/ta_grpo_d.py --workdir runs/ta_grpo_d

Base model, TA-GRPO-d, the supervised control, evaluation over thresholds and
fixed schedules. On two CPU cores 8 min 32 s from a base that is there (3 seeds,
docs/results.md): the base's 18.8 % in 12 steps, its best schedule, becomes
25.9 % in 3.4 steps, and 26.2 % in 3.3 steps is 13.1 +- 10.4 points above the
base in as many. The paper reports up to half the steps at equal or better
accuracy, of LLaDA-8B; its tables were not readable.

Presets, after a colon:
  equations           reasoning that spells out the equations.
  cached              the same in blocks of 4; arms sample through a cache.
  sudoku              4x4 Sudoku.
  equations,variants  100 updates; arms without shaping, and shaped as
  sudoku,variants     published (docs/methods/ta_grpo_d.md).
  rows                rows of your own, with a verifier
                      (docs/your_own_data.md); llada_8b,rows and dream_7b,rows
                      with the values of the release.
  llada_8b,TASK       hyper-parameters of the release (Kim and Kang 2026) for
  dream_7b,TASK       gsm8k, math, countdown, sudoku, kodcode, mbpp, and, to
                      evaluate on, humaneval; base.path names a model folder.
                      Not run
                      here: command, hardware and reported figures are in
                      configs/presets.py. The release takes two prompts a step
                      (Dream one) and 5000 optimiser steps; its best case is
                      about 64 denoising steps where the schedule has 128.
"""

from ml_collections import config_dict

from configs import base, presets


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The run's configuration; `arg` is the preset."""
  config = base.get_config()
  config.method.name = 'ta_grpo_d'
  config.rollout.decode = 'gated'
  config.method.credit = config_dict.ConfigDict(
    {
      'delta': 0.5,
      'form': 'additive',
      'use_auc': True,
      'use_time': True,
      'max_multiplier': 2.0,
      'max_step_scores': 0,
    }
  )
  config.train.floor_patience = 3
  config.eval.thresholds = (0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)
  presets.apply(config, arg)
  return config.lock()
