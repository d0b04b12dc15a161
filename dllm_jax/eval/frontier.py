"""Accuracy against denoising steps: two policies compared at equal steps.

A policy has one point a decoding (a schedule or a threshold). Its frontier is
what it reaches with s steps on average: a point of at most as many, or the
mixture of two points (decode a share of the prompts under each). Dims: K
decodings, N problems, R bootstrap samples, W wanted numbers of steps.
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


def points(evaluations: Sequence[accuracy.Evaluation]) -> Points:
  """The decodings of one policy, all on the same problems."""
  return Points(
    np.stack([e.correct for e in evaluations]).astype(np.float64),
    np.stack([e.num_steps for e in evaluations]).astype(np.float64),
  )


def frontier_at(
  steps: Float[np.ndarray, '*R K'],
  correct: Float[np.ndarray, '*R K'],
  wanted: Float[np.ndarray, '*R W'],
) -> Float[np.ndarray, '*R W']:
  """Accuracy that a policy reaches with `wanted` mean steps.

  The best of its points and of the mixtures of any two (the upper concave
  hull), so that no further point lowers it; NaN below the fewest steps that the
  policy was decoded with.
  """
  few, many = steps[..., :, None, None], steps[..., None, :, None]
  low, high = correct[..., :, None, None], correct[..., None, :, None]
  at = wanted[..., None, None, :]
  apart = many > few
  share = np.where(apart, at - few, 0.0) / np.where(apart, many - few, 1.0)
  # Of points that are not apart, the pair stands for the first alone.
  reached = np.where(
    (few <= at) & ((at <= many) | ~apart), low + share * (high - low), -np.inf
  ).max((-3, -2))
  return np.where(np.isneginf(reached), np.nan, reached)


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
    error = np.sqrt(wanted * (1 - wanted) / len(evaluation.correct))
    return evaluation.accuracy >= wanted + error

  enough = [setting for setting in found if keeps(found[setting])]
  if enough:
    return min(enough, key=lambda setting: found[setting].mean_steps)
  return max(found, key=lambda setting: found[setting].accuracy)


def compare(
  policy: Points, base: Points, *, seed: int = 0
) -> list[dict[str, Any]]:
  """Each decoding of `policy` against the frontier of `base` at its steps.

  Args:
    policy: the policy; a row of the result for each of its K decodings.
    base: another, on the same problems; decodings of any kind.
    seed: of the bootstrap, which draws problems for both together.

  Returns:
    Dicts of 'mean_steps' and 'accuracy' of the policy, the base's 'base'
    at those steps, their difference 'gap', and its 95 % interval 'low', 'high';
    None where the base was not decoded in so few steps.
  """
  num = policy.correct.shape[1]
  rng = np.random.default_rng(seed)
  counts = rng.multinomial(num, np.full(num, 1 / num), size=NUM_SAMPLES)
  share = counts / num  # [R, N]
  mean = lambda x: share @ x.T  # [R, K]
  steps, correct = mean(policy.steps), mean(policy.correct)
  base_steps, base_correct = mean(base.steps), mean(base.correct)
  gaps = correct - frontier_at(base_steps, base_correct, steps)
  reached = frontier_at(
    base.steps.mean(1), base.correct.mean(1), policy.steps.mean(1)
  )
  rows = []
  for k, at_base in enumerate(reached):
    row = {
      'mean_steps': float(policy.steps[k].mean()),
      'accuracy': float(policy.correct[k].mean()),
    }
    known = gaps[:, k][~np.isnan(gaps[:, k])]
    if np.isnan(at_base) or len(known) < NUM_SAMPLES / 2:
      row |= dict.fromkeys(('base', 'gap', 'low', 'high'))
    else:
      low, high = np.quantile(known, (0.025, 0.975))
      row |= {
        'base': float(at_base),
        'gap': row['accuracy'] - float(at_base),
        'low': float(low),
        'high': float(high),
      }
    rows.append(row)
  return rows
