"""What presets change: tiny variants, and the published runs.

Published values are those of the released scripts of d1, AG-GRPO and TA-GRPO-d
(the papers' tables were not readable). `train.num_steps` counts rollout
batches: the released optimiser steps over mu.

The preset `rows` is of rows of your own, in a file that data.train names, and
llada_8b,rows and dream_7b,rows have the published values for them
(docs/your_own_data.md).

The presets MODEL,TASK, none of which was run here:

  python launch/train.py --config configs/METHOD.py:llada_8b,gsm8k \
    --config.base.path=LLaDA-8B-Instruct --config.data_dir=DATA --workdir RUN

Hardware: d1 trained on eight A100s for about two days, as published; AG-GRPO
and TA-GRPO-d released single-process runs of two prompts a step.
Computed for LLaDA-8B: 16.0 GB of weights in bfloat16, 335M adapter parameters
of rank 128 with Adam's moments 4.0 GB, so an accelerator of 80 GB holds both;
a rollout of d1's GSM8K shape (prompt 200, completion 256, 128 steps) is 889
TFLOP a sequence, its twelve inner updates 417. Dream-7B: 15.2 GB.

Accuracy in percent that the literature reports for LLaDA-8B-Instruct, zero-shot
and greedy, at completions of 128 / 256 / 512 tokens and half as many steps:

              before            diffu-GRPO        diffu-GRPO, one checkpoint
  gsm8k       69.3/76.4/78.1    72.6/79.8/81.9    72.2/80.6/81.3
  math        26.0/32.4/36.2    33.2/37.2/39.2    31.4/36.0/39.4
  countdown   20.7/19.5/16.0    33.2/31.3/37.1    30.9/30.9/34.4
  sudoku      11.7/6.7/5.5      18.4 at best      7.2/32.5/29.3 (3-shot)

`before`: d1's parsers on d1's published generations (`launch/score.py --rules
d1` on them gives the first column's 128). `diffu-GRPO`: d1, the best checkpoint
of each length, as quoted in SPG's table 8 (arXiv:2510.09541); sudoku counts
cells. `one checkpoint`: SPG's own runs, same table. Code, d1's best length
(notes on its paper): HumanEval 37.8 -> 39.0, MBPP 41.2 -> 45.5. AG-GRPO reports
a consistent gain over diffu-GRPO (abstract), especially large on sudoku (its
README); TA-GRPO-d half the denoising steps at best, at equal or better accuracy
(abstract; both ACL 2026). Tables of either were not found.
For Dream none of the three reports a figure that could be read.
"""

import difflib

from ml_collections import config_dict

TINY = ('equations', 'cached', 'sudoku')
VARIANTS = tuple(f'{name},variants' for name in ('equations', 'sudoku'))
MODELS = ('llada_8b', 'dream_7b')
CODE = ('kodcode', 'mbpp', 'humaneval')
TASKS = ('gsm8k', 'math', 'countdown', 'sudoku', *CODE, 'rows')
NAMES = (
  TINY + VARIANTS + ('rows',) + tuple(f'{m},{t}' for m in MODELS for t in TASKS)
)


