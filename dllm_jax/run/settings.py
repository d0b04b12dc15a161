"""The boundary between a config file and the library.

Above it a ConfigDict, below it frozen dataclasses; nothing below reads a
config. A value that a dataclass refuses becomes one line with its key.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from dllm_jax import errors, models, tasks, types
from dllm_jax.models import config as model_config
from dllm_jax.rl import advantages, trajectory_credit
from dllm_jax.rollout import answer_free, answer_guided, score
from dllm_jax.run import bounds
from dllm_jax.runtime import sharding
from dllm_jax.state import workdir
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import loop, optim, policy
from dllm_jax.train.methods import sft

METHODS = ('sft', 'diffu_grpo', 'ag_grpo', 'ta_grpo_d')


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Which rows a run uses.

  Attributes:
    cache_dir: of generated data sets; '' is the user's cache.
    num_demonstrations: training rows with a demonstration that supervised
      training sees; RL draws prompts from all training rows. 0 is all.
    num_validation: rows that settings and the base model are chosen on.
    num_test: held-out rows that are reported.
  """

  cache_dir: str
  num_demonstrations: int
  num_validation: int
  num_test: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """How policies are evaluated, greedily.

  Attributes:
    num_steps: denoising steps of the fixed schedule to try; the one at which
      the base does best on validation rows is the setting of the run.
    threshold: of the gated decoder at which a gated policy is watched while
      it is trained.
    thresholds: of the gated decoder to try, beside the fixed schedules.
    batch_size: rows decoded together.
    num_samples: n, completions of a prompt where one model is evaluated.
    pass_at: k of pass@k, each up to n.
  """

  num_steps: tuple[int, ...]
  threshold: float
  thresholds: tuple[float, ...]
  batch_size: int
  num_samples: int = 1
  pass_at: tuple[int, ...] = (1,)

  def __post_init__(self):
    if not self.num_steps or min(self.num_steps) < 1:
      raise ValueError(f'num_steps {self.num_steps} must be positive numbers')
    for threshold in (self.threshold, *self.thresholds):
      if not isinstance(threshold, float) or not -math.inf < threshold <= 1:
        raise ValueError(
          f'threshold {threshold!r} is not a finite number of 1 at most'
        )
    if self.num_samples < 1:
      raise ValueError(f'num_samples {self.num_samples} is not positive')
    for k in self.pass_at:
      if not 1 <= k <= self.num_samples:
        raise ValueError(
          f'pass_at {k} is not in 1..num_samples, which is {self.num_samples}'
        )
    for name in ('num_steps', 'thresholds', 'pass_at'):
      values = getattr(self, name)
      if len(set(values)) < len(values):
        raise ValueError(f'{name} {values} has one twice')


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseConfig:
  """Where the base model comes from, and how a missing one is trained.

  Attributes:
    path: a pretrained folder (Hugging Face's, converted, or the name
      ORG/NAME@REVISION of one), or kept parameters of a run; '' trains one by
      `sft` in the workdir.
    batch_size: demonstrations of a step.
  """

  path: str
  batch_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """All of a run's hyper-parameters, checked.

  Attributes:
    seed: of every draw.
    data_dir: of public test files; '' evaluates on the generated test split.
    wandb_project: metrics go there too; '' is nowhere.
    method: name of the method; 'sft' ends after the base model.
    control: spend RL's processor time on more supervised training, beside it.
    keep: checkpoints kept.
    watchdog_seconds: silence after which a run is stuck; 0 does not look.
    model: `name`, one of `models.MODELS`, and what its `from_config` takes.
    prefill: how every completion is to begin; a part of the prompt.
  """

  seed: int
  data_dir: str
  wandb_project: str
  method: str
  control: bool
  keep: int
  watchdog_seconds: float
  model: Mapping[str, Any]
  prefill: str
  task: task_lib.Task
  data: DataConfig
  rollout: answer_free.RolloutConfig
  guided: answer_guided.GuidedConfig
  reward: score.RewardConfig
  advantage: advantages.AdvantageConfig
  credit: trajectory_credit.CreditConfig
  policy: policy.PolicyConfig
  optim: optim.OptimConfig
  loop: loop.LoopConfig
  base: BaseConfig
  base_sft: sft.SftConfig
  base_optim: optim.OptimConfig
  base_loop: loop.LoopConfig
  eval: EvalConfig
  mesh: sharding.MeshConfig

  def fixed_decodings(self) -> dict[int, answer_free.RolloutConfig]:
    """The fixed schedules to evaluate, by their denoising steps."""
    return {
      steps: dataclasses.replace(
        self.rollout.greedy(), decode='fixed', num_steps=steps
      )
      for steps in self.eval.num_steps
    }

  def gated_decodings(self) -> dict[float, answer_free.RolloutConfig]:
    """The gated decodings to evaluate, by their thresholds."""
    return {t: self.gated_decoding(t) for t in self.eval.thresholds}

  def gated_decoding(self, threshold: float) -> answer_free.RolloutConfig:
    """The deterministic gate at a threshold."""
    return dataclasses.replace(
      self.rollout.greedy(), decode='gated', threshold=threshold
    )

  def adopt(
    self, model: model_config.ModelConfig, *, adapters: bool
  ) -> model_config.ModelConfig:
    """A pretrained model's record as a run uses it.

    Its shape is its own. Of the config group `model` count dtype, param_dtype,
    remat and attention, and where `adapters` are the run's, lora_rank and
    lora_alpha.
    """
    names = ('dtype', 'param_dtype', 'remat', 'attention')
    names += ('lora_rank', 'lora_alpha') if adapters else ()
    if self.model['name'] != 'transformer':
      raise errors.UserError(
        f'config key model.name is {self.model["name"]!r}, but pretrained '
        "models are transformers: use 'transformer', or base.path=''"
      )
    values = {name: self.model[name] for name in names if name in self.model}
    make = functools.partial(dataclasses.replace, model)
    return _make('model', make, values)

  def denoiser(self, vocab: types.Vocabulary) -> types.Trainable:
    """The model, once the tokenizer says how many ids there are."""
    values = dict(self.model)
    make = models.MODELS[values.pop('name')].from_config
    return _make('model', lambda **values: make(values, vocab), values)


