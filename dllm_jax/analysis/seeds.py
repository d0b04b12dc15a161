"""One table from the eval.json of several seeds: means, intervals, differences.

  python -m dllm_jax.analysis.seeds runs/ag_s0 runs/ag_s1 runs/ag_s2

Intervals are 95 % over seeds, by Student's t on n - 1 degrees of freedom; the
difference is paired: final and base of the same seed.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

POLICIES = ('base', 'control', 'final')


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
  """A Markdown table over finished runs of one configuration.

  Raises:
    ValueError: the runs were not evaluated at the same settings.
  """
  runs = [
    json.loads((pathlib.Path(directory) / 'eval.json').read_text())
    for directory in workdirs
  ]
  settings = list(runs[0]['base']['sweep'])
  if any(list(run['base']['sweep']) != settings for run in runs):
    raise ValueError('the runs were evaluated at different settings')
  names = [name for name in POLICIES if all(name in run for run in runs)]
  lines = [
    '| steps | ' + ' | '.join(names) + ' | final - base |',
    '|---' * (len(names) + 2) + '|',
  ]
  for steps in settings:
    accuracy = {
      name: [run[name]['sweep'][steps]['accuracy'] for run in runs]
      for name in names
    }
    gain = np.subtract(accuracy['final'], accuracy['base'])
    cells = [str(estimate(accuracy[name])) for name in names]
    lines.append(f'| {steps} | ' + ' | '.join(cells) + f' | {estimate(gain)} |')
  gain = [run['final']['accuracy'] - run['base']['accuracy'] for run in runs]
  chosen = ', '.join(str(run['chosen_steps']) for run in runs)
  lines.append(
    f'\nAt the setting chosen on validation rows ({chosen} steps): final - '
    f'base = {estimate(gain)} points, {len(runs)} seeds, '
    f'{runs[0]["num"]} problems.'
  )
  return '\n'.join(lines)


if __name__ == '__main__':
  print(table(sys.argv[1:]))