def apply(config: config_dict.ConfigDict, arg: str) -> None:
  """Changes `config` as the preset `arg` says; '' changes nothing.

  Raises:
    ValueError: a preset that does not exist; the message has all names.
  """
  if arg and arg not in NAMES:
    near = difflib.get_close_matches(arg, NAMES, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ''
    raise ValueError(
      f'unknown preset {arg!r}; {guess}there are {" | ".join(NAMES)}'
    )
  if arg in VARIANTS:
    apply(config, arg.removesuffix(',variants'))
    _variants(config)
  elif arg == 'equations':
    _equations(config)
  elif arg == 'cached':
    _cached(config)
  elif arg == 'sudoku':
    _tiny_sudoku(config)
  elif arg == 'rows':
    _rows(config)
  elif arg:
    model, task = arg.split(',')
    _published(config, task)
    _MODELS[model](config)
    if config.method.name == 'ta_grpo_d':
      _gated(config, model, task)


def _equations(config: config_dict.ConfigDict) -> None:
  """Reasoning that spells the equations: an answer can be read off it.

  Few demonstrations, so that rollouts alone find little.
  """
  config.task.reasoning = 'equations'
  config.data.num_demonstrations = 400
  config.rollout.gen_length = config.rollout.block_length = 20
  config.rollout.num_steps = 10
  if config.method.name == 'ag_grpo':
    # The demonstrations fill the window.
    config.method.guided.update(num_steps=10, margin=0, max_anchor=7)
  config.eval.num_steps = (20, 10, 7, 5)


def _variants(config: config_dict.ConfigDict) -> None:
  """Variants of the guidance or of the shaping, and none, as arms."""
  guided = lambda **keys: {'method': {'guided': keys}}
  credit = lambda **keys: {'method': {'credit': keys}}
  arms = {
    'ag_grpo': {
      'free': guided(num_guided=0),  # diffu-GRPO
      'failed': guided(groups='failed'),
      'reasoning': guided(credit='reasoning'),
      'free_separate': {'method': {'advantage': {'baseline': 'free_separate'}}},
      'weighted': {'method': {'policy': {'max_sampler_ratio': 2.0}}},
    },
    'ta_grpo_d': {
      'unshaped': credit(delta=0.0),  # diffu-GRPO on gated rollouts
      'published': credit(delta=1.0, form='published'),
    },
  }
  if config.method.name not in arms:
    files = ' and '.join(f'configs/{name}.py' for name in arms)
    raise ValueError(f'only {files} have presets with variants')
  # Arms are compared at equal updates.
  config.train.update(num_steps=100, control=False, floor_patience=0)
  config.arms = config_dict.ConfigDict(arms[config.method.name])


def _cached(config: config_dict.ConfigDict) -> None:
  """Equations in blocks of 4; the arms sample through a dual cache.

  They are evaluated as the run is, without one.
  """
  _equations(config)
  config.data.num_demonstrations = 2000
  config.rollout.block_length = 4
  config.train.update(num_steps=100, control=False)
  config.eval.num_steps = (20, 10, 5)
  weights = {'policy': {'max_sampler_ratio': 2.0}}
  config.arms = config_dict.ConfigDict(
    {
      'dual': {'rollout': {'cache': 'dual'}},
      'dual_weighted': {'rollout': {'cache': 'dual'}, 'method': weights},
    }
  )


def _tiny_sudoku(config: config_dict.ConfigDict) -> None:
  """4x4 Sudoku, one character a token."""
  config.task = config_dict.ConfigDict(
    {'name': 'sudoku', 'prompt_style': 'terse', 'parity': False}
  )
  config.data.num_demonstrations = 4000
  config.data.num_test = 512
  config.rollout.max_prompt_length = 17
  config.rollout.gen_length = config.rollout.block_length = 36
  config.rollout.num_steps = 18
  config.method.reward = config_dict.ConfigDict({'cells': 1.0, 'solved': 1.0})
  # At 5e-4 the reasoning is lost within 20 updates (docs/results.md).
  config.train.optim.learning_rate = 1e-4
  if config.method.name == 'ag_grpo':
    config.method.guided.update(num_steps=18, answer_steps=9, max_anchor=19)
  config.eval.num_steps = (36, 18, 9)


def _rows(config: config_dict.ConfigDict) -> None:
  """Rows of your own (data.train) and a folder (base.path), of any size.

  None of these values was published or tuned.
  """
  _own_task(config)
  config.rollout.update(
    num_prompts=4,
    max_prompt_length=512,
    gen_length=256,
    block_length=32,
    num_steps=128,
    temperature=0.9,
    stop_at_eos=True,
  )
  if config.method.name == 'ag_grpo':
    config.method.guided.update(
      num_steps=128, answer_steps=16, margin=2, max_anchor=128
    )
  config.base.batch_size = 16
  config.train.control = False
  config.train.optim.learning_rate = 1e-5
  config.eval.num_steps = (128,)
  config.eval.batch_size = 16
  config.mesh.cpu_devices = 1


def _own_task(config: config_dict.ConfigDict) -> None:
  """The task of rows of your own, all of which are used."""
  is_sft = config.method.name == 'sft'
  config.task = config_dict.ConfigDict(
    {
      'name': 'rows',
      # 'exact', 'number', 'math', 'code' or 'module:function'; '' is for
      # conversations, which configs/sft.py learns.
      'verifier': '' if is_sft else 'exact',
      'prompt_style': 'd1',  # or 'terse', the prompt alone
    }
  )
  config.data.update(num_demonstrations=0, num_validation=0, num_test=0)
  config.method.reward = config_dict.ConfigDict(_REWARDS['rows'])


def _llada_8b(config: config_dict.ConfigDict) -> None:
  """LLaDA-8B-Instruct (Nie et al. 2025) with LoRA."""
  config.model.update(
    hidden_size=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    mlp_size=12288,
    rope_theta=500_000.0,
    **_LORA,
  )
  config.base.path = 'checkpoints/llada_8b'


def _dream_7b(config: config_dict.ConfigDict) -> None:
  """Dream-v0-Instruct-7B (Ye et al. 2025) with LoRA.

  G is 4, not 6, as TA-GRPO-d was released for it; AG-GRPO was not, and guides
  half of the group here too.
  """
  config.model.update(
    hidden_size=3584,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    mlp_size=18944,
    rope_theta=1_000_000.0,
    norm_eps=1e-6,
    attention_bias=True,
    logit_shift=True,
    **_LORA,
  )
  config.base.path = 'checkpoints/dream_7b'
  config.rollout.group_size = 4
  if config.method.name == 'ag_grpo':
    config.method.guided.num_guided = 2


_MODELS = {'llada_8b': _llada_8b, 'dream_7b': _dream_7b}
_LORA = {
  'dtype': 'bfloat16',
  'param_dtype': 'bfloat16',
  'remat': 'block',
  'lora_rank': 128,
  'lora_alpha': 64.0,
}


def _gated(config: config_dict.ConfigDict, model: str, task: str) -> None:
  """TA-GRPO-d's gate and shaping, as released (Kim and Kang 2026).

  But for code: the release runs the tests on every text of every step.
  """
  config.rollout.update(
    num_prompts=2 if model == 'llada_8b' else 1,
    threshold=0.7,
    exponent=0.5,
    min_commits=1,
    top_p=0.95,
  )
  config.method.credit.update(
    delta=1.0 if task in ('countdown', 'sudoku') else 0.5,
    form='published',
    max_step_scores=8 if task in CODE else 0,
  )
  config.method.policy.update(num_inner=12, beta=0.04)
  if task in CODE:
    config.method.reward = {'tests': 1.0, 'xmlcount': 1.0}
  config.train.num_steps = round(5000 / 12)
  config.train.floor_patience = 0
  config.eval.thresholds = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)