def from_config(config: Mapping[str, Any]) -> Settings:
  """The settings that a config (as nested dicts) describes.

  Raises:
    errors.UserError: one line that names the group and what is wrong.
  """
  bounds.check(workdir.flatten(config))
  base, train, method = config['base'], config['train'], config['method']
  every = config['checkpoint']['every']
  if method['name'] not in METHODS:
    raise errors.UserError(
      f'config key method.name is {method["name"]!r}; there are {METHODS}'
    )
  if config['model']['name'] not in models.MODELS:
    raise errors.UserError(
      f'config key model.name is {config["model"]["name"]!r}: expected one of '
      f'{tuple(models.MODELS)}'
    )
  task = dict(config['task'])
  if task['name'] not in tasks.TASKS:
    raise errors.UserError(
      f'config key task.name is {task["name"]!r}; there are '
      f'{tuple(tasks.TASKS)}'
    )
  _check_task_fields(task)
  sampling = dict(config['rollout'])
  prefill = sampling.pop('prefill')
  rollout = _make('rollout', answer_free.RolloutConfig, sampling)
  guided = _make('method.guided', answer_guided.GuidedConfig, method['guided'])
  if method['name'] == 'ag_grpo' and guided.num_guided > rollout.group_size:
    raise errors.UserError(
      f'config key method.guided.num_guided is {guided.num_guided}, more than '
      f'rollout.group_size {rollout.group_size}'
    )
  if method['name'] == 'ag_grpo' and guided.max_anchor >= rollout.gen_length:
    raise errors.UserError(
      f'config key method.guided.max_anchor is {guided.max_anchor}; it must be '
      f'below rollout.gen_length {rollout.gen_length}'
    )

  def schedule(group, values, floor_patience=0):
    return _make(
      group,
      loop.LoopConfig,
      {
        'num_steps': values['num_steps'],
        'eval_every': values['eval_every'],
        'patience': values['patience'],
        'floor_patience': floor_patience,
        'checkpoint_every': every,
      },
    )

  return Settings(
    seed=config['seed'],
    data_dir=config['data_dir'],
    wandb_project=config['wandb_project'],
    method=method['name'],
    control=train['control'],
    keep=config['checkpoint']['keep'],
    watchdog_seconds=train['watchdog_seconds'],
    model=config['model'],
    prefill=prefill,
    task=_make('task', tasks.TASKS[task.pop('name')], task),
    data=_make('data', DataConfig, config['data']),
    rollout=rollout,
    guided=guided,
    reward=score.RewardConfig(
      weights=tuple(sorted(method['reward'].items())),
      past_eos=method['reward_past_eos'],
    ),
    advantage=_make(
      'method.advantage', advantages.AdvantageConfig, method['advantage']
    ),
    credit=_make(
      'method.credit', trajectory_credit.CreditConfig, method['credit']
    ),
    policy=_make('method.policy', policy.PolicyConfig, method['policy']),
    optim=_make('train.optim', optim.OptimConfig, train['optim']),
    loop=schedule('train', train, train['floor_patience']),
    base=BaseConfig(path=base['path'], batch_size=base['batch_size']),
    base_sft=sft.SftConfig(
      max_prompt_length=rollout.max_prompt_length,
      gen_length=rollout.gen_length,
      min_ratio=base['min_ratio'],
      num_micro=base['num_micro'],
    ),
    base_optim=_make('base.optim', optim.OptimConfig, base['optim']),
    base_loop=schedule('base', base),
    eval=_make(
      'eval',
      EvalConfig,
      {
        **config['eval'],
        'num_steps': tuple(config['eval']['num_steps']),
        'thresholds': tuple(config['eval']['thresholds']),
        'pass_at': tuple(config['eval']['pass_at']),
      },
    ),
    mesh=_make('mesh', sharding.MeshConfig, config['mesh']),
  )


def _check_task_fields(task: Mapping[str, Any]) -> None:
  """Refuses the fields of another task."""
  name = task['name']
  known = set(inspect.signature(tasks.TASKS[name]).parameters)
  if others := sorted(set(task) - known - {'name'}):
    raise errors.UserError(
      f"config group 'task': task {name!r} has no {', '.join(others)}; "
      'task.name alone does not make a config of another task: take a preset '
      f'of it, such as configs/ag_grpo.py:llada_8b,{name}'
    )


def _make(group: str, cls: Callable[..., Any], values: Mapping[str, Any]):
  """cls(**values); what is wrong with the values is one line with the group."""
  try:
    return cls(**values)
  except (TypeError, ValueError) as e:
    raise errors.UserError(f'config group {group!r}: {e}') from e
