"""What a run wrote into its directory, read back; a run may be unfinished."""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dllm_jax import errors

CONFIG_FILE, METRICS_FILE = 'config.json', 'metrics.jsonl'
EVAL_FILE, VERDICTS_FILE = 'eval.json', 'verdicts.json'
TRAJECTORIES_FILE = 'trajectories.jsonl'
_SAMPLE_KEYS = {
  'policy',
  'decoding',
  'pieces',
  'commit_step',
  'confidence',
  'num_steps',
  'length',
  'correct',
  'steps',
  'rewards',
}


class Curve(NamedTuple):
  """One metric over the steps at which it was measured."""

  steps: Int[np.ndarray, ' N']
  values: Float[np.ndarray, ' N']


class Run(NamedTuple):
  """A run as its directory tells it.

  Attributes:
    directory: of the run.
    about: config.json: 'config', 'versions', 'devices', 'git', ...
    curves: by phase ('sft', 'rl', 'control') and name ('reward/mean').
    results: eval.json; None where the run is not finished.
    verdicts: verdicts.json; None where it is not there.
    problems: rows of trajectories.jsonl; completions in it are hostile text.
  """

  directory: pathlib.Path
  about: dict[str, Any]
  curves: dict[str, dict[str, Curve]]
  results: dict[str, Any] | None
  verdicts: dict[str, Any] | None
  problems: list[dict[str, Any]]

  @property
  def config(self) -> dict[str, Any]:
    """The config, nested."""
    return self.about['config']

  @property
  def name(self) -> str:
    """Of the directory."""
    return self.directory.resolve().name


def read(directory: pathlib.Path) -> Run:
  """Reads a directory.

  Raises:
    errors.UserError: it is no workdir, or a file of it is damaged.
  """
  about = _object(directory / CONFIG_FILE)
  if about is None:
    raise errors.UserError(
      f'{directory} is no workdir of a run: {CONFIG_FILE} is missing'
    )
  try:
    about['config']['method']['name'], about['config']['task']['name']
    about['config']['seed']
  except (KeyError, TypeError):
    raise errors.UserError(
      f'{directory / CONFIG_FILE} is not the config of a run'
    ) from None
  results = _object(directory / EVAL_FILE)
  if results is not None and not {'base', 'final', 'num'} <= results.keys():
    raise errors.UserError(
      f'{directory / EVAL_FILE} is not the results of a run'
    )
  return Run(
    directory=directory,
    about=about,
    curves=_curves(directory / METRICS_FILE),
    results=results,
    verdicts=_object(directory / VERDICTS_FILE),
    problems=[
      _problem(row, f'{directory / TRAJECTORIES_FILE}, line {number}')
      for number, row in _rows(directory / TRAJECTORIES_FILE)
    ],
  )


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} -> {'a.b': 1}."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def _object(path: pathlib.Path) -> dict[str, Any] | None:
  """The JSON object in a file; None where there is no file."""
  try:
    found = json.loads(path.read_text('utf-8'))
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as e:
    raise errors.UserError(f'{path} cannot be read: {e}') from e
  if not isinstance(found, dict):
    raise errors.UserError(f'{path} is not a JSON object')
  return found


def _rows(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """(line number, object) of a file of JSON lines, which need not be there.

  A last line without an end was cut off, and is left out.
  """
  if not path.exists():
    return
  with path.open(encoding='utf-8', errors='replace') as file:
    for number, line in enumerate(file, 1):
      if not line.endswith('\n'):
        return
      try:
        row = json.loads(line)
      except ValueError:
        row = None
      if not isinstance(row, dict):
        raise errors.UserError(f'{path}, line {number}, is not a JSON object')
      yield number, row


def _curves(path: pathlib.Path) -> dict[str, dict[str, Curve]]:
  points: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
  for number, row in _rows(path):
    try:
      phase, step = row.pop('phase'), row.pop('step')
    except KeyError:
      raise errors.UserError(
        f'{path}, line {number}, is not a row of metrics'
      ) from None
    row.pop('nonfinite', None)
    of_phase = points.setdefault(phase, {})
    for name, value in row.items():
      if value is not None:  # it was not finite
        steps, values = of_phase.setdefault(name, ([], []))
        steps.append(step)
        values.append(value)
  return {
    phase: {
      name: Curve(np.array(steps, int), np.array(values, float))
      for name, (steps, values) in of_phase.items()
    }
    for phase, of_phase in points.items()
  }


def _problem(row: dict[str, Any], where: str) -> dict[str, Any]:
  """Checks what the player relies on."""
  try:
    text = all(isinstance(row[k], str) for k in ('kind', 'prompt', 'gold'))
    fine = text and row['block_length'] > 0 and row['samples']
    for sample in row['samples']:
      length = len(sample['pieces'])
      fine = (
        fine
        and _SAMPLE_KEYS <= sample.keys()
        and len(sample['commit_step']) == length
        and len(sample['confidence']) == length
        and len(sample['steps']) == len(sample['rewards'])
        and all(isinstance(piece, str) for piece in sample['pieces'])
        and all(map(_is_number, sample['commit_step']))
        and all(map(_is_number, sample['confidence']))
      )
  except (KeyError, TypeError):
    fine = False
  if not fine:
    raise errors.UserError(f'{where}, is not a problem with its trajectories')
  return row


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )
