"""Supervised fine-tuning alone: the base model that the RL runs start from.

  python launch/train.py --config configs/sft.py --workdir runs/sft

or of a model folder, masked or causal, with adapters (RUN/final; not run here):

  python launch/train.py --config configs/sft.py:llada_8b,gsm8k \
    --config.base.path=Qwen3-0.6B --config.rollout.decode=autoregressive \
    --config.train.num_steps=200 --config.data_dir=DATA --workdir RUN

or on rows of your own, with the loss of the assistant's turns alone
(docs/your_own_data.md; not run here on a model of this size):

  python launch/train.py --config configs/sft.py --workdir RUN \
    --config.data.train=FILE.jsonl --config.base.path=Qwen3-0.6B \
    --config.rollout.decode=autoregressive

or of a model that is causal over blocks of four tokens:

  python launch/train.py --config configs/sft.py:block --workdir runs/block

Ends when validation accuracy has not risen for `base.patience` evaluations.
On two CPU cores: 70 s; greedy accuracy at 12 steps 22.5 +- 6.8 % (3 seeds).
Presets: those of configs/ag_grpo.py; with llada_8b,TASK and dream_7b,TASK,
which name a pretrained base, train.num_steps is 0, so that nothing is trained:
the folder is evaluated. And `block`, of the default's size: 13.2 +- 2.2 % at 12
steps, 12.8 at 6 (one seed, +- 1.96 standard errors).
LLaDA-8B as it comes scores GSM8K 69.3/76.4/78.1 % at 128/256/512 tokens
(configs/presets.py has the other tasks, the hardware and the sources). Not run
here.
"""

from ml_collections import config_dict

from configs import base, presets


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The run's configuration; `arg` is the preset."""
  config = base.get_config()
  config.method.name = 'sft'
  if arg == 'block':
    _block(config)
  else:
    presets.apply(config, arg)
  return config.lock()


def _block(config: config_dict.ConfigDict) -> None:
  """BD3-LMs (Arriola et al. 2025): blocks in order, each denoised."""
  config.model.block_causal = 4
  config.rollout.block_length = 4
  config.eval.num_steps = (12, 6, 3)
