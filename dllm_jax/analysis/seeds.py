"""Tables from the eval.json of several seeds: means, intervals, differences.

  python -m dllm_jax.analysis.seeds runs/ag_s0 runs/ag_s1 runs/ag_s2

Intervals are 95 % over seeds, by Student's t on n - 1 degrees of freedom; the
differences are paired: policies of the same seed.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from dllm_jax import errors
from dllm_jax.analysis import policies


class Estimate(NamedTuple):
  """A mean over seeds and the half-width of its 95 % interval."""

  mean: float
  half_width: float

  def __str__(self) -> str:
    return f'{100 * self.mean:.1f} ± {100 * self.half_width:.1f}'


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
  """mean ± t_{n-1, 0.975} s / sqrt(n); the half-width of one value is nan."""
  values = np.asarray(values, float)
  n = len(values)
  if n < 2:
    return Estimate(float(values.mean()), float('nan'))
  error = values.std(ddof=1) / np.sqrt(n)
  return Estimate(
    float(values.mean()), float(stats.t.ppf(0.975, n - 1) * error)
  )


def table(workdirs: Sequence[str | pathlib.Path]) -> str:
  """Markdown tables over finished runs of one configuration.

  Raises:
    errors.UserError: there is no run, one is not finished, or they differ in
      task, method, problems or settings.
  """
  places = [pathlib.Path(directory).resolve() for directory in workdirs]
  for place in places:
    if places.count(place) > 1:
      raise errors.UserError(f'{place} is named twice; a seed counts once')
  runs = [_results(pathlib.Path(directory)) for directory in workdirs]
  if not runs:
    raise errors.UserError('no run was named; give the workdirs of the seeds')
  for run, directory in zip(runs, workdirs, strict=True):
    if _kind(run) != _kind(runs[0]):
      raise errors.UserError(
        f'{directory} is {_kind(run)}, the first run {_kind(runs[0])}: give '
        'seeds of one configuration'
      )
  parts = [_by_schedule(runs)]
  if 'frontier' in runs[0]:
    parts.append(_by_threshold(runs))
  return '\n\n'.join(parts)


def _by_schedule(runs: Sequence[dict]) -> str:
  """Accuracy of every policy at every fixed schedule."""
  names = [name for name in policies.NAMES if all(name in run for run in runs)]
  over = [name for name in ('base', 'control') if name in names]
  lines = _header(['steps', *names, *(f'final - {name}' for name in over)])
  for steps in runs[0]['base']['sweep']:
    accuracy = {
      name: np.array([run[name]['sweep'][steps]['accuracy'] for run in runs])
      for name in names
    }
    cells = [steps, *(estimate(accuracy[name]) for name in names)]
    cells += [estimate(accuracy['final'] - accuracy[name]) for name in over]
    lines.append(_line(cells))
  gain = [run['final']['accuracy'] - run['base']['accuracy'] for run in runs]
  chosen = ', '.join(str(run['chosen_steps']) for run in runs)
  lines.append(
    f'\nAt the setting chosen on validation rows ({chosen} steps): final - '
    f'base = {estimate(gain)} points, {len(runs)} seeds, '
    f'{runs[0]["num"]} problems.'
  )
  return '\n'.join(lines)


def _by_threshold(runs: Sequence[dict]) -> str:
  """The trained policy's thresholds against the base in as many steps."""
  lines = _header(
    ['threshold', 'mean steps', 'final', 'base, as many steps', 'final - base']
  )
  rows = [
    {row['threshold']: row for row in run['frontier']['final']} for run in runs
  ]
  for threshold in rows[0]:
    seen = [row[threshold] for row in rows]
    column = lambda name, seen=seen: np.array([row[name] for row in seen])
    lines.append(
      _line(
        [
          threshold,
          f'{column("mean_steps").mean():.1f}',
          estimate(column('accuracy')),
          estimate(column('base')),
          estimate(column('gap')),
        ]
      )
    )
  final = [run['final']['at_threshold'] for run in runs]
  gain = [
    f['accuracy'] - run['base']['accuracy']
    for f, run in zip(final, runs, strict=True)
  ]
  share = np.array(
    [
      f['mean_steps'] / run['base']['mean_steps']
      for f, run in zip(final, runs, strict=True)
    ]
  )
  lines.append(
    f'\nAt the threshold chosen on validation rows '
    f'({", ".join(f["threshold"] for f in final)}): final - base = '
    f'{estimate(gain)} points, in {estimate(share)} % of the steps of the '
    f"base's best schedule."
  )
  return '\n'.join(lines)


def _header(cells: Sequence[str]) -> list[str]:
  return [_line(cells), '|---' * len(cells) + '|']


def _line(cells: Sequence[object]) -> str:
  return '| ' + ' | '.join(map(str, cells)) + ' |'


def _results(directory: pathlib.Path) -> dict:
  path = directory / 'eval.json'
  if not path.is_file():
    raise errors.UserError(f'{path} is missing; is {directory} a finished run?')
  try:
    run = json.loads(path.read_text())
    if {'task', 'method', 'num', 'chosen_steps', 'base', 'final'} <= run.keys():
      return run
  except (ValueError, AttributeError):
    pass
  raise errors.UserError(f'{path} is not the results of a run')


def _kind(run: dict) -> tuple:
  """What runs of one configuration have in common."""
  return (
    run['task'],
    run['method'],
    f'{run["num"]} problems',
    f'steps {", ".join(run["base"]["sweep"])}',
    f'thresholds {", ".join(run["base"].get("thresholds", {}))}',
  )


def main(arguments: Sequence[str]) -> int:
  """The command; 1 where an argument is no finished run."""
  if not arguments or arguments[0] in ('-h', '--help'):
    print(__doc__)
    return 0 if arguments else 2
  try:
    print(table(arguments))
  except errors.UserError as e:
    print(f'seeds: {e}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
