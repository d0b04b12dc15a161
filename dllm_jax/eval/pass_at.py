"""pass@k: the chance that one of k completions of a problem is right.

Chen et al. 2021 (arXiv:2107.03374), equation 1, estimated without bias from n
completions; what could not be judged is left out of n.

Dims: N problems, n completions of each.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def estimate(num: int, num_right: int, k: int) -> float:
  """1 - C(n - c, k) / C(n, k).

  Args:
    num: n, completions of a problem.
    num_right: c, how many of them are right.
    k: completions that are drawn of them, up to n.

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
  """pass@k over problems, for each k.

  Args:
    correct: verdicts.
    judged: False where there is none.
    ks: numbers of completions.

  Returns:
    'pass@K', nan where no problem has K judged completions; and where some have
    fewer, 'pass@K_num': of how many problems it is the mean.
  """
  right = (correct & judged).sum(axis=1)
  num = judged.sum(axis=1)
  found: dict[str, float | int] = {}
  for k in ks:
    values = [
      estimate(int(n), int(c), k)
      for n, c in zip(num, right, strict=True)
      if n >= k
    ]
    found[f'pass@{k}'] = float(np.mean(values)) if values else float('nan')
    if len(values) < len(num):
      found[f'pass@{k}_num'] = len(values)
  return found
