"""The charts of a report, as data for the page.

A chart is {'title', 'unit', 'x', 'note', 'series': [{'name', 'slot', 'x', 'y',
and possibly 'raw', 'low' and 'high', 'labels', 'marks', 'dash'}]}; a slot is a
colour. `metric_names` says which metrics are in a chart together. Curves are
thinned, smoothed and averaged over seeds. Dims: N points of a curve, K runs.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from dllm_jax import metric_names
from dllm_jax.analysis import record, seeds

DIGITS = 4  # significant digits of what is drawn
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


def of_run(
  charts: Sequence[metric_names.Chart], run: record.Run
) -> list[dict[str, Any]]:
  """The charts that the run has data for."""
  drawn = []
  for chart in charts:
    curve_of = run.curves.get(chart.phase, {})
    series = [
      _line(metric_names.find(name).legend, str(slot), curve_of[name])
      for slot, name in enumerate(n for n in chart.names if n in curve_of)
    ]
    if series:
      drawn.append(_chart(chart, series))
  return drawn


def reward_terms(run: record.Run) -> dict[str, Any] | None:
  """One chart of the reward terms with a weight; None if none was logged."""
  weights = run.config['method'].get('reward', {})
  curve_of = run.curves.get('rl', {})
  terms = [t for t in weights if weights[t] and f'terms/{t}' in curve_of]
  if not terms:
    return None
  series = [
    _line(f'{term} × {weights[term]:g}', str(slot), curve_of[f'terms/{term}'])
    for slot, term in enumerate(terms)
  ]
  note = 'each before its weight'
  return _chart(metric_names.Chart('Reward by term', (), note), series)


def missing(charts: Sequence[metric_names.Chart], run: record.Run) -> list[str]:
  """Titles of the charts that the run has no data for."""
  logged = run.curves.get('rl', {}).keys()
  return [chart.title for chart in charts if logged.isdisjoint(chart.names)]


def of_groups(
  charts: Sequence[metric_names.Chart],
  groups: Mapping[str, Sequence[record.Run]],
) -> list[dict[str, Any]]:
  """The first metric of every chart, with one curve per group of seeds."""
  averaged = []
  for chart in charts:
    series = []
    for slot, (name, runs) in enumerate(groups.items()):
      of_seeds = [
        run.curves.get(chart.phase, {}).get(chart.names[0]) for run in runs
      ]
      if all(curve is not None for curve in of_seeds):
        drawn = over_seeds(of_seeds)
        if len(drawn.x):
          series.append(_series(name, str(slot), drawn))
    if series:
      averaged.append(_chart(chart, series))
  return averaged


def frontier(
  results: Mapping[str, Mapping[str, Any]], slots: Mapping[str, str]
) -> dict[str, Any] | None:
  """Accuracy against mean denoising steps; None with fewer than two points.

  Args:
    results: a policy's part of eval.json, by the name in the legend.
    slots: its colour, by the same names.
  """
  series = []
  for name, policy in results.items():
    for kind, word in (('thresholds', 'gated'), ('sweep', 'fixed')):
      points = sorted(
        (p['mean_steps'], p['accuracy'], p['interval'], setting)
        for setting, p in policy.get(kind, {}).items()
        if setting != 'autoregressive'  # no trade of accuracy for steps
      )
      if not points:
        continue
      x, y, half, settings = zip(*points, strict=True)
      drawn = Drawn(
        np.array(x, float),
        np.array(y, float),
        np.subtract(y, half),
        np.add(y, half),
      )
      label = 'threshold' if kind == 'thresholds' else 'steps'
      series.append(
        _series(f'{name}, {word}', slots[name], drawn)
        | {'labels': [f'{label} {s}' for s in settings], 'marks': True}
        | {'dash': kind == 'sweep'}
      )
  if sum(len(s['x']) for s in series) < 2:
    return None
  return {
    'title': 'Accuracy against denoising steps',
    'unit': 'share',
    'x': 'mean denoising steps',
    'note': 'held-out problems, greedy; bars are 95 % intervals over them',
    'series': series,
  }


def _chart(
  chart: metric_names.Chart, series: list[dict[str, Any]]
) -> dict[str, Any]:
  unit = metric_names.find(chart.names[0]).unit if chart.names else ''
  is_share = unit == 'share'  # shown in percent
  notes = [chart.note, '' if is_share else unit]
  return {
    'title': chart.title,
    'unit': 'share' if is_share else '',
    'x': 'step',
    'note': ', '.join(filter(None, notes)),
    'series': series,
  }


def _line(name: str, slot: str, curve: record.Curve) -> dict[str, Any]:
  """The running mean of a curve, with the curve itself behind it."""
  series = _series(name, slot, thin(smooth(curve)))
  raw = rounded(thin(curve).y)
  return series | ({'raw': raw} if raw != series['y'] else {})


def _series(name: str, slot: str, drawn: Drawn) -> dict[str, Any]:
  series = {
    'name': name,
    'slot': slot,
    'x': rounded(drawn.x, 7),
    'y': rounded(drawn.y),
  }
  if drawn.low is not None:
    series |= {'low': rounded(drawn.low), 'high': rounded(drawn.high)}
  return series


def rounded(values: np.ndarray, digits: int = DIGITS) -> list[float | None]:
  """Floats of a few significant digits; None for non-finite values."""
  return [
    float(f'{value:.{digits}g}') if math.isfinite(value) else None
    for value in values
  ]


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