def _published(config: config_dict.ConfigDict, task: str) -> None:
  """What the released scripts share, whatever the model."""
  if task == 'rows':
    _own_task(config)
  else:
    config.task = config_dict.ConfigDict(_task(task))
  is_guided = config.method.name == 'ag_grpo'
  steps = 128 if task in CODE or not is_guided else 64
  config.rollout.update(
    num_prompts=2 if is_guided else 16,
    group_size=6,
    max_prompt_length=200,
    gen_length=256,
    block_length=32,
    num_steps=steps,
    temperature=0.9,
    stop_at_eos=True,  # the text is the same; calls after its end are saved
    cache='none',  # as published; see docs/decoding.md before a change
  )
  config.method.policy.update(
    num_inner=8 if task in ('countdown', 'sudoku') and not is_guided else 12,
    num_micro=2,
    eps=0.5,
    beta=0.1 if task in CODE else 0.04,
    estimator='one_step',
    mask_prob=0.15,
  )
  config.method.advantage.divide_by_std = False
  config.method.reward = config_dict.ConfigDict(_REWARDS[task])
  if is_guided:
    config.method.guided.update(
      num_guided=3,
      num_steps=steps,
      answer_steps=16,
      margin={'gsm8k': 2, **dict.fromkeys(CODE, 10)}.get(task, 4),
      max_anchor=128,
    )
  optimizer_steps = _GUIDED_STEPS if is_guided else _DIFFU_STEPS
  config.train.num_steps = round(
    optimizer_steps[task] / config.method.policy.num_inner
  )
  if config.method.name == 'sft':
    # The folder is evaluated as it is, but it learns rows of your own.
    config.train.num_steps = 300 if task == 'rows' else 0
  config.train.control = False
  if task in ('gsm8k', 'math'):  # read from files: 0 is all rows
    config.data.update(num_demonstrations=0, num_validation=256, num_test=0)
    # Released: 200, and the heads of longer prompts are cut. These hold every
    # held-out problem; longer ones of the training split are left out.
    config.rollout.max_prompt_length = 320 if task == 'gsm8k' else 896
  if task in CODE:  # the same, by Qwen's tokenizer; KodCode's is a guess
    config.data.update(num_demonstrations=0, num_validation=0, num_test=0)
    config.rollout.max_prompt_length = {'kodcode': 1024}.get(task, 512)
  if task == 'rows':
    config.rollout.max_prompt_length = 512
    config.base.batch_size = 16
  config.train.optim.update(
    learning_rate=3e-6,
    warmup_steps=1,
    b2=0.99,
    weight_decay=0.1,
    max_grad_norm=0.2,
  )
  config.eval.num_steps = (128,)
  config.mesh.cpu_devices = 1


