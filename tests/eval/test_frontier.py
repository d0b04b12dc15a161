"""Curves at equal steps: by hand, relations, and coverage of the intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_jax.eval import accuracy, frontier


def at(steps, correct, wanted):
  return frontier.frontier_at(
    *(np.array(x, float) for x in (steps, correct, wanted))
  )


def test_by_hand():
  steps, correct = [2, 8, 4], [0.2, 0.5, 0.1]  # 4 steps are worse than 2
  got = at(steps, correct, [1, 2, 4, 5, 8, 20])
  np.testing.assert_allclose(got, [np.nan, 0.2, 0.3, 0.35, 0.5, 0.5])
  # A point above the chord of its neighbours is on the hull, one below is not.
  np.testing.assert_allclose(
    at([2, 4, 8], [0.2, 0.4, 0.5], [3, 6]), [0.3, 0.45]
  )
  np.testing.assert_allclose(at([3, 3], [0.1, 0.2], [3, 4]), [0.2, 0.2])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_is_the_least_concave_curve_above_the_points(seed, num):
  rng = np.random.default_rng(seed)
  steps, correct = rng.uniform(1, 9, num), rng.random(num)
  grid = np.linspace(steps.min(), 10, 40)
  got = at(steps, correct, grid)
  assert (at(steps, correct, steps) >= correct - 1e-12).all()
  assert (np.diff(got) >= -1e-12).all()
  assert (np.diff(got, 2) <= 1e-9).all()
  fewer = at(steps[:-1], correct[:-1], grid) if num > 1 else np.array(np.nan)
  assert (np.nan_to_num(fewer, nan=0.0) <= got + 1e-12).all()
  assert got[-1] == correct.max()


def make(seed, accuracy, steps, num=400):
  rng = np.random.default_rng(seed)
  level = rng.random(num)
  return frontier.Points(
    np.stack([(level < a).astype(float) for a in accuracy]),
    np.stack([np.full(num, s, float) for s in steps]),
  )


def test_a_policy_against_itself_has_no_gap():
  same = make(0, [0.2, 0.4, 0.6], [2, 4, 8])
  for row in frontier.compare(same, same):
    assert row['gap'] == row['low'] == row['high'] == 0.0


def test_gaps_and_missing_steps():
  base = make(0, [0.2, 0.6], [2, 6])
  policy = make(0, [0.1, 0.5, 0.7], [1, 4, 6])
  fewer, equal, most = frontier.compare(policy, base)
  assert fewer['gap'] is None and fewer['base'] is None
  mixed = base.correct.mean(1).mean()
  assert equal['base'] == pytest.approx(mixed)
  assert equal['gap'] == pytest.approx(policy.correct[1].mean() - mixed)
  assert equal['low'] < equal['gap'] < equal['high']
  assert most['mean_steps'] == 6 and 0.05 < most['gap'] < 0.15
  # Problems are drawn for both together: the gap is steadier than its parts.
  assert most['high'] - most['low'] < 0.08
  assert frontier.compare(policy, base) == frontier.compare(policy, base)


def test_intervals_cover_the_truth():
  inside = 0
  for seed in range(40):
    rng = np.random.default_rng(seed)
    draw = lambda p, rng=rng: (rng.random((1, 300)) < p).astype(float)
    steps = np.full((1, 300), 3.0)
    (row,) = frontier.compare(
      frontier.Points(draw(0.4), steps), frontier.Points(draw(0.3), steps)
    )
    inside += row['low'] <= 0.1 <= row['high']
  assert inside >= 34  # 95 % of 40 is 38


def test_the_fewest_steps_that_keep_an_accuracy():
  def found(accuracies):
    steps = {0.9: 6.0, 0.7: 4.0, 0.5: 2.0}
    return {
      t: accuracy.Evaluation(
        accuracy=a,
        mean_steps=steps[t],
        metrics={},
        tokens_per_second=1.0,
        seconds=1.0,
        correct=np.zeros(100, np.float32),
        texts=[],
        tokens=np.zeros((100, 1), np.int32),
        commit_step=np.zeros((100, 1), np.int32),
        num_steps=np.ones(100, np.int32),
      )
      for t, a in zip(steps, accuracies, strict=True)
    }

  # One standard error of 0.2 on 100 rows is 0.04: 0.24 or more is wanted.
  pick = lambda *a: frontier.fewest_steps(found(a), 0.2)
  assert pick(0.4, 0.3, 0.25) == 0.5
  assert pick(0.4, 0.3, 0.23) == 0.7
  assert pick(0.21, 0.22, 0.1) == 0.7  # none: the most accurate
