"""TA-GRPO-d: the advantages are those of the path, built from its parts."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import types
from dllm_jax.rl import trajectory_credit
from dllm_jax.rollout import score, score_steps
from dllm_jax.train import loop
from tests import tiny_run

ROWS = tiny_run.rows('5 + 3 - 1', '3 + 5 - 1', '5 - 1 + 3', '3 - 1 + 5')
G = 4
PROMPT = np.repeat(np.arange(4), G)


@pytest.fixture(scope='module')
def method():
  cfg, ctx = tiny_run.parts('ta_grpo_d')
  method, state = tiny_run.start(cfg, ctx)
  assert isinstance(method, loop.Method)
  return method, state


def collect(method, rows=ROWS, step=0, **credit):
  made, state = method
  credit = dataclasses.replace(made.cfg.credit, **credit)
  made = dataclasses.replace(
    made, cfg=dataclasses.replace(made.cfg, credit=credit)
  )
  batch, metrics = made.collect(state, rows, step)
  return jax.device_get(batch), metrics


def test_rows_take_different_numbers_of_steps(method):
  batch, metrics = collect(method)
  assert len(set(batch.num_steps)) > 1 and batch.num_steps.min() >= 1
  for steps, total in zip(batch.commit_step, batch.num_steps, strict=True):
    assert set(steps) == set(range(total))
  assert metrics['rollout/num_steps'] == batch.num_steps.mean()
  assert metrics['rollout/tokens_per_step'] == pytest.approx(
    (batch.completion_mask.sum(1) / batch.num_steps).mean()
  )


def test_delta_0_gives_the_group_advantage(method):
  batch, metrics = collect(method, delta=0.0)
  assert not [name for name in metrics if name.startswith('credit/')]
  assert (batch.advantage == batch.advantage[:, :1]).all()
  sums = batch.advantage[:, 0].reshape(4, G).sum(1)
  np.testing.assert_allclose(sums, 0, atol=1e-6)


@pytest.mark.parametrize('form', typing.get_args(trajectory_credit.Form))
def test_advantages_follow_from_the_trajectory(method, form):
  flat, _ = collect(method, delta=0.0)
  got, metrics = collect(method, form=form)
  ctx = method[0].ctx
  samples = score.Samples(
    [ROWS[i] for i in PROMPT],
    types.Trajectory(
      got.tokens, got.sampler_logp, got.commit_step, got.num_steps
    ),
    PROMPT,
  )
  steps = score_steps.score_steps(ctx, samples, method[0].cfg.reward)
  longest = got.num_steps.reshape(4, G).max(1)[PROMPT]
  auc = steps.total + (longest - got.num_steps) * steps.final
  groups = auc.reshape(4, G)
  spread = groups.std(1, ddof=1, keepdims=True)
  centred = groups - groups.mean(1, keepdims=True)
  tied = spread < 1e-5
  z = np.where(tied, 0, centred / np.where(tied, 1, spread)).ravel()
  weight = (got.commit_step[:, None] > got.commit_step[..., None]).mean(-1)
  want = trajectory_credit.token_advantages(
    jnp.asarray(flat.advantage[:, 0]),
    jnp.asarray(z, jnp.float32),
    jnp.asarray(weight, jnp.float32),
    jnp.asarray(got.completion_mask),
    jnp.asarray(PROMPT),
    num_groups=4,
    cfg=dataclasses.replace(method[0].cfg.credit, form=form),
  )
  assert np.abs(z).max() > 0.5
  np.testing.assert_allclose(got.advantage, want, atol=1e-5)
  assert (got.advantage != flat.advantage).any()
  assert metrics['credit/auc'] == pytest.approx(auc.mean(), rel=1e-5)
  assert 0 < metrics['credit/verdicts'] <= metrics['credit/texts']


def test_without_auc_no_partial_text_is_scored(method):
  _, metrics = collect(method, form='clamped', use_auc=False)
  assert 'credit/verdicts' not in metrics and metrics['credit/z'] == 0


def test_collect_does_not_read_gold_answers_while_decoding(method):
  want, metrics = collect(method)
  got, others = collect(method, tiny_run.rows('9', '9', '9', '9'))
  tiny_run.assert_same(got, want)
  assert metrics['reward/mean'] == others['reward/mean']


def test_collect_on_eight_devices_equals_one(method):
  cfg, ctx = tiny_run.parts('ta_grpo_d', devices=8, rollout__num_prompts=4)
  wide = tiny_run.start(cfg, ctx)
  one, eight = collect(method), collect(wide)
  np.testing.assert_array_equal(eight[0].tokens, one[0].tokens)
  np.testing.assert_array_equal(eight[0].commit_step, one[0].commit_step)
  np.testing.assert_allclose(eight[0].advantage, one[0].advantage, atol=1e-5)


def test_update_changes_parameters_and_reports_metrics(method):
  made, state = method
  batch, _ = made.collect(state, ROWS, 0)
  before = jax.device_get(state.params)
  fresh = jax.tree.map(jnp.copy, state)
  new, (metrics,) = made.update(fresh, batch, 0)
  changed = jax.tree.map(
    lambda a, b: bool((np.asarray(a) != b).any()), new.params, before
  )
  assert any(jax.tree.leaves(changed))
  assert 0 < metrics['policy/entropy'] < np.log(made.ctx.vocab.size)
  assert metrics['policy/sampler_gap'] < 1e-4  # at T = 1, all its commits


def test_rollouts_through_a_cache_have_a_gap_and_weights():
  """Of two layers: the keys of one layer depend on nothing but the token."""
  cfg, ctx = tiny_run.parts(
    'ta_grpo_d',
    model__num_layers=2,
    model__embed_init_std=1.0,
    rollout__cache='dual',
    rollout__block_length=4,
    method__policy__max_sampler_ratio=2.0,
  )
  made, state = tiny_run.start(cfg, ctx)
  batch, _ = made.collect(state, ROWS, 0)
  _, (metrics,) = made.update(state, batch, 0)
  assert (
    metrics['policy/sampler_gap_p99'] > metrics['policy/sampler_gap'] > 1e-4
  )
  assert 0 < metrics['policy/sampler_ess'] < 1
  assert metrics['policy/skipped_updates'] == 0
