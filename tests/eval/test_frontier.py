"""Curves at equal steps: by hand, relations, and coverage of the intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_jax import errors
from dllm_jax.eval import accuracy, frontier


def at(steps, correct, wanted):
  """What the best mixture reaches at each wanted number of steps."""
  steps, correct = np.array(steps, float), np.array(correct, float)
  return np.array(
    [
      frontier.best_mixture(steps, correct, float(w)).of(correct[:, None])[0]
      for w in wanted
    ]
  )


def test_best_mixture_by_hand():
  steps, correct = [2, 8, 4], [0.2, 0.5, 0.1]  # 4 steps are worse than 2
  got = at(steps, correct, [1, 2, 4, 5, 8, 20])
  np.testing.assert_allclose(got, [0.2, 0.2, 0.3, 0.35, 0.5, 0.5])
  # A point above the chord of its neighbours is on the hull, one below is not.
  np.testing.assert_allclose(
    at([2, 4, 8], [0.2, 0.4, 0.5], [3, 6]), [0.3, 0.45]
  )
  np.testing.assert_allclose(at([3, 3], [0.1, 0.2], [3, 4]), [0.2, 0.2])
  np.testing.assert_allclose(at([4, 3, 3], [0.9, 0.1, 0.2], [1]), [0.2])
  mixture = frontier.best_mixture(
    np.array([2.0, 8.0]), np.array([0.2, 0.5]), 4.0
  )
  assert mixture == (0, 1, pytest.approx(1 / 3))
  np.testing.assert_allclose(
    mixture.of(np.array([[3.0, 0.0], [6.0, 3.0]])), [4, 1]
  )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_best_mixture_is_the_least_concave_curve_above_the_points(seed, num):
  rng = np.random.default_rng(seed)
  steps, correct = rng.uniform(1, 9, num), rng.random(num)
  grid = np.linspace(steps.min(), 10, 40)
  got = at(steps, correct, grid)
  assert (at(steps, correct, steps) >= correct - 1e-12).all()
  assert (np.diff(got) >= -1e-12).all()
  assert (np.diff(got, 2) <= 1e-9).all()
  assert got[-1] == correct.max()
  if num > 1:  # a point more lowers nothing that was reached without it
    there = grid >= steps[:-1].min()
    fewer = at(steps[:-1], correct[:-1], grid[there])
    assert (fewer <= got[there] + 1e-12).all()


def make(seed, accuracy, steps, num=400):
  rng = np.random.default_rng(seed)
  level = rng.random(num)
  return frontier.Points(
    np.stack([(level < a).astype(float) for a in accuracy]),
    np.stack([np.full(num, s, float) for s in steps]),
  )


def test_compare_of_a_policy_with_itself_has_gap_0():
  # Every point is on the hull, and far from the chords of the others.
  same = make(0, [0.2, 0.6, 0.8], [2, 4, 8])
  for row in frontier.compare(same, same):
    assert row['gap'] == row['low'] == row['high'] == 0.0
    assert row['base_steps'] == row['mean_steps']


def test_compare_at_equal_and_at_fewer_steps_by_hand():
  base = make(0, [0.2, 0.6], [2, 6])
  policy = make(0, [0.1, 0.5, 0.7], [1, 4, 6])
  fewer, equal, most = frontier.compare(policy, base)
  # The base has no decoding of one step: it is given its two.
  assert (fewer['mean_steps'], fewer['base_steps']) == (1.0, 2.0)
  assert fewer['base'] == pytest.approx(base.correct[0].mean())
  mixed = base.correct.mean(1).mean()
  assert equal['base'] == pytest.approx(mixed)
  assert equal['base_steps'] == pytest.approx(4.0)
  assert equal['gap'] == pytest.approx(policy.correct[1].mean() - mixed)
  assert equal['low'] < equal['gap'] < equal['high']
  assert most['mean_steps'] == 6 and 0.05 < most['gap'] < 0.15
  # Problems are drawn for both together: the gap is steadier than its parts.
  assert most['high'] - most['low'] < 0.08
  assert frontier.compare(policy, base) == frontier.compare(policy, base)


def test_compare_leaves_out_problems_that_were_not_judged():
  base = make(0, [0.2, 0.6], [2, 6])
  policy = make(0, [0.1, 0.5, 0.7], [1, 4, 6])
  expected = frontier.compare(policy, base)

  def with_unjudged(points, decoding):
    extra = np.zeros((len(points.correct), 3))
    extra[decoding] = np.nan
    steps = np.full(extra.shape, 100.0)
    return frontier.Points(
      np.concatenate([points.correct, extra], 1),
      np.concatenate([points.steps, steps], 1),
    )

  right = make(1, [1.0, 1.0], [100, 100], num=3)
  wide = frontier.Points(
    *(np.concatenate(x, 1) for x in zip(base, right, strict=True))
  )
  assert frontier.compare(with_unjudged(policy, 1), wide) == expected
  assert frontier.compare(with_unjudged(policy, 0), with_unjudged(base, 1)) == (
    expected
  )
  nothing = base._replace(correct=np.full_like(base.correct, np.nan))
  with pytest.raises(errors.UserError, match='no problem was judged'):
    frontier.compare(policy, nothing)


def test_points_have_no_verdict_where_the_verifier_failed():
  evaluation = accuracy.Evaluation(
    *[None] * len(accuracy.Evaluation._fields)
  )._replace(
    correct=np.float32([1, 0, 0]),
    judged=np.array([True, True, False]),
    num_steps=np.int32([2, 3, 4]),
  )
  points = frontier.points([evaluation])
  np.testing.assert_array_equal(points.correct, [[1, 0, np.nan]])
  np.testing.assert_array_equal(points.steps, [[2, 3, 4]])


def covered(curve, truth, num=200, seeds=80):
  """How often the interval of the gap at 6 steps holds `truth`."""
  steps = np.linspace(2.0, 13.0, len(curve))
  inside = 0
  for seed in range(seeds):
    rng = np.random.default_rng(seed)
    draw = lambda p, rng=rng: (
      rng.random((len(p), num)) < np.array(p)[:, None]
    ).astype(float)
    base = frontier.Points(draw(curve), np.repeat(steps[:, None], num, 1))
    policy = frontier.Points(draw([0.4]), np.full((1, num), 6.0))
    (row,) = frontier.compare(policy, base)
    inside += row['low'] <= truth <= row['high']
  return inside / seeds


@pytest.mark.parametrize(
  'curve, truth',
  [
    ([0.3], 0.1),
    # Twelve decodings that are all as good: the best of them by luck would
    # look better than the policy, which is as good.
    ([0.4] * 12, 0.0),
    # A curve that rises to the policy's 0.4 at its 6 steps.
    (0.45 - 0.2 * np.exp(-np.linspace(0, 11, 12) * np.log(4) / 4), 0.0),
  ],
)
def test_compare_intervals_cover_the_true_gap(curve, truth):
  assert 0.89 <= covered(curve, truth) <= 1.0  # 95 %, of 80 draws


def test_fewest_steps_keeps_an_accuracy_by_one_standard_error():
  def evaluations(accuracies):
    steps = {0.9: 6.0, 0.7: 4.0, 0.5: 2.0}
    return {
      t: accuracy.Evaluation(
        accuracy=a,
        mean_steps=steps[t],
        tokens_per_step=1.0,
        metrics={},
        tokens_per_second=1.0,
        seconds=1.0,
        correct=np.zeros(100, np.float32),
        judged=np.ones(100, bool),
        reasons=[],
        answers=np.zeros(100, np.int64),
        tokens=np.zeros((100, 1), np.int32),
        logp=np.zeros((100, 1), np.float32),
        commit_step=np.zeros((100, 1), np.int32),
        num_steps=np.ones(100, np.int32),
      )
      for t, a in zip(steps, accuracies, strict=True)
    }

  # One standard error of 0.2 on 100 rows is 0.04: 0.24 or more is wanted.
  pick = lambda *a: frontier.fewest_steps(evaluations(a), 0.2)
  assert pick(0.4, 0.3, 0.25) == 0.5
  assert pick(0.4, 0.3, 0.23) == 0.7
  assert pick(0.21, 0.22, 0.1) == 0.7  # none: the most accurate
  assert pick(0.22, 0.22, 0.1) == 0.7  # in fewest steps
  # An accuracy of 0 is not kept by another 0; 1 is the most there is.
  assert frontier.fewest_steps(evaluations((0.0, 0.1, 0.0)), 0.0) == 0.7
  assert frontier.fewest_steps(evaluations((1.0, 1.0, 0.9)), 0.999) == 0.7
