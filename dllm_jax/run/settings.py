"""The boundary between a config file and the library.

Above it a ConfigDict, below it frozen dataclasses; nothing below reads a
config. A value that a dataclass refuses becomes one line with its key.
"""

import dataclasses
import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from dllm_jax import decoding, errors, models, tasks, types, validation
from dllm_jax.data import own_rows
from dllm_jax.eval import profiles, speculation
from dllm_jax.hf import config as hf_config
from dllm_jax.models import config as model_config
from dllm_jax.models import transformer
from dllm_jax.rollout import batch
from dllm_jax.run import arms as arms_lib
from dllm_jax.run import bounds
from dllm_jax.runtime import sharding
from dllm_jax.state import workdir
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import loop, methods, optim
from dllm_jax.train.methods import sft

T = TypeVar('T')
# Of the config group `rollout`, what is no field of a decoder.
BATCH_KEYS = ('num_prompts', 'group_size', 'max_prompt_length')
# Of the config group `method`, what is no group of its own.
_METHOD_KEYS = ('name', 'reward_past_eos')
# Of `train` and `base`, fields of a `LoopConfig`.
_SCHEDULE = ('num_steps', 'eval_every', 'patience')


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Which rows a run uses.

  Attributes:
    cache_dir: folder of generated data sets; '' is the user's cache.
    num_demonstrations: training rows with a demonstration that supervised
      training sees; RL draws prompts from all training rows. 0 is all.
    num_validation: rows that settings and the base model are chosen on.
    num_test: held-out rows that are reported.
    train: file of the task 'rows', '' for other tasks.
    test: file of its test rows; '' for those that are held out.
    held_out: share of the rows of `train` that are held out.
  """

  cache_dir: str
  num_demonstrations: int
  num_validation: int
  num_test: int
  train: str
  test: str
  held_out: float

  def __post_init__(self):
    if not 0 < self.held_out < 1:
      raise ValueError(f'held_out {self.held_out} is not within 0..1')

  @property
  def files(self) -> own_rows.Files | None:
    """Those of the task 'rows'; None for other tasks."""
    if not self.train:
      return None
    return own_rows.Files(
      train=self.train, test=self.test, held_out=self.held_out
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """How policies are evaluated, greedily.

  Attributes:
    num_steps: denoising steps of the fixed schedules to evaluate; the run uses
      the one at which the base is best on validation rows.
    threshold: gate at which a policy with gated rollouts is evaluated while it
      is trained.
    thresholds: gates to evaluate, beside the fixed schedules.
    batch_size: rows decoded together.
    num_samples: n, completions of a prompt where one model is evaluated.
    pass_at: k of pass@k, each up to n.
    profile: key of `profiles.PROFILES`, the protocol by which one model is
      evaluated; '' is this config's.
  """

  num_steps: tuple[int, ...]
  threshold: float
  thresholds: tuple[float, ...]
  batch_size: int
  num_samples: int = 1
  pass_at: tuple[int, ...] = (1,)
  profile: str = ''

  def __post_init__(self):
    if not self.num_steps or min(self.num_steps) < 1:
      raise ValueError(f'num_steps {self.num_steps} must be positive numbers')
    for threshold in (self.threshold, *self.thresholds):
      if not isinstance(threshold, float) or not -math.inf < threshold <= 1:
        raise ValueError(
          f'threshold {threshold!r} is not a finite number of 1 at most'
        )
    validation.positive(self, 'num_samples')
    if self.profile and self.profile not in profiles.PROFILES:
      raise ValueError(
        f'profile {self.profile!r}: expected one of '
        f'{", ".join(profiles.PROFILES)}'
      )
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
    path: a model folder, or the name ORG/NAME@REVISION of one; '' trains one
      by `sft` in the workdir.
    batch_size: demonstrations of a step.
  """

  path: str
  batch_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """All of a run's hyper-parameters, checked.

  Attributes:
    seed: seed of every draw.
    data_dir: folder of public test files; '' evaluates on the generated split.
    wandb_project: metrics go there too; '' is nowhere.
    method_name: key of `methods.METHODS`.
    method: config group of the method, its `Config`; None for 'sft', which
      trains the base, or the model folder that `base.path` names.
    control: also train the base with supervision for as long as RL trained.
    keep: number of checkpoints kept.
    watchdog_seconds: silence after which a run is stuck; 0 does not look.
    task_name: key of `tasks.TASKS`; a task that wraps another has its name.
    model: `name`, one of `models.MODELS`, and what its `from_config` takes.
    prefill: how every completion begins; a part of the prompt.
    decode: name of the rollouts' decoder.
    decoders: by name, what the config group `rollout` makes of each decoder.
    arms: by name, the settings of further trainings from the same base, which
      the method is compared with.
  """

  seed: int
  data_dir: str
  wandb_project: str
  method_name: str
  method: Any
  control: bool
  keep: int
  watchdog_seconds: float
  model: Mapping[str, Any]
  prefill: str
  task_name: str
  task: task_lib.Task
  data: DataConfig
  rollout: batch.RolloutConfig
  decode: str
  decoders: Mapping[str, types.Decoder]
  optim: optim.OptimConfig
  loop: loop.LoopConfig
  base: BaseConfig
  base_sft: sft.SftConfig
  base_optim: optim.OptimConfig
  base_loop: loop.LoopConfig
  eval: EvalConfig
  speculation: speculation.StudyConfig
  mesh: sharding.MeshConfig
  arms: Mapping[str, 'Settings']

  @property
  def phase(self) -> str:
    """The method's phase in metrics.jsonl."""
    method = methods.METHODS[self.method_name]
    return method.phase if method else 'sft'

  @property
  def is_causal(self) -> bool:
    """Whether the run is of a causal model, as its decoder says."""
    return decoding.DECODERS[self.decode].is_causal

  @property
  def tunes_base(self) -> bool:
    """Whether 'sft' trains the model folder that `base.path` names."""
    wanted = self.base.path and self.loop.num_steps
    return self.method is None and bool(wanted)

  def plain_decoders(self) -> dict[int | str, types.Decoder]:
    """The decoders that every policy is evaluated with, by their setting.

    The fixed schedules, by their denoising steps; of a causal model,
    'autoregressive'.
    """
    if self.is_causal:
      name = 'autoregressive'
      return {name: self.decoders[name].greedy()}
    greedy = self.decoders['fixed'].greedy()
    make = functools.partial(dataclasses.replace, greedy)
    return {
      steps: _make('eval', make, {'num_steps': steps})
      for steps in self.eval.num_steps
    }

  def gated_decoders(self) -> dict[float, types.Decoder]:
    """The gates to evaluate, by their thresholds; none of causal models."""
    if self.is_causal:
      return {}
    greedy = self.decoders['gated'].greedy()
    return {
      threshold: dataclasses.replace(greedy, threshold=threshold)
      for threshold in self.eval.thresholds
    }

  def other_decoders(self) -> dict[str, types.Decoder]:
    """The rollouts' decoder by name, if it is neither of the above."""
    if self.decode in ('fixed', 'gated', 'autoregressive'):
      return {}
    return {self.decode: self.rollout.decoder.greedy()}

  def watched_decoder(self, setting: int | str) -> types.Decoder:
    """What a policy is watched under while it is trained.

    The rollouts' decoder without randomness: a fixed schedule of `setting`
    steps, a gate at `eval.threshold`.
    """
    (watched,) = decoding.greedy(
      {'': self.rollout.decoder},
      num_steps=setting,
      threshold=self.eval.threshold,
    ).values()
    return watched

  def adopt(
    self, record: hf_config.Record, *, adapters: bool
  ) -> types.Trainable:
    """The model of a folder as a run uses it.

    A transformer has the folder's shape, and `config.HOW_IT_RUNS` of the config
    group `model`. Any other model must be the one that
    the config describes.

    Args:
      record: the model of the folder.
      adapters: whether lora_rank and lora_alpha are the config's too.

    Raises:
      errors.UserError: the config is for another model.
    """
    if record.model is None:
      vocab = hf_config.vocabulary(record.special, record.vocab_size)
      if self.denoiser(vocab) != record.denoiser:
        raise errors.UserError(
          "config group 'model' describes another model than that of the "
          f'folder, which is {record.config["model"]}'
        )
      return record.denoiser
    names = model_config.HOW_IT_RUNS
    names += ('lora_rank', 'lora_alpha') if adapters else ()
    if self.model['name'] != 'transformer':
      raise errors.UserError(
        f'config key model.name is {self.model["name"]!r}, but the model of '
        "the folder is a transformer: use 'transformer', or base.path=''"
      )
    values = {name: self.model[name] for name in names if name in self.model}
    if record.family == hf_config.NATIVE and values.get('lora_rank'):
      raise errors.UserError(
        f'config key model.lora_rank is {values["lora_rank"]}, but the model '
        'is of no Hugging Face family, and PEFT has no names for its adapters: '
        'use 0'
      )
    make = lambda **values: record.replace(**values).denoiser
    return _make('model', make, values)

  def check_kind(self, denoiser: types.Denoiser, what: str) -> None:
    """Refuses a model that the rollouts are not for.

    Args:
      denoiser: the model.
      what: the model, for the message.

    Raises:
      errors.UserError: it is causal and the decoder for masked diffusion, or
        the other way round; or it has too few positions.
    """
    model = transformer.config_of(denoiser)
    longest = self.rollout.max_prompt_length + self.rollout.decoder.gen_length
    if model and 0 < model.max_positions < longest:
      raise errors.UserError(
        f'config keys rollout.max_prompt_length and rollout.gen_length are '
        f'{longest} positions together, and {what} has {model.max_positions} '
        '(max_positions): lower them'
      )
    is_causal = isinstance(denoiser, types.CausalLM)
    if is_causal == self.is_causal:
      return
    kinds = {True: 'causal', False: 'masked diffusion'}
    fitting = [
      name
      for name, cls in decoding.DECODERS.items()
      if cls.is_causal == is_causal
    ]
    raise errors.UserError(
      f'config key rollout.decode is {self.decode!r}, which is for '
      f'{kinds[self.is_causal]} models, and {what} is a {kinds[is_causal]} '
      f'model: use {", ".join(fitting[:-1])} or {fitting[-1]}'
    )

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
  arms = {}
  for name, own in arms_lib.configs(config).items():
    with arms_lib.named(name):
      arms[name] = from_config(own)
  bounds.check(workdir.flatten(config))
  base, train = config['base'], config['train']
  rollout = dict(config['rollout'])
  prefill = rollout.pop('prefill')
  decode = rollout.pop('decode')
  sizes = {name: rollout.pop(name) for name in BATCH_KEYS}
  is_causal = _choose('rollout.decode', decode, decoding.DECODERS).is_causal
  decoders = _make(
    'rollout',
    decoding.make_decoders,
    {'values': rollout, 'is_causal': is_causal},
  )
  decoder = _choose('rollout.decode', decode, decoders)
  if not is_causal and 'fixed' not in decoders:
    raise errors.UserError(
      "config group 'rollout' lacks num_steps, which the evaluation by fixed "
      'schedules (eval.num_steps) needs'
    )
  _choose('model.name', config['model']['name'], models.MODELS)
  name = config['method']['name']
  method = _choose('method.name', name, methods.METHODS)

  def schedule(group, *names):
    values = {name: config[group][name] for name in (*_SCHEDULE, *names)}
    values['checkpoint_every'] = config['checkpoint']['every']
    return _make(group, loop.LoopConfig, values)

  made = Settings(
    seed=config['seed'],
    data_dir=config['data_dir'],
    wandb_project=config['wandb_project'],
    method_name=name,
    method=method and _make_method(method.Config, config['method']),
    control=train['control'],
    keep=config['checkpoint']['keep'],
    watchdog_seconds=train['watchdog_seconds'],
    model=config['model'],
    prefill=prefill,
    task_name=config['task']['name'],
    task=_make_task(dict(config['task']), config['data']),
    data=_make('data', DataConfig, config['data']),
    rollout=_make('rollout', batch.RolloutConfig, {'decoder': decoder} | sizes),
    decode=decode,
    decoders=decoders,
    optim=_make('train.optim', optim.OptimConfig, train['optim']),
    loop=schedule('train', 'floor_patience'),
    base=BaseConfig(path=base['path'], batch_size=base['batch_size']),
    base_sft=sft.SftConfig(
      gen_length=rollout['gen_length'],
      min_ratio=base['min_ratio'],
      num_micro=base['num_micro'],
      eos_padding=base['eos_padding'],
    ),
    base_optim=_make('base.optim', optim.OptimConfig, base['optim']),
    base_loop=schedule('base'),
    eval=_make('eval', EvalConfig, _tuples(config['eval'])),
    speculation=_make(
      'speculation',
      speculation.StudyConfig,
      _tuples(config['speculation']) | {'gen_length': rollout['gen_length']},
    ),
    mesh=_make('mesh', sharding.MeshConfig, config['mesh']),
    arms=arms,
  )
  # What the evaluation would refuse is refused before any work.
  made.plain_decoders()
  return made


