"""Plots accuracy against mean denoising steps."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import figure

from dllm_jax.analysis import charts, policies


def draw(results: Mapping[str, Any], path: pathlib.Path) -> None:
  """Plots the threshold sweeps (lines) and fixed schedules (squares).

  Args:
    results: from `launch/eval.py --sweep` or an eval.json.
    path: of the image; its suffix determines the format.
  """
  fig = figure.Figure(figsize=(6.4, 4.6), layout='constrained')
  ax = fig.add_subplot()
  drawn = {name: results[name] for name in policies.NAMES if name in results}
  chart = charts.frontier(drawn, {name: name for name in drawn})
  for series in chart['series'] if chart else ():
    accuracy, high = np.array([series['y'], series['high']], float)
    ax.errorbar(
      series['x'],
      100 * accuracy,
      100 * (high - accuracy),
      fmt='s:' if series['dash'] else 'o-',
      color=policies.COLOURS[series['slot']],
      markersize=4,
      linewidth=1.2,
      elinewidth=0.6,
      label=series['name'],
    )
  ax.set_xlabel('mean denoising steps')
  ax.set_ylabel('accuracy (%)')
  ax.set_title(f'{results["task"]}, {results["num"]} held-out problems')
  ax.grid(alpha=0.3)
  if chart:
    fig.legend(loc='outside lower center', ncols=3, frameon=False)
  fig.savefig(path, dpi=150)
