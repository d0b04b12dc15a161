"""Tables over the eval.json files of several seeds.

  python -m dllm_jax.analysis.seeds runs/ag_s0 runs/ag_s1 runs/ag_s2

Intervals are 95 % over seeds, by Student's t with n - 1 degrees of freedom.
Differences are between policies of the same seed.
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
  """mean ± t_{n-1, 0.975} s / sqrt(n); the half-width of one value is NaN."""
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

  Args:
    workdirs: one per seed.

  Raises:
    errors.UserError: there is no run, a run is not finished, or runs differ in
      task, method, problems or settings.
  """
  paths = [pathlib.Path(directory).resolve() for directory in workdirs]
  for path in paths:
    if paths.count(path) > 1:
      raise errors.UserError(f'{path} is named twice; a seed counts once')
  runs = [_results(pathlib.Path(directory)) for directory in workdirs]
  if not runs:
    raise errors.UserError('no run is named; name the workdir of each seed')
  for run, directory in zip(runs, workdirs, strict=True):
    if _kind(run) != _kind(runs[0]):
      raise errors.UserError(
        f'{directory} is {_kind(run)}, but the first run is {_kind(runs[0])}; '
        'name seeds of one configuration'
      )
  parts = [_by_schedule(runs)]
  if 'frontier' in runs[0]:
    parts.append(_by_threshold(runs))
  if all('phrasings' in run['final'] for run in runs):
    parts.append(_by_phrasing(runs))
  return '\n\n'.join(parts)


def _by_schedule(runs: Sequence[dict]) -> str:
  """The table of accuracies of every policy under every fixed schedule."""
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
  chosen += ' steps' * isinstance(runs[0]['chosen_steps'], int)
  lines.append(
    f'\nAt the setting chosen on validation rows ({chosen}): final - '
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
    seeds = [row[threshold] for row in rows]
    column = lambda name, seeds=seeds: np.array([row[name] for row in seeds])
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
  pairs = [(run['final']['at_threshold'], run['base']) for run in runs]
  gain = [final['accuracy'] - base['accuracy'] for final, base in pairs]
  share = [final['mean_steps'] / base['mean_steps'] for final, base in pairs]
  lines.append(
    f'\nAt the threshold chosen on validation rows '
    f'({", ".join(final["threshold"] for final, _ in pairs)}): final - base = '
    f'{estimate(gain)} points, in {estimate(share)} % of the steps of the '
    f"base's best schedule."
  )
  return '\n'.join(lines)


def _by_phrasing(runs: Sequence[dict]) -> str:
  """Policies and arms over the phrasings of the problems."""
  lines = _header(
    [
      'phrasings',
      'mean',
      'worst',
      'unseen, mean',
      'together',
      'final - it, mean',
      'final - it, worst',
    ]
  )
  seeds = [policies.entries(run, 'phrasings') for run in runs]
  for name in seeds[0]:
    if not all(name in seed for seed in seeds):
      continue
    own = [seed[name] for seed in seeds]
    seen = lambda key, own=own: np.array([of['seen'][key] for of in own])
    gain = lambda key, seen=seen: estimate(
      [s['final']['seen'][key] for s in seeds] - seen(key)
    )
    unseen = [of['unseen'] for of in own]
    together = [of.get('ensemble') for of in own]
    cells = [name, estimate(seen('mean')), estimate(seen('worst'))]
    cells.append(estimate([u['mean'] for u in unseen]) if all(unseen) else '')
    cells.append('' if None in together else estimate(together))
    is_final = name == 'final'
    cells += [''] * 2 if is_final else [gain('mean'), gain('worst')]
    lines.append(_line(cells))
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
      run['base']['sweep']
      return run
  except (ValueError, AttributeError, TypeError):
    pass
  except KeyError:
    raise errors.UserError(
      f'{path} has no accuracy: the task of the run has no right answers'
    ) from None
  raise errors.UserError(f'{path} is not the results of a run')


def _kind(run: dict) -> tuple:
  """What all runs of one configuration have in common."""
  return (
    run['task'],
    run['method'],
    f'{run["num"]} problems',
    f'steps {", ".join(run["base"]["sweep"])}',
    f'thresholds {", ".join(run["base"].get("thresholds", {}))}',
  )


def main(arguments: Sequence[str]) -> int:
  """The command; returns 1 if an argument is not a finished run."""
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
