"""Thinning, smoothing and averages over seeds, by hand."""

import numpy as np
import pytest

from dllm_jax.analysis import charts, record


def curve(values, first=1):
  steps = np.arange(first, first + len(values))
  return record.Curve(steps, np.array(values, float))


def test_thin_keeps_short_curves():
  drawn = charts.thin(curve([3.0, 1.0, 2.0]))
  assert drawn.x.tolist() == [1, 2, 3] and drawn.y.tolist() == [3, 1, 2]


def test_thin_averages_neighbours():
  n = 2 * charts.MAX_POINTS
  drawn = charts.thin(curve(np.arange(n) ** 2.0))
  assert len(drawn.x) == charts.MAX_POINTS
  assert drawn.x[:2].tolist() == [1.5, 3.5]
  assert drawn.y[:2].tolist() == [0.5, 6.5]  # (0 + 1) / 2, (4 + 9) / 2


@pytest.mark.parametrize('n', [401, 1000, 99_999])
def test_thin_keeps_the_mean(n):
  values = np.random.default_rng(0).normal(size=n)
  drawn = charts.thin(curve(values))
  assert len(drawn.x) == charts.MAX_POINTS
  edges = np.linspace(0, n, charts.MAX_POINTS + 1).astype(int)
  assert np.average(drawn.y, weights=np.diff(edges)) == pytest.approx(
    values.mean()
  )


def test_smooth_by_hand():
  # 50 points: one on either side, and none at the ends.
  values = np.arange(50.0) ** 2
  found = charts.smooth(curve(values)).values
  assert found[0] == 0 and found[-1] == 49**2
  assert found[1] == pytest.approx((0 + 1 + 4) / 3)
  assert found[20] == pytest.approx((19**2 + 20**2 + 21**2) / 3)


def test_smooth_keeps_lines_and_short_curves():
  line = np.linspace(2, 5, 200)
  np.testing.assert_allclose(charts.smooth(curve(line)).values, line)
  assert charts.smooth(curve([1.0, 5.0])).values.tolist() == [1, 5]


def test_over_seeds_averages_at_common_steps():
  drawn = charts.over_seeds([curve([9.0, 1, 1]), curve([3.0, 3, 8], first=2)])
  assert drawn.x.tolist() == [2, 3] and drawn.y.tolist() == [2, 2]
  # s = sqrt(2), t_{1, 0.975} = 12.7062: 12.7062 sqrt(2) / sqrt(2)
  np.testing.assert_allclose(drawn.high - drawn.y, 12.7062, rtol=1e-5)
  np.testing.assert_allclose(drawn.y - drawn.low, 12.7062, rtol=1e-5)


def test_runs_without_a_common_step_have_no_points():
  drawn = charts.over_seeds([curve([1.0]), curve([1.0], first=5)])
  assert len(drawn.x) == 0
