"""AG-GRPO on Countdown: the whole method on a laptop.

  python launch/train.py --config configs/ag_grpo.py --workdir runs/ag_grpo

Base model, AG-GRPO, the supervised control, evaluation. On two CPU cores: 7 to
12 min; greedy accuracy at 12 steps 19.6 -> 34.4 % (5 seeds, +14.8 +- 2.8
points; docs/results.md). The paper has no CPU figures; its tables are of
LLaDA-8B.

Presets, after a colon:
  equations           reasoning that spells out the equations, few
                      demonstrations (docs/results.md, second table).
  cached              equations in blocks of 4; arms sample through a cache
                      (docs/decoding.md).
  sudoku              4x4 Sudoku.
  equations,variants  variants of the guidance as arms, and no guidance
  sudoku,variants     (docs/methods/ag_grpo.md).
  rows                rows of your own, with a verifier
                      (docs/your_own_data.md); llada_8b,rows and dream_7b,rows
                      with the values of the release.
  llada_8b,TASK       hyper-parameters of the release (Kim et al. 2026) for
  dream_7b,TASK       gsm8k, math, countdown, sudoku, kodcode, mbpp, and, to
                      evaluate on, humaneval; base.path names
                      a model folder. AG-GRPO was not
                      released for Dream. Not run here: command, hardware and
                      reported figures are in configs/presets.py. The release
                      takes two prompts a step, 4000 optimiser steps (kodcode
                      2000), 64 denoising steps (kodcode 128).
"""

from ml_collections import config_dict

from configs import base, presets


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The run's configuration; `arg` is the preset."""
  config = base.get_config()
  config.method.name = 'ag_grpo'
  config.method.guided = config_dict.ConfigDict(
    {
      'num_guided': 4,
      'num_steps': 6,
      'answer_steps': 4,
      'margin': 1,
      'max_anchor': 8,
      'template': 'wanted',
      'suppress_eos': False,
      'groups': 'all',  # 'failed': those without a right answer (IGPO)
      'anneal_steps': 0,  # steps until no row is guided; 0 is never
      'credit': 'all',  # 'reasoning': not the answer
    }
  )
  presets.apply(config, arg)
  if not arg:
    # Without weights guided rows drift away from the policy, and some runs
    # break down for a while (docs/results.md). Presets have none.
    config.method.policy.max_sampler_ratio = 2.0
  return config.lock()