# The releases train code on KodCode alone; MBPP and HumanEval follow it here.
_DIFFU_STEPS = {
  **dict.fromkeys(CODE, 2000),
  'gsm8k': 7700,
  'math': 6600,
  'countdown': 5000,
  'sudoku': 3800,
  'rows': 5000,
}
_GUIDED_STEPS = dict.fromkeys(TASKS, 4000) | dict.fromkeys(CODE, 2000)
_FORMAT = {'xmlcount': 1.0, 'soft_format': 1.0, 'strict_format': 1.0}
_REWARDS = {
  'gsm8k': _FORMAT | {'integer': 1.0, 'correctness': 1.0},
  'math': {'correctness': 1.0, 'boxed': 1.0},
  'countdown': {'solution': 1.0},
  'sudoku': {'cells': 1.0},
  **dict.fromkeys(
    CODE, {'tests': 1.0, 'soft_format': 1.0, 'strict_format': 1.0}
  ),
  'rows': {
    'verified': 1.0,
    'xmlcount': 0.0,
    'soft_format': 0.0,
    'strict_format': 0.0,
  },
}


def _task(name: str) -> dict:
  if name == 'countdown':
    return {
      'name': name,
      'count': 3,
      'max_number': 100,
      'max_target': 100,
      'operators': '+-*/',
      'prompt_style': 'd1',
      'reasoning': 'equations',
      'parity': False,
    }
  if name in CODE:
    return {
      'name': name,
      'prompt_style': 'd1',
      'sandbox_tier': 'auto',  # 'namespaces' or 'seccomp'
      'sandbox_workers': 0,  # programs at a time; 0 is one a processor, up to 8
      'sandbox_cpu_seconds': 6.0,  # of a program with all its tests
      'sandbox_memory_mib': 1024,  # of a program
    }
  return {'name': name, 'prompt_style': 'd1', 'parity': False}
