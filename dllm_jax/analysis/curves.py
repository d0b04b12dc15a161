"""Prepares curves for drawing: thinned, smoothed and averaged over seeds.

Dims: N points of a curve, K runs.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dllm_jax.analysis import record, seeds

MAX_POINTS = 400
SMOOTHING = 25  # running means are over 1/25 of the points of a curve


class Drawn(NamedTuple):
  """A curve to draw.

  Attributes:
    x: training steps; means where points were merged.
    y: values of the metric, likewise.
    low: lower end of the interval over runs; None for a single run.
    high: upper end of that interval.
  """

  x: Float[np.ndarray, ' N']
  y: Float[np.ndarray, ' N']
  low: Float[np.ndarray, ' N'] | None = None
  high: Float[np.ndarray, ' N'] | None = None


def thin(curve: record.Curve) -> Drawn:
  """At most `MAX_POINTS` points; neighbours are merged into their means."""
  n = len(curve.steps)
  edges = np.linspace(0, n, min(n, MAX_POINTS) + 1).astype(int)
  count = np.diff(edges)
  mean = lambda values: np.add.reduceat(values.astype(float), edges[:-1])
  return Drawn(mean(curve.steps) / count, mean(curve.values) / count)


def smooth(curve: record.Curve) -> record.Curve:
  """Centred running means over windows that shrink towards the ends."""
  n = len(curve.values)
  half = n // SMOOTHING // 2
  total = np.concatenate([[0.0], np.cumsum(curve.values)])
  index = np.arange(n)
  # Equally wide on both sides: a one-sided mean would lag.
  reach = np.minimum(np.minimum(index, n - 1 - index), half)
  first, last = index - reach, index + reach + 1
  return record.Curve(
    curve.steps, (total[last] - total[first]) / (last - first)
  )


def over_seeds(runs: Sequence[record.Curve]) -> Drawn:
  """Mean over runs at their common steps, with a 95 % interval (Student's t).

  Args:
    runs: a metric's curve from each of K runs; a single one has no interval.
  """
  if len(runs) == 1:
    return thin(smooth(runs[0]))
  common = functools.reduce(np.intersect1d, (curve.steps for curve in runs))
  rows = []
  for curve in map(smooth, runs):
    kept = np.isin(curve.steps, common)
    rows.append(thin(record.Curve(curve.steps[kept], curve.values[kept])))
  means = np.stack([row.y for row in rows])  # [K, N]
  half = np.array([seeds.estimate(column).half_width for column in means.T])
  mean = means.mean(axis=0)
  return Drawn(rows[0].x, mean, mean - half, mean + half)
