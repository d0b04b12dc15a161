"""The charts of a report: which metrics stand together, as data for the page.

A chart is {'title', 'unit', 'x', 'note', 'series': [{'name', 'slot', 'x', 'y',
and perhaps 'raw', 'low' and 'high', 'labels', 'dash'}]}. `slot` is a colour.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dllm_jax.analysis import curves, record

SLOTS = {'base': 'base', 'control': 'control', 'final': 'final'}
DIGITS = 4  # significant ones of what is drawn


class Plan(NamedTuple):
  """A chart of learning curves.

  Attributes:
    title: what it shows.
    lines: (metric, name in the legend); the first is the one that comparisons
      of runs show.
    unit: 'share' is written in percent.
    note: what a reader should know.
    phase: of metrics.jsonl.
  """

  title: str
  lines: tuple[tuple[str, str], ...]
  unit: str = ''
  note: str = ''
  phase: str = 'rl'


LEARNING = (
  Plan(
    'Reward', (('reward/mean', 'reward'),), note='weighted sum of its terms'
  ),
  Plan(
    'Right answers in rollouts',
    (('reward/correct', 'right'),),
    unit='share',
    note='sampled, on training prompts',
  ),
  Plan(
    'Validation accuracy',
    (('eval/accuracy', 'accuracy'),),
    unit='share',
    note='greedy',
  ),
  Plan(
    'KL to the base',
    (('policy/kl', 'answer-free'), ('policy/kl_guided', 'guided')),
    note='nats a token',
  ),
  Plan(
    'Clip fraction',
    (
      ('policy/clip_fraction', 'first inner step'),
      ('policy/last_clip_fraction', 'last inner step'),
    ),
    unit='share',
  ),
  Plan(
    'Groups without variance',
    (('group/zero_variance', 'groups'),),
    unit='share',
    note='all completions earn the same',
  ),
  Plan('Denoising steps', (('rollout/num_steps', 'steps'),), note='a rollout'),
  Plan('Tokens per step', (('rollout/tokens_per_step', 'tokens'),)),
  Plan(
    'Entropy', (('policy/entropy', 'entropy'),), note='nats, credited tokens'
  ),
  Plan(
    'Confidence at commitment',
    (('rollout/confidence', 'probability'),),
    unit='share',
  ),
  Plan('Speed', (('time/tokens_per_second', 'tokens'),), note='tokens/s'),
  Plan('Completion length', (('rollout/length', 'tokens'),), note='tokens'),
  Plan(
    'Importance ratio',
    (('policy/ratio_max', 'largest'), ('policy/ratio_mean', 'mean')),
  ),
  Plan(
    'Sampler against learner',
    (
      ('policy/sampler_gap', 'answer-free'),
      ('policy/sampler_gap_guided', 'guided'),
    ),
    note='gap of log-probabilities (nats)',
  ),
  Plan(
    'Gradient norm', (('policy/grad_norm', 'norm'),), note='before clipping'
  ),
  Plan(
    'Path credit',
    (('credit/auc', 'area under the rewards'), ('credit/push', 'mean push')),
  ),
)
GUIDED = (
  Plan('Reward', (('free/mean', 'answer-free'), ('guided/mean', 'guided'))),
  Plan(
    'Right answers',
    (('free/correct', 'answer-free'), ('guided/correct', 'guided')),
    unit='share',
  ),
  Plan(
    'Gold answer in the reasoning',
    (('free/leaked_gold', 'answer-free'), ('guided/leaked_gold', 'guided')),
    unit='share',
    note='a leak, which guidance must not cause',
  ),
  Plan(
    'Completion length',
    (('free/length', 'answer-free'), ('guided/length', 'guided')),
    note='tokens',
  ),
)
SUPERVISED = (
  Plan('Loss', (('sft/loss', 'loss'),), phase='sft', note='nats a token'),
  Plan(
    'Validation accuracy',
    (('eval/accuracy', 'accuracy'),),
    unit='share',
    phase='sft',
    note='greedy',
  ),
)


def of_run(plans: Sequence[Plan], run: record.Run) -> list[dict[str, Any]]:
  """The charts of one run; those that it has no data for are left out."""
  made = []
  for plan in plans:
    found = run.curves.get(plan.phase, {})
    lines = [(key, name) for key, name in plan.lines if key in found]
    if lines:
      series = [
        _line(name, str(slot), found[key])
        for slot, (key, name) in enumerate(lines)
      ]
      made.append(_chart(plan, series))
  return made


def reward_terms(run: record.Run) -> dict[str, Any] | None:
  """The reward's terms in one chart; those that the config weighs."""
  weights = run.config['method'].get('reward', {})
  found = run.curves.get('rl', {})
  terms = [t for t in weights if weights[t] and f'reward/{t}' in found]
  if not terms:
    return None
  series = [
    _line(f'{term} × {weights[term]:g}', str(slot), found[f'reward/{term}'])
    for slot, term in enumerate(terms)
  ]
  note = 'each before its weight'
  return _chart(Plan('Reward by term', (), note=note), series)


def missing(plans: Sequence[Plan], run: record.Run) -> list[str]:
  """Titles of the charts that the run has no data for."""
  found = run.curves.get('rl', {})
  return [p.title for p in plans if not any(k in found for k, _ in p.lines)]


def of_groups(
  plans: Sequence[Plan], groups: Mapping[str, Sequence[record.Run]]
) -> list[dict[str, Any]]:
  """The first line of every plan, a curve a group of seeds."""
  made = []
  for plan in plans:
    key = plan.lines[0][0]
    series = []
    for slot, (name, runs) in enumerate(groups.items()):
      having = [r.curves.get(plan.phase, {}).get(key) for r in runs]
      if all(curve is not None for curve in having):
        drawn = curves.over_seeds(having)
        if len(drawn.x):
          series.append(_series(name, str(slot), drawn))
    if series:
      made.append(_chart(plan, series))
  return made


def frontier(
  results: Mapping[str, Mapping[str, Any]], slots: Mapping[str, str]
) -> dict[str, Any] | None:
  """Accuracy against mean denoising steps; None with fewer than two points.

  Args:
    results: by name, a policy's part of eval.json.
    slots: its colour, by the same names.
  """
  series = []
  for name, found in results.items():
    for kind, word in (('thresholds', 'gated'), ('sweep', 'fixed')):
      points = sorted(
        (p['mean_steps'], p['accuracy'], p['interval'], setting)
        for setting, p in found.get(kind, {}).items()
      )
      if not points:
        continue
      x, y, half, settings = zip(*points, strict=True)
      drawn = curves.Drawn(
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


def _chart(plan: Plan, series: list[dict[str, Any]]) -> dict[str, Any]:
  return {
    'title': plan.title,
    'unit': plan.unit,
    'x': 'step',
    'note': plan.note,
    'series': series,
  }


def _line(name: str, slot: str, curve: record.Curve) -> dict[str, Any]:
  """The running mean of a curve, and behind it the curve."""
  made = _series(name, slot, curves.thin(curves.smooth(curve)))
  raw = rounded(curves.thin(curve).y)
  return made | ({'raw': raw} if raw != made['y'] else {})


def _series(name: str, slot: str, drawn: curves.Drawn) -> dict[str, Any]:
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
  """Floats of a few significant digits; None for what is not finite."""
  return [
    float(f'{value:.{digits}g}') if math.isfinite(value) else None
    for value in values
  ]
