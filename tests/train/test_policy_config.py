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
  ],
)
def test_method_that_does_not_fit_is_refused(changes, line):
  cfg, ctx = tiny_run.parts('ag_grpo', **changes)
  assert line in refused(cfg.method.check, ctx, cfg.rollout)


def test_rows_that_do_not_fit_the_mesh_are_refused():
  cfg, ctx = tiny_run.parts('diffu_grpo', devices=8, rollout__num_prompts=3)
  line = refused(cfg.method.check, ctx, cfg.rollout)
  assert 'num_prompts * rollout.group_size is 12, which the 8 shards' in line


def test_reward_terms_of_another_task_are_refused():
  cfg, ctx = tiny_run.parts('diffu_grpo', method__reward={'cells': 1.0})
  rows = tiny_run.rows('5 + 3 - 1')
  line = refused(cfg.method.check_rows, ctx, rows)
  assert "method.reward.cells is no reward term of task 'countdown'" in line


def test_anchors_that_all_pass_the_cap_are_refused():
  cfg, ctx = tiny_run.parts('ag_grpo', method__guided__max_anchor=2)
  line = refused(cfg.method.check_rows, ctx, tiny_run.rows('5 + 3 - 1'))
  assert 'every anchor is longer than method.guided.max_anchor=2' in line
