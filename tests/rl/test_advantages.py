"""Group-relative advantages: hand-computed, recordings, invariants."""

import functools
import typing

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_jax.rl import advantages
from tests import tiny

Config = advantages.AdvantageConfig
group = jax.jit(
  advantages.group_advantages, static_argnames=('num_groups', 'cfg')
)

# Two groups, rows interleaved: 3 free and 2 guided rows, 1 free and 2 guided.
REWARD = np.float32([1, 10, 2, 5, 4, 6, 20, 3])
PROMPT = np.int32([0, 1, 0, 0, 0, 1, 1, 0])
GUIDED = np.array([0, 0, 0, 1, 1, 1, 1, 0], bool)
# Group 0: free 1, 2, 3 (mean 2); guided 5, 4 (mean 4.5); all: mean 3.
# Group 1: free 10; guided 6, 20 (mean 13); all: mean 12.
BY_HAND = {
  'shared': [-2, -2, -1, 2, 1, -6, 8, 0],
  'free_separate': [-1, 0, 0, 2, 1, -6, 8, 1],
  'guided_separate': [-2, -2, -1, 0.5, -0.5, -7, 7, 0],
  'separate': [-1, 0, 0, 0.5, -0.5, -7, 7, 1],
}
# n / (n - 1) times the above, where n is the number of rows in the mean.
LEAVE_ONE_OUT = {
  'shared': [-2.5, -3, -1.25, 2.5, 1.25, -9, 12, 0],
  'free_separate': [-1.5, 0, 0, 2.5, 1.25, -9, 12, 1.5],
  'guided_separate': [-2.5, -3, -1.25, 1, -1, -14, 14, 0],
  'separate': [-1.5, 0, 0, 1, -1, -14, 14, 1.5],
}


def compute(reward=REWARD, prompt=PROMPT, guided=GUIDED, n=2, **cfg):
  return group(
    np.float32(reward),
    np.int32(prompt),
    np.asarray(guided, bool),
    num_groups=n,
    cfg=Config(**cfg),
  )


@pytest.mark.parametrize('baseline', typing.get_args(advantages.Baseline))
def test_every_baseline_by_hand(baseline):
  got = compute(baseline=baseline)
  np.testing.assert_allclose(got.advantage, BY_HAND[baseline], atol=1e-5)
  assert not got.tied.any() and got.counted.all()
  got = compute(baseline=baseline, leave_one_out=True)
  np.testing.assert_allclose(got.advantage, LEAVE_ONE_OUT[baseline], atol=1e-5)


def test_leave_one_out_baseline_is_the_mean_of_the_others():
  got = compute(leave_one_out=True).advantage
  for i in range(8):
    others = (PROMPT == PROMPT[i]) & (np.arange(8) != i)
    want = REWARD[i] - REWARD[others].mean()
    np.testing.assert_allclose(got[i], want, atol=1e-5)


def test_divide_by_std_uses_the_std_of_the_group():
  got = compute(divide_by_std=True).advantage
  for p in (0, 1):
    rows = PROMPT == p
    r = REWARD[rows]
    want = (r - r.mean()) / r.std(ddof=1)
    np.testing.assert_allclose(np.asarray(got)[rows], want, rtol=1e-5)


@pytest.mark.parametrize('baseline', typing.get_args(advantages.Baseline))
def test_advantages_do_not_depend_on_the_order_of_rows(baseline):
  order = np.random.default_rng(0).permutation(8)
  want = compute(baseline=baseline).advantage
  got = compute(REWARD[order], PROMPT[order], GUIDED[order], baseline=baseline)
  np.testing.assert_allclose(got.advantage, want[order], atol=1e-5)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('baseline', typing.get_args(advantages.Baseline))
def test_rewards_that_are_not_finite_are_ignored(baseline, bad):
  reward = REWARD.copy()
  reward[[0, 4]] = bad
  keep = ~np.isin(np.arange(8), [0, 4])
  got = compute(reward, baseline=baseline, divide_by_std=True)
  want = compute(
    REWARD[keep],
    PROMPT[keep],
    GUIDED[keep],
    baseline=baseline,
    divide_by_std=True,
  )
  np.testing.assert_array_equal(got.counted, keep)
  np.testing.assert_array_equal(np.asarray(got.advantage)[~keep], 0.0)
  np.testing.assert_allclose(
    np.asarray(got.advantage)[keep], want.advantage, rtol=1e-6
  )


