"""Trajectory-aware token advantages: recordings, hand-computed, relations."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_jax.rl import trajectory_credit as credit
from tests import tiny

# Compiled: eager operations compile one by one for every new shape.
group_auc = jax.jit(credit.group_auc, static_argnames='num_groups')
group_z = jax.jit(credit.group_z, static_argnames='num_groups')
unmask_weight = jax.jit(credit.unmask_weight)
token_advantages = jax.jit(
  credit.token_advantages, static_argnames=('num_groups', 'cfg')
)
PUBLISHED = credit.CreditConfig(delta=1.0, form='published')


def auc_of(curves, num_groups=1, group_id=None):
  total = np.array([np.sum(c) for c in curves], np.float32)
  final = np.array([c[-1] for c in curves], np.float32)
  return group_auc(
    jnp.asarray(total),
    jnp.asarray(final),
    jnp.asarray([len(c) for c in curves], jnp.int32),
    jnp.zeros(len(curves), jnp.int32) if group_id is None else group_id,
    num_groups=num_groups,
  )


def z_of(x):
  x = jnp.asarray(x, jnp.float32)
  return group_z(x, jnp.zeros(len(x), jnp.int32), num_groups=1)


# Recordings.


def recorded(shared_dir, name):
  return tiny.cases(shared_dir / 'golden' / 'rl' / f'{name}.json')


def test_unmask_weights_equal_recordings(shared_dir):
  cases = recorded(shared_dir, 'unmask_weight')
  assert len(cases) == 26
  for case in cases:
    got = unmask_weight(jnp.array([case['inputs']['unmask_step']]))
    np.testing.assert_allclose(
      got[0], case['outputs']['w'], atol=1e-6, err_msg=case['id']
    )


def test_auc_and_z_equal_recordings(shared_dir):
  cases = recorded(shared_dir, 'auc_zscore')
  assert len(cases) == 27
  for case in cases:
    curves, want = case['inputs']['intermediate_rewards'], case['outputs']
    auc = auc_of(curves)
    np.testing.assert_allclose(auc, want['auc'], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
      z_of(auc), want['z'], rtol=1e-5, atol=1e-5, err_msg=str(case['id'])
    )


def test_token_advantages_equal_recordings(shared_dir):
  cases = recorded(shared_dir, 'shaped_advantage')
  assert len(cases) == 25
  for case in cases:
    given, want = case['inputs'], case['outputs']
    weight = unmask_weight(jnp.array(given['unmask_step']))
    advantage = jnp.asarray(want['advantage'], jnp.float32)
    got = token_advantages(
      advantage,
      z_of(auc_of(given['intermediate_rewards'])),
      weight,
      jnp.ones(weight.shape, bool),
      jnp.zeros(len(weight), jnp.int32),
      num_groups=1,
      cfg=credit.CreditConfig(delta=given['delta'], form='published'),
    )
    np.testing.assert_allclose(
      got, want['token_advantage'], rtol=1e-5, atol=1e-6, err_msg=case['id']
    )


# By hand.


def test_auc_extends_rows_to_the_longest_of_their_group():
  # 1 + 1 + 1, and 0 + 0.5 + 0.5 with one more step that repeats 0.5.
  np.testing.assert_allclose(auc_of([[1, 1, 1], [0, 0.5]]), [3.0, 1.0])
  # A longer row of another group changes nothing.
  got = auc_of([[1, 1, 1], [0, 0.5], [1.0] * 9], 2, jnp.array([0, 0, 1]))
  np.testing.assert_allclose(got, [3.0, 1.0, 9.0])


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('which', ['total', 'final'])
def test_rows_without_a_finite_reward_set_no_horizon(bad, which):
  """The longest row, of 9 steps, failed: the others end at 3 steps."""
  values = {
    'total': np.array([1.0, 3.0, 5.0], np.float32),
    'final': np.array([0.5, 1.0, 1.0], np.float32),
  }
  values[which][2] = bad
  got = group_auc(
    **{name: jnp.asarray(value) for name, value in values.items()},
    num_steps=jnp.array([2, 3, 9]),
    group_id=jnp.zeros(3, jnp.int32),
    num_groups=1,
  )
  np.testing.assert_allclose(got[:2], [1.5, 3.0])


def test_unmask_weight_by_hand():
  got = unmask_weight(jnp.array([[0, 1, 1, 2], [3, 3, 3, 3]]))
  np.testing.assert_allclose(got, [[0.75, 0.25, 0.25, 0.0], [0.0] * 4])


A = jnp.array([1.0, -1.0, 0.5, -0.5])
Z = jnp.array([1.0, -1.5, 0.0, 0.5])
W = jnp.array([[0.5, 0.0], [1.0, 0.5], [0.9, 0.2], [0.5, 0.0]])
ALL = jnp.ones(W.shape, bool)
ONE = jnp.zeros(4, jnp.int32)


def shaped(mask=ALL, group_id=ONE, **changes):
  cfg = dataclasses.replace(PUBLISHED, **changes)
  return np.asarray(
    token_advantages(A, Z, W, mask, group_id, num_groups=2, cfg=cfg)
  )


def test_forms_by_hand():
  # 1 + z w: 1.5, 1; -0.5, 0.25; 1, 1; 1.25, 1.
  want = np.array([[1.5, 1.0], [0.5, -0.25], [0.5, 0.5], [-0.625, -0.5]])
  np.testing.assert_allclose(shaped(), want)
  clamped = np.array([[1.2, 1.0], [0.0, -0.25], [0.5, 0.5], [-0.6, -0.5]])
  got = shaped(form='clamped', max_multiplier=1.2)
  np.testing.assert_allclose(got, clamped, rtol=1e-6)
  np.testing.assert_allclose(
    shaped(form='recentred', max_multiplier=1.2),
    clamped - clamped.mean(),
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    shaped(form='additive', delta=2.0),
    [[2.0, 1.0], [-4.0, -2.5], [0.5, 0.5], [0.0, -0.5]],
  )
  fraction = credit.flipped_fraction(jnp.asarray(want), A, ALL)
  assert fraction == 1 / 8


def test_use_auc_and_use_time_switch_off_one_factor():
  np.testing.assert_allclose(
    shaped(use_time=False)[:, 0], [2.0, 0.5, 0.5, -0.75]
  )
  np.testing.assert_allclose(shaped(use_auc=False), A[:, None] * (1 + W))


@pytest.mark.parametrize('form', typing.get_args(credit.Form))
def test_forms_change_nothing_without_delta_mask_or_signal(form):
  flat = np.repeat(np.asarray(A)[:, None], 2, 1)
  if form != 'recentred':
    np.testing.assert_array_equal(shaped(form=form, delta=0.0), flat)
  mask = ALL.at[1, 0].set(False).at[3].set(False)
  got = shaped(mask, form=form)
  assert (got[~np.asarray(mask)] == 0).all()
  if form == 'recentred':
    assert abs(got.sum()) < 1e-6
  if form == 'clamped':
    assert (shaped(form=form, delta=9.0) * flat >= 0).all()
  # A group of tied rewards and tied AUCs has no signal in any form.
  nothing = token_advantages(
    jnp.zeros(4),
    jnp.zeros(4),
    W,
    ALL,
    ONE,
    num_groups=1,
    cfg=dataclasses.replace(PUBLISHED, form=form),
  )
  assert not np.asarray(nothing).any()


def test_only_the_additive_form_acts_on_tied_rewards():
  for form in typing.get_args(credit.Form):
    cfg = dataclasses.replace(PUBLISHED, form=form)
    got = token_advantages(jnp.zeros(4), Z, W, ALL, ONE, num_groups=1, cfg=cfg)
    assert np.asarray(got).any() == (form == 'additive')


def test_mean_is_positive_for_published_and_not_for_additive():
  """The published multiplier inflates confidences, since z and A correlate."""
  rng = np.random.default_rng(0)
  groups, size, length = 400, 8, 6
  group_id = np.repeat(np.arange(groups), size)
  reward = (rng.random(groups * size) < 0.3).astype(np.float32)
  start = rng.integers(1, 6, groups * size)  # when the answer appears
  auc = reward * start + 0.3 * rng.random(groups * size)
  mean = reward.reshape(groups, size).mean(1)[group_id]
  z = group_z(
    jnp.asarray(auc, jnp.float32), jnp.asarray(group_id), num_groups=groups
  )
  weight = unmask_weight(
    jnp.asarray(rng.integers(0, 4, (groups * size, length)))
  )
  push = {}
  for form in typing.get_args(credit.Form):
    got = token_advantages(
      jnp.asarray(reward - mean),
      z,
      weight,
      jnp.ones(weight.shape, bool),
      jnp.asarray(group_id),
      num_groups=groups,
      cfg=dataclasses.replace(PUBLISHED, form=form),
    )
    push[form] = float(jnp.mean(got))
  assert push['published'] > 0.05 and push['clamped'] > 0.05
  assert abs(push['recentred']) < 1e-5 and abs(push['additive']) < 0.01


# z.


@pytest.mark.parametrize('value', [0.0, 0.1, 1 / 3, 7.7, 1e4, -250.3])
@pytest.mark.parametrize('size', [2, 6, 8])
def test_z_is_0_for_tied_aucs(value, size):
  assert not np.asarray(z_of([value] * size)).any()


def test_z_ignores_values_that_are_not_finite():
  got = z_of([1.0, 2.0, np.nan, np.inf])
  np.testing.assert_allclose(got, [-(0.5**0.5), 0.5**0.5, 0, 0], rtol=1e-6)
  assert not np.asarray(z_of([3.0])).any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=12))
def test_z_is_bounded_and_sums_to_0(values):
  z = np.asarray(z_of(values), np.float64)
  n = len(values)
  assert np.abs(z).max() <= (n - 1) / np.sqrt(n) + 1e-4
  assert abs(z.sum()) < 1e-3
  if z.any():
    # The published epsilon matters if the spread is tiny.
    spread = np.std(np.float32(values) - np.float32(min(values)), ddof=1)
    want = spread / (spread + 1e-8)
    assert z.std(ddof=1) == pytest.approx(want, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=16))
def test_unmask_weight_is_the_share_still_masked(steps):
  w = np.asarray(unmask_weight(jnp.array([steps])))[0]
  steps = np.array(steps)
  assert w.min() == 0 and w.max() < 1
  for t in set(steps):
    np.testing.assert_allclose(w[steps == t], np.mean(steps > t), atol=1e-6)


def test_z_does_not_depend_on_the_order_of_rows():
  rng = np.random.default_rng(3)
  group_id = np.repeat([0, 1, 2], 4)
  auc = rng.random(12).astype(np.float32)
  order = rng.permutation(12)
  z = lambda o: np.asarray(
    group_z(jnp.asarray(auc[o]), jnp.asarray(group_id[o]), num_groups=3)
  )
  np.testing.assert_allclose(z(order), z(np.arange(12))[order], atol=1e-6)


@pytest.mark.parametrize(
  'changes',
  [
    {'delta': -1.0},
    {'max_multiplier': 0.5},
    {'max_step_scores': -1},
    {'form': 'additive', 'use_auc': False},
  ],
)
def test_bad_settings_raise(changes):
  with pytest.raises(ValueError):
    dataclasses.replace(PUBLISHED, **changes)
