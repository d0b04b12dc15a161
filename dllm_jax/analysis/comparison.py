"""comparison.html: several runs as one page; seeds of one config are grouped.

Runs of one config but for the seed, and for what a seed brings along (the path
of its base model), are a group: its numbers are means over seeds, with 95 %
intervals by Student's t. A run that stands alone has its intervals over
problems.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dllm_jax import errors, metric_names
from dllm_jax.analysis import charts, gains, record, report, seeds

FILE = 'comparison.html'
# Keys that may differ within a group.
FREE = ('seed', 'base.path', 'data.cache_dir', 'wandb_project')
MAX_GROUPS = 6  # colours that can be told apart
MAX_KEYS = 3  # in a group's name


class Line(NamedTuple):
  """A group in the table; an entry is None where it cannot be said.

  Attributes:
    name: of the group.
    runs: names of its runs.
    count: of its runs, which are as many seeds.
    base: accuracy of the base.
    final: of the trained policy.
    decoding: of the trained policy, in words.
    gain: final - base, paired.
    against: final - final of the first group.
    how: what `against` is paired by: 'seeds', 'problems', or '' for nothing.
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
  """The page.

  Raises:
    errors.UserError: a run is named twice, the runs are of several tasks, or
      there are too many groups.
  """
  places = [run.directory.resolve() for run in runs]
  tasks = {run.config['task']['name'] for run in runs}
  for place in places:
    if places.count(place) > 1:
      raise errors.UserError(f'{place} is named twice')
  if len(tasks) > 1:
    raise errors.UserError(
      f'the runs are of several tasks ({", ".join(sorted(tasks))}); their '
      'accuracies are not to be compared'
    )
  groups = grouped(runs)
  if len(groups) > MAX_GROUPS:
    raise errors.UserError(
      f'the runs are of {len(groups)} configs, and {MAX_GROUPS} can be told '
      'apart in a chart; name fewer'
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
  """Runs by the name of their group, in the order in which they are named.

  A seed counts once: a second run of a seed opens a group of its own.
  """
  found: dict[tuple[str, int], list[record.Run]] = {}
  for run in runs:
    kind, number = _kind(run), 0
    seed = run.config['seed']
    while any(r.config['seed'] == seed for r in found.get((kind, number), ())):
      number += 1
    found.setdefault((kind, number), []).append(run)
  members = list(found.values())
  flat = [record.flatten(group[0].config) for group in members]
  return dict(zip(_names(members, flat), members, strict=True))


def _names(
  members: Sequence[Sequence[record.Run]], flat: Sequence[Mapping[str, Any]]
) -> list[str]:
  """A name for each group: the fewest keys that tell them apart.

  The directory of its first run where keys do not.
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
  flat = record.flatten(run.config)
  return json.dumps({k: v for k, v in sorted(flat.items()) if k not in FREE})


def _keys(flat: Sequence[Mapping[str, Any]]) -> list[str]:
  """Keys in which configs differ; the method's name first."""
  names = dict.fromkeys(name for f in flat for name in f)
  found = [
    name
    for name in names
    if name not in FREE and any(f.get(name) != flat[0].get(name) for f in flat)
  ]
  return sorted(found, key=lambda name: name != 'method.name')


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
  """(key, its value in each group) of the keys that differ."""
  flat = [record.flatten(runs[0].config) for runs in groups.values()]
  return [
    (key, [json.dumps(f[key]) if key in f else '' for f in flat])
    for key in _keys(flat)
  ]


def summary(
  name: str, runs: Sequence[record.Run], first: Sequence[record.Run]
) -> Line:
  """The line of a group in the table; `first` is the group above all."""
  told = ', '.join(f'{r.name} (seed {r.config["seed"]})' for r in runs)
  if any(run.results is None for run in runs):
    what = 'not finished'
    return Line(name, told, len(runs), None, None, what, None, None, '')
  readings = [gains.readings(run) for run in runs]
  against, how = None, ''
  if runs is not first and all(run.results for run in first):
    against, how = _against(runs, first)
  return Line(
    name,
    told,
    len(runs),
    over(r[0] for r in readings),
    over(r[-1] for r in readings),
    '; '.join(dict.fromkeys(r[-1].words for r in readings)),
    _gain(runs, readings),
    against,
    how,
  )


def over(readings: Any) -> seeds.Estimate:
  """Accuracy over seeds; of one run, with its interval over problems."""
  readings = list(readings)
  if len(readings) == 1:
    return seeds.Estimate(readings[0].accuracy, readings[0].interval)
  return seeds.estimate([reading.accuracy for reading in readings])


def _gain(
  runs: Sequence[record.Run], readings: Sequence[Sequence[gains.Reading]]
) -> seeds.Estimate:
  if len(runs) == 1:
    found = gains.gain(runs[0], readings[0][0], readings[0][-1])
    return seeds.Estimate(found.difference, found.half_width)
  return seeds.estimate([r[-1].accuracy - r[0].accuracy for r in readings])


def _against(
  runs: Sequence[record.Run], first: Sequence[record.Run]
) -> tuple[seeds.Estimate | None, str]:
  """The trained policies of two groups: a difference, and what pairs it."""
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
      found = gains.paired(*verdicts)
      return seeds.Estimate(found.difference, found.half_width), 'problems'
  change = np.mean(list(mine.values())) - np.mean(list(theirs.values()))
  return seeds.Estimate(float(change), math.nan), ''


def _frontier(
  groups: Mapping[str, Sequence[record.Run]],
) -> dict[str, Any] | None:
  """The trained policies' frontiers, and the first group's base."""
  results, slots = {}, {}
  for slot, (name, runs) in enumerate(groups.items()):
    if any(run.results is None for run in runs):
      continue
    if not results:
      results[f'base of {name}'] = _mean([run.results['base'] for run in runs])
      slots[f'base of {name}'] = 'base'
    results[name] = _mean([run.results['final'] for run in runs])
    slots[name] = str(slot)
  made = charts.frontier(results, slots)
  note = 'held-out problems, greedy; bars are 95 % intervals, over seeds or'
  return made and made | {'note': f'{note}, of single runs, over problems'}


def _mean(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """A policy's part of eval.json over seeds: means, intervals by t."""
  if len(found) == 1:
    return dict(found[0])
  made = {}
  for kind in ('sweep', 'thresholds'):
    settings = [s for s in found[0].get(kind, {})]
    made[kind] = {
      setting: _mean_point([f[kind][setting] for f in found])
      for setting in settings
      if all(setting in f.get(kind, {}) for f in found)
    }
  return made


def _mean_point(points: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  accuracy = seeds.estimate([point['accuracy'] for point in points])
  return {
    'accuracy': accuracy.mean,
    'interval': accuracy.half_width,
    'mean_steps': float(np.mean([point['mean_steps'] for point in points])),
  }
