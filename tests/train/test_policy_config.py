"""What the methods refuse before any work is done."""

import pytest

from dllm_jax import errors
from tests import tiny_run


def refused(check, *args) -> str:
  with pytest.raises(errors.UserError) as caught:
    check(*args)
  return ' '.join(str(caught.value).split())


@pytest.mark.parametrize(
  'changes, line',
  [
    ({'rollout__group_size': 1}, 'advantages are relative to a group'),
    (
      {'method__policy__num_micro': 3},
      '16 rows do not split into method.policy.num_micro=3 micro-batches',
    ),
    (
      {'method__guided__num_guided': 5},
      'method.guided.num_guided is 5, more than rollout.group_size 4',
    ),
    (
      {'method__guided__max_anchor': 12},
      'max_anchor is 12; it must be below rollout.gen_length 12',
    ),
    ({'rollout__decode': 'gated'}, 'decoded by an even, fixed schedule'),
    ({'rollout__schedule': 'linear'}, 'decoded by an even, fixed schedule'),
    (
      {'rollout__cache': 'dual', 'rollout__published': 'llada'},
      "rollout.published is 'llada', which makes calls that commit nothing",
    ),
    (
      {'model__block_causal': 4, 'method__policy__estimator': 'one_step'},
      'the model is causal over blocks: use trajectory',
    ),
  ],
)
def test_check_refuses_bad_combinations(changes, line):
  cfg, ctx = tiny_run.parts('ag_grpo', **changes)
  assert line in refused(cfg.method.check, ctx, cfg.rollout)


@pytest.mark.parametrize('value', [0.0, -1.0, float('nan'), float('inf')])
def test_a_bound_of_weights_is_finite_and_positive(value):
  with pytest.raises(errors.UserError, match='max_sampler_ratio'):
    tiny_run.parts('diffu_grpo', method__policy__max_sampler_ratio=value)


def test_weights_need_the_trajectory_estimator():
  with pytest.raises(errors.UserError, match="needs the estimator 'trajecto"):
    tiny_run.parts(
      'diffu_grpo',
      method__policy__max_sampler_ratio=2.0,
      method__policy__estimator='one_step',
    )


def test_check_refuses_rows_that_the_mesh_does_not_divide():
  cfg, ctx = tiny_run.parts('diffu_grpo', devices=8, rollout__num_prompts=3)
  line = refused(cfg.method.check, ctx, cfg.rollout)
  assert 'num_prompts * rollout.group_size is 12, which the 8 shards' in line


def test_check_rows_refuses_unknown_reward_terms():
  cfg, ctx = tiny_run.parts('diffu_grpo', method__reward={'cells': 1.0})
  rows = tiny_run.rows('5 + 3 - 1')
  line = refused(cfg.method.check_rows, ctx, rows)
  assert "method.reward.cells is not a reward term of task 'countdown'" in line


def test_check_rows_refuses_a_cap_below_every_anchor():
  cfg, ctx = tiny_run.parts('ag_grpo', method__guided__max_anchor=2)
  line = refused(cfg.method.check_rows, ctx, tiny_run.rows('5 + 3 - 1'))
  assert 'every anchor is longer than method.guided.max_anchor=2' in line
