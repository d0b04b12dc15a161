"""Curves that are small enough to draw: thinned, smoothed, averaged over seeds.

Dims: N points of a curve, K runs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dllm_jax.analysis import record, seeds

MAX_POINTS = 400
SMOOTHING = 25  # a curve is averaged over windows of 1/25 of its points


class Drawn(NamedTuple):
  """A curve to draw.

  Attributes:
    x: steps; means over what was joined.
    y: values.
    low: lower end of the interval over runs, or None.
    high: its upper end.
  """

  x: Float[np.ndarray, ' N']
  y: Float[np.ndarray, ' N']
  low: Float[np.ndarray, ' N'] | None = None
  high: Float[np.ndarray, ' N'] | None = None


def thin(curve: record.Curve) -> Drawn:
  """At most `MAX_POINTS` points: means of neighbours, of steps and values."""
  n = len(curve.steps)
  edges = np.linspace(0, n, min(n, MAX_POINTS) + 1).astype(int)
  count = np.diff(edges)
  mean = lambda values: np.add.reduceat(values.astype(float), edges[:-1])
  return Drawn(mean(curve.steps) / count, mean(curve.values) / count)


def smooth(curve: record.Curve) -> record.Curve:
  """Centred running means; at the ends over as many as there are."""
  n = len(curve.values)
  half = n // SMOOTHING // 2
  total = np.concatenate([[0.0], np.cumsum(curve.values)])
  place = np.arange(n)
  # As wide on either side: a mean over one side alone would lag.
  reach = np.minimum(np.minimum(place, n - 1 - place), half)
  first, last = place - reach, place + reach + 1
  return record.Curve(
    curve.steps, (total[last] - total[first]) / (last - first)
  )


def over_seeds(found: Sequence[record.Curve]) -> Drawn:
  """Mean over runs, with a 95 % interval by Student's t, at common steps.

  Args:
    found: the curve of each of K runs; one run is drawn as it is.
  """
  if len(found) == 1:
    return thin(smooth(found[0]))
  common = found[0].steps
  for curve in found[1:]:
    common = np.intersect1d(common, curve.steps)
  rows = []
  for curve in map(smooth, found):
    kept = np.isin(curve.steps, common)
    rows.append(thin(record.Curve(curve.steps[kept], curve.values[kept])))
  means = np.stack([row.y for row in rows])  # [K, N]
  half = np.array([seeds.estimate(column).half_width for column in means.T])
  mean = means.mean(axis=0)
  return Drawn(rows[0].x, mean, mean - half, mean + half)