@pytest.mark.parametrize('divide_by_std', [False, True])
@pytest.mark.parametrize('leave_one_out', [False, True])
@pytest.mark.parametrize('baseline', typing.get_args(advantages.Baseline))
def test_rows_without_a_comparison_get_0(
  baseline, leave_one_out, divide_by_std
):
  # Group 0 is tied, 1 has one row, 2 no finite reward, 3 no row.
  got = compute(
    [0.3, 0.3, 0.3, 2.0, np.nan, np.inf],
    [0, 0, 0, 1, 2, 2],
    [0, 1, 0, 0, 1, 0],
    4,
    baseline=baseline,
    leave_one_out=leave_one_out,
    divide_by_std=divide_by_std,
  )
  np.testing.assert_array_equal(got.advantage, 0.0)
  np.testing.assert_array_equal(got.tied, True)


@settings(max_examples=100, deadline=None)
@given(
  st.floats(-30, 30, width=32),
  st.integers(1, 64),
  st.sampled_from(typing.get_args(advantages.Baseline)),
)
def test_tied_rewards_give_exactly_0(reward, size, baseline):
  # Rows beyond `size` are a second group, so that one shape is compiled.
  rows = np.arange(64)
  values = np.where(rows < size, reward, np.float32(0.1))
  got = compute(
    values, rows >= size, rows % 2 == 1, baseline=baseline, leave_one_out=True
  )
  np.testing.assert_array_equal(got.advantage, 0.0)
  assert got.tied.all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=8, max_size=8), st.integers(-8, 8))
def test_advantages_sum_to_0_and_ignore_a_shift_of_rewards(rewards, shift):
  r = np.float32(rewards) / 4
  got = np.asarray(compute(r).advantage)
  for p in (0, 1):
    assert abs(got[PROMPT == p].sum()) < 1e-5
  np.testing.assert_allclose(compute(r + shift).advantage, got, atol=1e-5)
  kinds = np.asarray(compute(r, baseline='separate').advantage)
  for p in (0, 1):
    for g in (False, True):
      assert abs(kinds[(PROMPT == p) & (GUIDED == g)].sum()) < 1e-5


def test_baselines_agree_without_guided_rows():
  plain = np.zeros(8, bool)
  want = compute(guided=plain).advantage
  for baseline in typing.get_args(advantages.Baseline):
    got = compute(guided=plain, baseline=baseline)
    np.testing.assert_allclose(got.advantage, want, atol=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_advantages_equal_recorded_groups(shared_dir, dtype):
  path = shared_dir / 'golden' / 'rl' / 'group_advantage.json'
  wide = dtype == 'float64'
  with jax.enable_x64(wide):
    call = functools.partial(group, cfg=Config())
    for case in tiny.cases(path):
      rewards = np.array(case['inputs']['rewards'])
      prompts, size = rewards.shape
      # Padded with rows that are ignored, so that one shape is compiled.
      fill = 128 - rewards.size
      got = call(
        np.pad(rewards.ravel(), (0, fill), constant_values=np.nan).astype(
          dtype
        ),
        np.repeat(
          np.arange(prompts + 1, dtype=np.int32), [size] * prompts + [fill]
        ),
        np.zeros(128, bool),
        num_groups=32,
      )
      assert got.advantage.dtype == dtype
      want = case['outputs']
      np.testing.assert_allclose(
        got.advantage[: rewards.size].reshape(prompts, size),
        want['advantages'],
        rtol=1e-9 if wide else 1e-5,
        atol=1e-9 if wide else 2e-6,
        err_msg=case['kind'],
      )
      np.testing.assert_array_equal(got.tied[:prompts], want['zero_std_groups'])


def test_advantages_equal_recorded_shared_baselines(shared_dir):
  path = shared_dir / 'golden' / 'rl' / 'af_ag_shared_baseline.json'
  # All groups in one batch, rows shuffled: float32, rtol 1e-5.
  cases = tiny.cases(path)
  reward, prompt, guided, want = [], [], [], []
  for i, case in enumerate(cases):
    for kind in ('af', 'ag'):
      reward += case['inputs'][f'rewards_{kind}']
      want += case['outputs'][f'advantage_{kind}']
    free = len(case['inputs']['rewards_af'])
    both = free + len(case['inputs']['rewards_ag'])
    prompt += [i] * both
    guided += [k >= free for k in range(both)]
  order = np.random.default_rng(0).permutation(len(reward))
  shuffle = lambda x: np.array(x)[order]
  got = compute(shuffle(reward), shuffle(prompt), shuffle(guided), len(cases))
  np.testing.assert_allclose(got.advantage, shuffle(want), rtol=1e-5, atol=2e-6)
