"""The models of a run: names, colours in plots, decoder settings in words."""

from collections.abc import Mapping
from typing import Any

NAMES = ('base', 'control', 'final')
COLOURS = {'base': '#555555', 'control': '#c98a1b', 'final': '#2457a6'}


def entries(results: Mapping[str, Any], key: str) -> dict[str, Any]:
  """By policy and arm, an entry of eval.json, where there is one."""
  rows = {name: results[name] for name in NAMES if name in results}
  rows |= results.get('arms', {})
  return {name: of[key] for name, of in rows.items() if key in of}


def in_words(setting: str) -> str:
  """A setting of eval.json's 'sweep': denoising steps, or a decoder's name."""
  return f'{setting} steps' if setting.isdigit() else setting
