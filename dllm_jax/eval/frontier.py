"""Accuracy against denoising steps: two policies compared at equal steps.

A policy has one point per decoding (a schedule or a threshold). With a budget
of s steps on average it reaches any point of at most s steps, and mixtures of
two points (each decodes a share of the prompts). Dims: K decodings, N problems.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from dllm_jax import errors
from dllm_jax.eval import accuracy

NUM_SAMPLES = 2000


class Points(NamedTuple):
  """One policy under several decodings, problem by problem.

  Attributes:
    correct: verdicts, 1 or 0; nan where the completion was not judged.
    steps: number of denoiser calls.
  """

  correct: Float[np.ndarray, 'K N']
  steps: Float[np.ndarray, 'K N']

  def of(self, problems: np.ndarray) -> 'Points':
    """The same decodings on a subset of the problems."""
    return Points(self.correct[:, problems], self.steps[:, problems])


def points(evaluations: Sequence[accuracy.Evaluation]) -> Points:
  """The decodings of one policy, all on the same problems."""
  return Points(
    np.where(
      np.stack([e.judged for e in evaluations]),
      np.stack([e.correct for e in evaluations]).astype(np.float64),
      np.nan,
    ),
    np.stack([e.num_steps for e in evaluations]).astype(np.float64),
  )


class Mixture(NamedTuple):
  """Decoding `second` for a share of the prompts, `first` for the rest."""

  first: int
  second: int
  share: float

  def of(self, values: Float[np.ndarray, 'K N']) -> Float[np.ndarray, ' N']:
    """The expected value on each problem, given that of each decoding."""
    return values[self.first] + self.share * (
      values[self.second] - values[self.first]
    )


def best_mixture(
  steps: Float[np.ndarray, ' K'],
  correct: Float[np.ndarray, ' K'],
  wanted: float,
) -> Mixture:
  """The most accurate mixture of at most `wanted` mean steps.

  It lies on the upper concave hull of the points, so that adding a point never
  makes it worse. If every point takes more steps, it is the one of fewest.

  Args:
    steps: mean steps of each decoding.
    correct: accuracy of each decoding, in 0..1.
    wanted: the budget of mean steps.
  """
  few, many = steps[:, None], steps[None]
  apart = many > few
  share = np.where(apart, wanted - few, 0.0) / np.where(apart, many - few, 1.0)
  reached = correct[:, None] + share * (correct[None] - correct[:, None])
  # A pair with equal steps, or one point twice, stands for its first point.
  possible = (few <= wanted) & ((wanted <= many) | ~apart)
  if not possible.any():
    fewest = int(np.lexsort((-correct, steps))[0])
    return Mixture(fewest, fewest, 0.0)
  best = np.argmax(np.where(possible, reached, -np.inf))
  first, second = map(int, np.unravel_index(best, reached.shape))
  return Mixture(first, second, float(share[first, second]))


def fewest_steps(
  evaluations: Mapping[float, accuracy.Evaluation], wanted: float
) -> float:
  """The setting of fewest mean steps that keeps an accuracy.

  It must exceed `wanted` by one standard error, because the minimum over
  several noisy settings is taken. If no setting does, the most accurate one.

  Args:
    evaluations: evaluations on the same problems, by setting.
    wanted: the accuracy to keep, in 0..1.
  """

  def keeps(evaluation):
    error = np.sqrt(wanted * (1 - wanted) / evaluation.judged.sum())
    return evaluation.accuracy >= min(wanted + error, 1.0) > 0.0

  kept = {s: e for s, e in evaluations.items() if keeps(e)}
  if kept:
    return min(kept, key=lambda s: kept[s].mean_steps)
  rank = lambda e: (e.accuracy, -e.mean_steps)
  return max(evaluations, key=lambda s: rank(evaluations[s]))


def compare(policy: Points, base: Points) -> list[dict[str, Any]]:
  """Compares each decoding of `policy` with `base` at equal mean steps.

  The mixture of the base is chosen on one half of the problems and evaluated on
  the other, both ways: on the problems that it was chosen on, the best of
  several noisy points flatters the base. Where the policy takes fewer steps
  than any decoding of the base, the base takes its fewest.

  As in `eval.accuracy`, completions that were not judged do not count: a
  problem with one, under any decoding of either policy, is left out.

  Args:
    policy: the policy, under K decodings.
    base: the policy to compare with, on the same problems.

  Returns:
    For each decoding of `policy`, a dict of its 'mean_steps' and 'accuracy',
    the base's 'base_steps' and 'base' (accuracy), the difference of the
    accuracies 'gap', and its 95 % interval 'low', 'high'.

  Raises:
    errors.UserError: no problem was judged under all decodings.
  """
  judged = ~np.isnan(np.concatenate([policy.correct, base.correct])).any(0)
  if not judged.any():
    raise errors.UserError(
      'policies cannot be compared: no problem was judged under all decodings '
      'of both; the verifier fails'
    )
  if not judged.all():
    policy, base = policy.of(judged), base.of(judged)
  num = policy.correct.shape[1]
  rng = np.random.default_rng(0)  # the halves, and the bootstrap
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
