"""comparison.html: several runs as one page, with seeds in groups.

Runs whose configs differ only in the seed, or in keys that follow from it such
as the path of the base model, form a group. Its numbers are means over seeds
with 95 % intervals by Student's t; a single run has intervals over problems.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dllm_jax import errors, metric_names
from dllm_jax.analysis import charts, gains, record, report, seeds
from dllm_jax.state import workdir

FILE = 'comparison.html'
# Config keys that may differ within a group.
FREE = ('seed', 'base.path', 'data.cache_dir', 'wandb_project')
MAX_GROUPS = 6  # distinguishable colours
MAX_KEYS = 3  # in the name of a group


class Line(NamedTuple):
  """A group in the table; estimates are None while a run is unfinished.

  Attributes:
    name: name of the group.
    runs: names and seeds of its runs.
    count: number of runs, each with a seed of its own.
    base: accuracy of the base model.
    final: accuracy of the trained policy.
    decoding: decoding settings of the trained policy, in words.
    gain: final - base, paired.
    against: final - final of the first group; None in the first group.
    how: what `against` is paired by: 'seeds', 'problems' or '' for nothing.
  """

  name: str
  runs: str
  count: int
  base: seeds.Estimate | None
  final: seeds.Estimate | None
  decoding: str
  gain: seeds.Estimate | None
  against: seeds.Estimate | None
  how: str


def of_runs(runs: Sequence[record.Run]) -> str:
  """The page that compares the runs; all against the group of the first.

  Raises:
    errors.UserError: a run is named twice, the runs are of several tasks, or
      there are too many groups.
  """
  paths = [run.directory.resolve() for run in runs]
  tasks = {run.config['task']['name'] for run in runs}
  for path in paths:
    if paths.count(path) > 1:
      raise errors.UserError(f'{path} is named twice; name it once')
  if len(tasks) > 1:
    raise errors.UserError(
      f'the runs are of several tasks ({", ".join(sorted(tasks))}), whose '
      'accuracies cannot be compared; name runs of one task'
    )
  groups = grouped(runs)
  if len(groups) > MAX_GROUPS:
    raise errors.UserError(
      f'the runs have {len(groups)} configs, but a chart can show '
      f'{MAX_GROUPS}; name fewer'
    )
  first = next(iter(groups.values()))
  frontier = _frontier(groups)
  sections = {
    'frontier': [frontier] if frontier else [],
    'learning': charts.of_groups(metric_names.LEARNING, groups),
  }
  return report.render(
    'comparison.html',
    {'charts': sections, 'problems': []},
    title=f'{len(runs)} runs on {report.task_title(first[0])}',
    lines=[summary(name, members, first) for name, members in groups.items()],
    num=first[0].results and first[0].results['num'],
    differing=_differing(groups),
  )


def grouped(runs: Sequence[record.Run]) -> dict[str, list[record.Run]]:
  """Runs by the name of their group, in the given order.

  A seed counts once: a second run with the same seed starts another group.
  """
  groups: dict[tuple[str, int], list[record.Run]] = {}
  for run in runs:
    kind, number = _kind(run), 0
    seed = run.config['seed']
    while any(r.config['seed'] == seed for r in groups.get((kind, number), ())):
      number += 1
    groups.setdefault((kind, number), []).append(run)
  members = list(groups.values())
  flat = [workdir.flatten(group[0].config) for group in members]
  return dict(zip(_names(members, flat), members, strict=True))


def _names(
  members: Sequence[Sequence[record.Run]], flat: Sequence[Mapping[str, Any]]
) -> list[str]:
  """A name for each group: the values of the fewest keys that suffice.

  If no few keys distinguish the groups, the directories of their first runs.
  """
  keys = _keys(flat)
  for count in range(1, MAX_KEYS + 1):
    names = [', '.join(_say(k, f.get(k)) for k in keys[:count]) for f in flat]
    if '' not in names and len(set(names)) == len(names):
      return names
  names = [group[0].name for group in members]
  if len(set(names)) == len(names):
    return names
  return [str(group[0].directory) for group in members]


def _kind(run: record.Run) -> str:
  """What runs of one group have in common, as text."""
  flat = workdir.flatten(run.config)
  return json.dumps({k: v for k, v in sorted(flat.items()) if k not in FREE})


def _keys(flat: Sequence[Mapping[str, Any]]) -> list[str]:
  """Keys in which configs differ, the method's name first."""
  names = dict.fromkeys(name for f in flat for name in f)
  differing = [
    name
    for name in names
    if name not in FREE and any(f.get(name) != flat[0].get(name) for f in flat)
  ]
  return sorted(differing, key=lambda name: name != 'method.name')


def _say(key: str, value: Any) -> str:
  if key == 'method.name':
    return report.METHODS.get(value, value)
  return f'{key.split(".")[-1]} {_short(value)}'