def _make_method(cls: type, values: Mapping[str, Any]) -> Any:
  """The config group of a method: its fields are keys and groups."""
  groups = {k: v for k, v in values.items() if k not in _METHOD_KEYS}
  if 'reward' in groups:
    groups['reward'] = {
      'weights': tuple(sorted(values['reward'].items())),
      'past_eos': values.get('reward_past_eos', False),
    }
  if unknown := sorted(
    groups.keys() - inspect.signature(cls).parameters.keys()
  ):
    raise errors.UserError(
      f'config key method.{unknown[0]} is not read by {values["name"]}; remove '
      'it, or set method.name in a config file of that method'
    )
  types_by_name = typing.get_type_hints(cls)
  for name, group in groups.items():
    if dataclasses.is_dataclass(types_by_name[name]):
      groups[name] = _make(f'method.{name}', types_by_name[name], group)
  return _make('method', cls, groups)


def _make_task(
  values: dict[str, Any], data: Mapping[str, Any]
) -> task_lib.Task:
  cls = _choose('task.name', name := values.pop('name'), tasks.TASKS)
  if name == 'rows' and not data['train']:
    raise errors.UserError(
      "config key task.name is 'rows', but data.train is empty: name a file of "
      'rows, --config.data.train=FILE.jsonl'
    )
  if name != 'rows' and (data['train'] or data['test']):
    raise errors.UserError(
      f'config keys data.train and data.test are of the task rows, and '
      f'task.name is {name!r}: take the preset rows, or MODEL,rows'
    )
  known = set(inspect.signature(cls).parameters)
  if others := sorted(set(values) - known):
    raise errors.UserError(
      f"config group 'task': task {name!r} has no {', '.join(others)}; "
      'task.name alone does not make a config of another task: take a preset '
      f'of it, such as configs/ag_grpo.py:llada_8b,{name}'
    )
  return _make('task', cls, values)


def _choose(key: str, name: str, choices: Mapping[str, T]) -> T:
  """The choice that a config key names."""
  if name not in choices:
    raise errors.UserError(
      f'config key {key} is {name!r}; expected one of {", ".join(choices)}'
    )
  return choices[name]


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
  return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _make(group: str, cls: Callable[..., T], values: Mapping[str, Any]) -> T:
  """cls(**values); what is wrong with the values is one line with the group."""
  try:
    return cls(**values)
  except (TypeError, ValueError) as e:
    raise errors.UserError(f'config group {group!r}: {e}') from e
