"""The one boundary: every wrong value is one line that names its key."""

import math

import pytest

from dllm_jax import errors, types
from dllm_jax.decoding import autoregressive, speculative
from dllm_jax.run import checks, settings
from dllm_jax.state import workdir
from tests import tiny_run


def refused(**changes):
  with pytest.raises(errors.UserError) as caught:
    settings.from_config(tiny_run.values(**changes))
  return ' '.join(str(caught.value).split())  # as the command shows it


def test_records_hold_what_the_config_says():
  cfg = settings.from_config(
    tiny_run.values(
      seed=7,
      train__patience=1,
      eval__num_steps=(5, 2),
      method__reward_past_eos=True,
    )
  )
  assert (cfg.seed, cfg.method_name, cfg.control, cfg.keep) == (
    7,
    'ag_grpo',
    0,
    2,
  )
  assert cfg.task.name == 'countdown' and cfg.task.max_number == 9
  assert cfg.method.reward.weights == (('solution', 1.0), ('xmlcount', 1.0))
  assert cfg.method.reward.past_eos
  assert (cfg.loop.num_steps, cfg.loop.eval_every) == (6, 3)
  assert (cfg.loop.patience, cfg.loop.checkpoint_every) == (1, 1)
  assert (cfg.base_loop.num_steps, cfg.base_loop.checkpoint_every) == (4, 1)
  assert cfg.eval.num_steps == (5, 2)
  assert cfg.base_sft.gen_length == cfg.rollout.decoder.gen_length == 12
  assert cfg.optim.learning_rate == 1e-3
  assert cfg.base_optim.weight_decay == 0.01
  hash(cfg.rollout), hash(cfg.method)  # static under jit


def test_results_name_the_task_of_the_config():
  name = 'gsm8k_phrasings'
  cfg = settings.from_config(tiny_run.values(task={'name': name}))
  assert (cfg.task_name, cfg.task.name) == (name, 'gsm8k')


def test_the_model_gets_its_vocabulary_later():
  cfg = settings.from_config(tiny_run.values())
  vocab = types.Vocabulary(size=40, mask_token=39, eos_token=38)
  model = cfg.denoiser(vocab).cfg
  assert (model.vocab_size, model.hidden_size) == (40, 16)
  cfg = settings.from_config(tiny_run.values(model__head_dim=7))
  with pytest.raises(errors.UserError, match="'model'.*head_dim 7 is odd"):
    cfg.denoiser(vocab)


@pytest.mark.parametrize(
  'changes, line',
  [
    ({'method__name': 'grpo'}, "method.name is 'grpo'; expected one of sft"),
    (
      {'task__name': 'chess'},
      "task.name is 'chess'; expected one of countdown",
    ),
    ({'task__count': 1}, "config group 'task': count must be in 2..8: 1"),
    ({'task__operators': '+^'}, "config group 'task'"),
    ({'task__colour': 'red'}, "config group 'task': task 'countdown' has no c"),
    (
      {'task__name': 'gsm8k'},
      "config group 'task': task 'gsm8k' has no count, max_number, max_target, "
      'operators, reasoning; task.name alone does not make',
    ),
    ({'rollout__decode': 'x'}, "rollout.decode is 'x'; expected one of fixed"),
    ({'rollout__max_step': 1}, "no decoder has a field 'max_step'"),
    ({'method__credit': {}}, 'method.credit is not read by ag_grpo'),
    ({'rollout__num_steps': 0}, 'num_steps 0 is not a positive multiple'),
    (
      {'rollout__gen_length': 10},
      "'rollout': gen_length 10 is not a positive multiple",
    ),
    ({'rollout__order': 'left'}, "config group 'rollout':"),
    (
      {'rollout__temperature': -1.0},
      'temperature -1.0 must be finite and not negative',
    ),
    ({'method__guided__template': 'x'}, "'method.guided': template 'x'"),
    ({'method__policy__eps': 0.0}, "config group 'method.policy': eps 0.0"),
    ({'method__policy__estimator': 'x'}, "config group 'method.policy':"),
    ({'method__advantage__baseline': 'x'}, "config group 'method.advantage':"),
    (
      {'train__optim__learning_rate': 0.0},
      "config group 'train.optim': learning_rate 0.0",
    ),
    (
      {'base__optim__schedule': 'cosine'},
      "config group 'base.optim': decay_steps 0 must exceed",
    ),
    ({'base__patience': 2, 'base__eval_every': 0}, "config group 'base'"),
    ({'train__num_steps': -1}, "config group 'train': num_steps -1"),
    ({'checkpoint__every': 0}, 'checkpoint.every 0 is below 1'),
    ({'checkpoint__keep': 0}, 'checkpoint.keep is 0; it must be above 0'),
    ({'eval__num_steps': ()}, "config group 'eval': num_steps ()"),
    ({'eval__num_steps': (6, 0)}, "config group 'eval': num_steps (6, 0)"),
    ({'eval__num_samples': 0}, "'eval': num_samples 0 is not positive"),
    ({'eval__pass_at': (2,)}, "'eval': pass_at 2 is not in 1..num_samples"),
    ({'eval__pass_at': (1, 1)}, "'eval': pass_at (1, 1) has one twice"),
    ({'eval__batch_size': 0}, 'eval.batch_size is 0; it must be above 0'),
    ({'base__min_ratio': 1.5}, 'base.min_ratio is 1.5; it must be in 0..1'),
    ({'base__num_micro': 0}, 'base.num_micro is 0; it must be above 0'),
    ({'data__num_test': -1}, 'data.num_test is -1; it must not be negative'),
    ({'seed': -1}, 'seed is -1; it must not be negative'),
    ({'mesh__fsdp': 0}, 'mesh.fsdp is 0; it must be above 0'),
    ({'model__dtype': 'float8'}, "model.dtype is 'float8': expected one of"),
    ({'method__policy__mask_prob': 2.0}, 'it must be in 0..1'),
    ({'train__optim__b1': -0.1}, 'train.optim.b1 is -0.1; it must be in 0..1'),
  ],
)
def test_a_wrong_value_is_one_line(changes, line):
  assert line in refused(**changes)


