"""Schedules: hand-computed, and against exact arithmetic."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_jax.ops import schedules

MOST = 300
step_quota = jax.jit(schedules.step_quota)


def quotas(n, s):
  """The quota of each of the first `MOST` steps."""
  steps = jnp.arange(MOST, dtype=jnp.int32)
  got = step_quota(jnp.full(MOST, n, jnp.int32), jnp.int32(s), steps)
  return np.asarray(got)


@pytest.mark.parametrize(
  ('n', 's', 'want'),
  [
    (8, 4, [2, 2, 2, 2]),
    (12, 5, [3, 3, 2, 2, 2]),
    (3, 5, [1, 1, 1, 0, 0]),
    (7, 1, [7]),
    (0, 3, [0, 0, 0]),
  ],
)
def test_step_quota_by_hand(n, s, want):
  np.testing.assert_array_equal(quotas(n, s)[:s], want)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 256), st.integers(1, MOST))
def test_step_quotas_sum_to_the_masks_and_differ_by_at_most_1(n, s):
  got = quotas(n, s)[:s]
  assert got.sum() == n
  assert got.min() >= 0
  assert got.max() - got.min() <= 1
  assert (np.diff(got) <= 0).all()  # the remainder goes first
  assert got.max() == schedules.largest_quota(n, s)
  assert np.count_nonzero(got) == min(n, s)


def test_step_quotas_of_a_guided_reasoning_pass():
  # L = 256, La = 12, S = 64: 244 = 52 * 4 + 12 * 3.
  got = quotas(256 - 12, 64)[:64]
  np.testing.assert_array_equal(got, [4] * 52 + [3] * 12)


def test_first_true_is_the_length_without_a_true():
  mask = jnp.array([[False, True, True], [False] * 3, [True, False, True]])
  got = schedules.first_true(mask)
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, [1, 3, 0])


def test_positions_count_only_real_tokens():
  mask = jnp.array(
    [
      [1, 1, 1, 1, 1],
      [0, 0, 1, 1, 1],
      [1, 1, 0, 0, 1],
      [0, 1, 0, 1, 0],
      [0, 0, 0, 0, 0],
    ],
    bool,
  )
  real = np.asarray(schedules.positions(mask))[np.asarray(mask)]
  np.testing.assert_array_equal(real, [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 0, 1])


def test_linear_quota_by_hand():
  # 10 masks, 4 steps: 9990 // 4000, 7992 // 3001, 5994 // 2002, the rest.
  left, quotas = 10, []
  for step in range(4):
    quota = schedules.linear_quota(
      jnp.array([left]), jnp.int32(4), jnp.array([step])
    )
    quotas.append(int(quota[0]))
    left -= quotas[-1]
  assert quotas == [2, 2, 2, 4] and left == 0
  assert schedules.largest_linear_quota(10, 4) == 4


def test_linear_quota_equals_the_published_formula():
  # In exact arithmetic; floats can differ where the quota is an integer.
  half = fractions.Fraction(1, 1000)
  for steps in (1, 2, 7, 12, 37):
    time = [1 - i * (1 - half) / steps for i in range(steps + 1)]
    for i in range(steps - 1):
      left = np.arange(1, 65)
      got = schedules.linear_quota(
        jnp.asarray(left), jnp.int32(steps), jnp.full(64, i)
      )
      want = [int(n * (1 - time[i + 1] / time[i])) for n in left.tolist()]
      np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('steps', [1, 3, 8, 20])
def test_largest_linear_quota_equals_a_search(steps):
  seen = 0
  for start in range(1, 21):
    left = start
    for i in range(steps):
      quota = schedules.linear_quota(
        jnp.array([left]), jnp.int32(steps), jnp.array([i])
      )
      seen, left = max(seen, int(quota[0])), left - int(quota[0])
    assert left == 0
  assert schedules.largest_linear_quota(20, steps) == seen


def test_replay_has_what_earlier_steps_committed():
  tokens = jnp.array([[5, 6, 7], [8, 9, 4]])
  commit_step = jnp.array([[2, 0, 1], [0, 0, 3]])
  at = lambda *steps: schedules.replay(
    tokens, commit_step, jnp.array(steps), mask_token=1
  )
  np.testing.assert_array_equal(at(0, 1), [[1, 1, 1], [8, 9, 1]])
  np.testing.assert_array_equal(at(1, 3), [[1, 6, 1], [8, 9, 1]])
  np.testing.assert_array_equal(at(3, 4), [[5, 6, 7], [8, 9, 4]])


def test_previous_real_by_hand():
  """Padding on the left, and between two tokens; column 0 has none before."""
  mask = jnp.array([[0, 1, 1, 1], [1, 0, 0, 1]], bool)
  query = jnp.array([[3, 2, 0], [3, 1, 0]])
  np.testing.assert_array_equal(
    schedules.previous_real(mask, query), [[2, 1, 0], [0, 0, 0]]
  )
