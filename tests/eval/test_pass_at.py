"""pass@k: by hand, against all draws, and what is left out."""

import itertools
import math

import numpy as np
import pytest

from dllm_jax.eval import pass_at


@pytest.mark.parametrize(
  ('num', 'right', 'k', 'value'),
  [
    (5, 2, 1, 0.4),
    (5, 2, 2, 0.7),  # 1 - 3/10
    (5, 2, 3, 0.9),  # 1 - 1/10
    (5, 2, 4, 1.0),
    (4, 0, 4, 0.0),
    (4, 4, 1, 1.0),
    (1, 1, 1, 1.0),
    (10, 3, 5, 11 / 12),  # 1 - 21/252
  ],
)
def test_estimate_by_hand(num, right, k, value):
  assert pass_at.estimate(num, right, k) == pytest.approx(value, abs=1e-15)


def test_estimate_equals_share_of_all_draws():
  for num in range(1, 7):
    for right in range(num + 1):
      verdicts = [True] * right + [False] * (num - right)
      for k in range(1, num + 1):
        draws = list(itertools.combinations(verdicts, k))
        want = sum(map(any, draws)) / len(draws)
        assert pass_at.estimate(num, right, k) == pytest.approx(want)


def test_estimate_is_exact_for_large_numbers():
  want = 1 - math.prod((199 - i) / (200 - i) for i in range(100))
  assert pass_at.estimate(200, 1, 100) == pytest.approx(want) == 0.5


@pytest.mark.parametrize('bad', [(4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1)])
def test_estimate_refuses_impossible_counts(bad):
  with pytest.raises(ValueError, match='is not in'):
    pass_at.estimate(*bad)


def test_summary_leaves_out_unjudged_completions():
  # Problem 0: 1 of 3 right, one masked; 1: 0 of 4; 2: 2 of 2, two masked, one
  # of which says True; 3: nothing judged.
  correct = np.array([[1, 0, 0, 0], [0] * 4, [1, 1, 1, 0], [1] * 4], bool)
  judged = np.array([[1, 1, 1, 0], [1] * 4, [1, 1, 0, 0], [0] * 4], bool)
  found = pass_at.summary(correct, judged, (1, 3, 4))
  assert found['pass@1'] == pytest.approx((1 / 3 + 0 + 1) / 3)
  assert found['pass@1_num'] == 3
  assert found['pass@3'] == pytest.approx((1 + 0) / 2)
  assert found['pass@3_num'] == 2
  assert (found['pass@4'], found['pass@4_num']) == (0, 1)
  alone = pass_at.summary(correct[3:], judged[3:], (1,))
  assert math.isnan(alone['pass@1']) and alone['pass@1_num'] == 0
  whole = pass_at.summary(correct[:2], np.ones((2, 4), bool), (1, 2))
  assert whole == {'pass@1': 0.125, 'pass@2': 0.25}
