"""Accuracy against denoising steps: two policies compared at equal steps.

A policy has one point a decoding (a schedule or a threshold). In s steps on
average it reaches a point of at most as many, or a mixture of two points (a
share of the prompts is decoded under each). Dims: K decodings, N problems.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from dllm_jax.eval import accuracy

NUM_SAMPLES = 2000


class Points(NamedTuple):
  """One policy under several decodings, problem by problem.

  Attributes:
    correct: verdicts.
    steps: denoiser calls.
  """

  correct: Float[np.ndarray, 'K N']
  steps: Float[np.ndarray, 'K N']

  def of(self, problems: np.ndarray) -> 'Points':
    """The same decodings on some of the problems."""
    return Points(self.correct[:, problems], self.steps[:, problems])


def points(evaluations: Sequence[accuracy.Evaluation]) -> Points:
  """The decodings of one policy, all on the same problems."""
  return Points(
    np.stack([e.correct for e in evaluations]).astype(np.float64),
    np.stack([e.num_steps for e in evaluations]).astype(np.float64),
  )


class Mixture(NamedTuple):
  """Decoding `second` for a share of the prompts, `first` for the others."""

  first: int
  second: int
  share: float

  def of(self, values: Float[np.ndarray, 'K N']) -> Float[np.ndarray, ' N']:
    """The expected value of each problem, from those of the decodings."""
    return values[self.first] + self.share * (
      values[self.second] - values[self.first]
    )


def best_mixture(
  steps: Float[np.ndarray, ' K'],
  correct: Float[np.ndarray, ' K'],
  wanted: float,
) -> Mixture:
  """The most accurate mixture of at most `wanted` mean steps.

  On the upper concave hull of the points, so that no further point makes it
  worse; the point of fewest steps where all take more.
  """
  few, many = steps[:, None], steps[None]
  apart = many > few
  share = np.where(apart, wanted - few, 0.0) / np.where(apart, many - few, 1.0)
  reached = correct[:, None] + share * (correct[None] - correct[:, None])
  # A pair that is not apart stands for its first point alone.
  possible = (few <= wanted) & ((wanted <= many) | ~apart)
  if not possible.any():
    fewest = int(np.lexsort((-correct, steps))[0])
    return Mixture(fewest, fewest, 0.0)
  best = np.argmax(np.where(possible, reached, -np.inf))
  first, second = map(int, np.unravel_index(best, reached.shape))
  return Mixture(first, second, float(share[first, second]))


def fewest_steps(
  found: Mapping[float, accuracy.Evaluation], wanted: float
) -> float:
  """The setting of fewest mean steps that keeps an accuracy.

  By one standard error at least, since the least of many settings is picked;
  the most accurate setting where none keeps it.

  Args:
    found: evaluations on the same problems, by setting.
    wanted: the accuracy to keep, in 0..1.
  """

  def keeps(evaluation):
    error = np.sqrt(wanted * (1 - wanted) / evaluation.judged.sum())
    return evaluation.accuracy >= min(wanted + error, 1.0) > 0.0

  enough = [setting for setting in found if keeps(found[setting])]
  if enough:
    return min(enough, key=lambda setting: found[setting].mean_steps)
  return max(found, key=lambda s: (found[s].accuracy, -found[s].mean_steps))


def compare(
  policy: Points, base: Points, *, seed: int = 0
) -> list[dict[str, Any]]:
  """Each decoding of `policy` against what `base` reaches in as many steps.

  The mixture of the base is chosen on one half of the problems and counted on
  the other, both ways: on the problems that it was chosen on, the best of
  several noisy points flatters the base. Where the policy takes fewer steps
  than any decoding of the base, the base has its fewest.

  Args:
    policy: the policy; a row of the result for each of its K decodings.
    base: another, on the same problems; decodings of any kind.
    seed: of the halves, and of the bootstrap over problems.

  Returns:
    Dicts of 'mean_steps' and 'accuracy' of the policy, 'base_steps' and 'base'
    of the base, the difference 'gap' of the accuracies, and its 95 % interval
    'low', 'high'.
  """
  num = policy.correct.shape[1]
  rng = np.random.default_rng(seed)
  half = rng.permutation(num) % 2 == 0
  counts = rng.multinomial(num, np.full(num, 1 / num), size=NUM_SAMPLES)
  mixed = Points(*np.empty((2, *policy.correct.shape)))
  for mine in (half, ~half):
    other = base.of(~mine)
    for k, wanted in enumerate(policy.of(~mine).steps.mean(1)):
      mixture = best_mixture(other.steps.mean(1), other.correct.mean(1), wanted)
      mixed.correct[k, mine] = mixture.of(base.correct[:, mine])
      mixed.steps[k, mine] = mixture.of(base.steps[:, mine])
  gaps = policy.correct - mixed.correct  # [K, N]
  low, high = np.quantile(counts @ gaps.T / num, (0.025, 0.975), axis=0)
  return [
    {
      'mean_steps': float(policy.steps[k].mean()),
      'accuracy': float(policy.correct[k].mean()),
      'base_steps': float(mixed.steps[k].mean()),
      'base': float(mixed.correct[k].mean()),
      'gap': float(gaps[k].mean()),
      'low': float(low[k]),
      'high': float(high[k]),
    }
    for k in range(len(gaps))
  ]
