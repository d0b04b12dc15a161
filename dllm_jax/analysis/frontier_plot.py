"""Plots accuracy against mean denoising steps.

python -m dllm_jax.analysis.frontier_plot runs/ta/eval.json frontier.png
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure

from dllm_jax import errors
from dllm_jax.analysis import policies


def draw(results: Mapping[str, Any], path: pathlib.Path) -> None:
  """Plots the threshold sweeps (lines) and fixed schedules (squares).

  Args:
    results: from `launch/eval.py --sweep` or an eval.json.
    path: of the image; its suffix determines the format.
  """
  fig = figure.Figure(figsize=(6.4, 4.6), layout='constrained')
  ax = fig.add_subplot()
  for name, colour in policies.COLOURS.items():
    if name not in results:
      continue
    for kind, style in (('thresholds', 'o-'), ('sweep', 's:')):
      points = sorted(
        (p['mean_steps'], 100 * p['accuracy'], 100 * p['interval'])
        for p in results[name].get(kind, {}).values()
      )
      if points:
        steps, accuracy, interval = zip(*points, strict=True)
        ax.errorbar(
          steps,
          accuracy,
          interval,
          fmt=style,
          color=colour,
          markersize=4,
          linewidth=1.2,
          elinewidth=0.6,
          label=f'{name}, {"gated" if kind == "thresholds" else "fixed"}',
        )
  ax.set_xlabel('mean denoising steps')
  ax.set_ylabel('accuracy (%)')
  ax.set_title(f'{results["task"]}, {results["num"]} held-out problems')
  ax.grid(alpha=0.3)
  fig.legend(loc='outside lower center', ncols=3, frameon=False)
  fig.savefig(path, dpi=150)


def main(arguments: Sequence[str]) -> int:
  """The command; returns 1 if the file has no results."""
  if len(arguments) != 2:
    print(__doc__)
    return 2
  source, target = map(pathlib.Path, arguments)
  try:
    draw(json.loads(source.read_text()), target)
  except (OSError, ValueError, KeyError, TypeError) as e:
    message = errors.UserError(f'{source} -> {target}: {e}')
    print(f'frontier_plot: {message}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