def _short(value: Any) -> str:
  text = value if isinstance(value, str) else json.dumps(value)
  return text if len(text) <= 24 else f'{text[:24]}…'


def _differing(
  groups: Mapping[str, Sequence[record.Run]],
) -> list[tuple[str, list[str]]]:
  """(key, its value in each group) of each key that differs."""
  flat = [workdir.flatten(runs[0].config) for runs in groups.values()]
  return [
    (key, [json.dumps(f[key]) if key in f else '' for f in flat])
    for key in _keys(flat)
  ]


def summary(
  name: str, runs: Sequence[record.Run], first: Sequence[record.Run]
) -> Line:
  """The line of a group in the table.

  Args:
    name: name of the group.
    runs: its runs.
    first: the runs of the first group, which it is compared with.
  """
  names = ', '.join(f'{r.name} (seed {r.config["seed"]})' for r in runs)
  if any(run.results is None for run in runs):
    is_open = all(run.agreements or run.losses for run in runs)
    why = 'no right answers' if is_open else 'not finished'
    return Line(name, names, len(runs), None, None, why, None, None, '')
  readings = [gains.readings(run) for run in runs]
  against, how = None, ''
  if runs is not first and all(run.results for run in first):
    against, how = _against(runs, first)
  return Line(
    name,
    names,
    len(runs),
    _accuracy(r[0] for r in readings),
    _accuracy(r[-1] for r in readings),
    '; '.join(dict.fromkeys(r[-1].words for r in readings)),
    _gain(runs, readings),
    against,
    how,
  )


def _accuracy(readings: Iterable[gains.Reading]) -> seeds.Estimate:
  """Mean accuracy over seeds; that of a single run has its own interval."""
  readings = list(readings)
  if len(readings) == 1:
    return seeds.Estimate(readings[0].accuracy, readings[0].interval)
  return seeds.estimate([reading.accuracy for reading in readings])


def _gain(
  runs: Sequence[record.Run], readings: Sequence[Sequence[gains.Reading]]
) -> seeds.Estimate:
  if len(runs) == 1:
    return _estimate(gains.gain(runs[0], readings[0][0], readings[0][-1]))
  return seeds.estimate([r[-1].accuracy - r[0].accuracy for r in readings])


def _estimate(gain: gains.Gain) -> seeds.Estimate:
  return seeds.Estimate(gain.difference, gain.half_width)


def _against(
  runs: Sequence[record.Run], first: Sequence[record.Run]
) -> tuple[seeds.Estimate | None, str]:
  """The difference of two groups' trained policies, and what pairs them."""
  final = lambda run: gains.readings(run)[-1]
  mine = {run.config['seed']: final(run).accuracy for run in runs}
  theirs = {run.config['seed']: final(run).accuracy for run in first}
  if len(mine) > 1 and mine.keys() == theirs.keys():
    change = [mine[seed] - theirs[seed] for seed in mine]
    return seeds.estimate(change), 'seeds'
  if len(mine) == len(theirs) == 1:
    one, other = first[0], runs[0]
    verdicts = gains.digits(one, final(one)), gains.digits(other, final(other))
    if all(verdicts) and one.verdicts['ids'] == other.verdicts['ids']:
      return _estimate(gains.paired(*verdicts)), 'problems'
  change = np.mean(list(mine.values())) - np.mean(list(theirs.values()))
  return seeds.Estimate(float(change), math.nan), ''


def _frontier(
  groups: Mapping[str, Sequence[record.Run]],
) -> dict[str, Any] | None:
  """The frontiers of the trained policies and of the first group's base."""
  results, slots = {}, {}
  for slot, (name, runs) in enumerate(groups.items()):
    if any(run.results is None for run in runs):
      continue
    if not results:
      results[f'base of {name}'] = _mean([run.results['base'] for run in runs])
      slots[f'base of {name}'] = 'base'
    results[name] = _mean([run.results['final'] for run in runs])
    slots[name] = str(slot)
  chart = charts.frontier(results, slots)
  note = (
    'held-out problems, greedy; bars are 95 % intervals, over seeds or, for '
    'single runs, over problems'
  )
  return chart and chart | {'note': note}


def _mean(policies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """A policy's entry of eval.json, averaged over seeds."""
  if len(policies) == 1:
    return dict(policies[0])
  return {
    kind: {
      setting: _mean_point([policy[kind][setting] for policy in policies])
      for setting in policies[0].get(kind, {})
      if all(setting in policy.get(kind, {}) for policy in policies)
    }
    for kind in ('sweep', 'thresholds')
  }


def _mean_point(points: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  accuracy = seeds.estimate([point['accuracy'] for point in points])
  return {
    'accuracy': accuracy.mean,
    'interval': accuracy.half_width,
    'mean_steps': float(np.mean([point['mean_steps'] for point in points])),
  }