def test_decoders_are_of_one_kind():
  cfg = settings.from_config(tiny_run.values('sft'))
  assert not cfg.is_causal and set(cfg.decoders) == {'fixed', 'gated'}
  assert list(cfg.plain_decoders()) == [6, 3] and not cfg.other_decoders()
  cfg = settings.from_config(
    tiny_run.values(
      'sft',
      rollout__decode='draft',
      rollout__draft_length=2,
      eval__thresholds=(0.5,),
    )
  )
  assert cfg.is_causal and list(cfg.decoders) == [
    'autoregressive',
    'draft',
    'fractal',
  ]
  greedy = autoregressive.Autoregressive(gen_length=12)
  assert cfg.plain_decoders() == {'autoregressive': greedy}
  assert cfg.gated_decoders() == {}
  draft = speculative.Draft(gen_length=12, draft_length=2)
  assert cfg.other_decoders() == {'draft': draft}
  assert cfg.watched_decoder('autoregressive') == draft


@pytest.mark.parametrize(
  'changes, line',
  [
    (
      {'model__causal': True},
      "config key rollout.decode is 'fixed', which is for masked diffusion "
      "models, and what config group 'model' describes is a causal model: use "
      'autoregressive, draft or fractal',
    ),
    (
      {'rollout__decode': 'draft'},
      "rollout.decode is 'draft', which is for causal models, and what config "
      "group 'model' describes is a masked diffusion model: use fixed or gated",
    ),
  ],
)
def test_a_model_of_the_other_kind_is_one_line(changes, line):
  with pytest.raises(errors.UserError) as caught:
    tiny_run.parts('sft', **changes)
  assert line in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('method', ['diffu_grpo', 'ag_grpo', 'ta_grpo_d'])
def test_an_estimator_of_the_other_kind_is_refused(method):
  cfg, ctx = tiny_run.parts(
    method, model__causal=True, rollout__decode='autoregressive'
  )
  line = "estimator is 'trajectory', and the model is causal: use next_token"
  with pytest.raises(errors.UserError, match=line):
    checks.check_shapes(cfg, ctx)
  cfg, ctx = tiny_run.parts(method, method__policy__estimator='next_token')
  with pytest.raises(errors.UserError, match='use trajectory or one_step'):
    checks.check_shapes(cfg, ctx)


def test_groups_of_a_causal_model_are_compared_by_grpo():
  """diffu-GRPO with exact log-probabilities is GRPO."""
  cfg, ctx = tiny_run.parts(
    'diffu_grpo',
    model__causal=True,
    rollout__decode='autoregressive',
    method__policy__estimator='next_token',
  )
  checks.check_shapes(cfg, ctx)
  method, state = tiny_run.start(cfg, ctx)
  rows = tiny_run.rows('5 + 3 - 1', '3 + 5 - 1', '5 - 1 + 3', '3 - 1 + 5')
  batch, _ = method.collect(state, rows, 0)
  _, [metrics] = method.update(state, batch, 0)
  assert float(metrics['policy/sampler_gap']) < 1e-5
  assert float(metrics['policy/ratio_max']) == 1.0


FLOATS = [
  key
  for key, value in workdir.flatten(tiny_run.values()).items()
  if isinstance(value, float)
]


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_no_float_may_be_nan_or_infinite(value):
  assert len(FLOATS) > 20
  for key in FLOATS:
    line = refused(**{key.replace('.', '__'): value})
    assert f'config key {key} is {value}; it must be finite' in line
