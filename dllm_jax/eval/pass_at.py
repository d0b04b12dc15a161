"""pass@k: the probability that one of k completions of a problem is correct.

The unbiased estimate from n completions of Chen et al. 2021 (arXiv:2107.03374),
equation 1; completions that were not judged are left out of n.

Dims: N problems, n completions of each.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def estimate(num: int, num_right: int, k: int) -> float:
  """1 - C(n - c, k) / C(n, k).

  Args:
    num: n, completions of the problem.
    num_right: c, correct completions among them.
    k: completions drawn from them, in 1..n.

  Raises:
    ValueError: k is not in 1..n, or c not in 0..n.
  """
  if not 1 <= k <= num:
    raise ValueError(f'k {k} is not in 1..{num}')
  if not 0 <= num_right <= num:
    raise ValueError(f'num_right {num_right} is not in 0..{num}')
  return 1 - math.comb(num - num_right, k) / math.comb(num, k)


def summary(
  correct: Bool[np.ndarray, 'N n'],
  judged: Bool[np.ndarray, 'N n'],
  ks: Sequence[int],
) -> dict[str, float | int]:
  """Mean pass@k over problems, for each k.

  Args:
    correct: verdicts.
    judged: False where a completion was not judged.
    ks: values of k.

  Returns:
    For each k, 'pass@K': the mean over the problems with at least K judged
    completions, nan if there are none; and 'pass@K_num': the number of those
    problems, if it is less than N.
  """
  right = (correct & judged).sum(axis=1)
  num = judged.sum(axis=1)
  results: dict[str, float | int] = {}
  for k in ks:
    values = [
      estimate(int(n), int(c), k)
      for n, c in zip(num, right, strict=True)
      if n >= k
    ]
    results[f'pass@{k}'] = float(np.mean(values)) if values else float('nan')
    if len(values) < len(num):
      results[f'pass@{k}_num'] = len(values)
  return results
