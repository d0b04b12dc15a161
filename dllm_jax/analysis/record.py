"""Reads the working directory of a run, finished or not."""

import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dllm_jax import errors
from dllm_jax.analysis import policies
from dllm_jax.state import metrics, workdir

EVAL_FILE, VERDICTS_FILE = 'eval.json', 'verdicts.json'
TRAJECTORIES_FILE = 'trajectories.jsonl'
SPECULATION_FILE = 'speculation.json'
AGREEMENT_FILE = 'agreement.json'
ROUTING_FILE = 'routing.json'
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
# Numbers in a row of speculation.json.
_COMPARED = (
  'm',
  'identical',
  'predicted_tokens',
  'calls_per_token',
  'compressed_calls_per_token',
  'tokens_per_second',
  'speedup',
  'c',
  'cost',
  'predicted_cost',
)


class Curve(NamedTuple):
  """One metric over the steps at which it was measured."""

  steps: Int[np.ndarray, ' N']
  values: Float[np.ndarray, ' N']


class Run(NamedTuple):
  """The contents of a run's working directory.

  Attributes:
    directory: of the run.
    about: config.json: 'config', 'versions', 'devices', 'git', ...
    curves: by phase ('sft', 'rl', 'control', an arm) and metric
      ('reward/mean').
    results: eval.json; None if the run is not finished, or its task has no
      right answers.
    agreements: `eval.views.agreement` of a finished run, by policy or arm,
      where it was measured.
    losses: held-out losses of a finished run on conversations, by policy, in
      nats per token of the assistant.
    verdicts: verdicts.json; None if it does not exist.
    problems: rows of trajectories.jsonl; their completions are hostile text.
    speculation: speculation.json, of `eval.speculation.Study`; None if
      no decoders were compared.
    agreement: problems of agreement.json, the scores of every view for what
      the others wrote; hostile text, too.
    routing: routing.json, of `run.routing`; None if no routing was measured.
  """

  directory: pathlib.Path
  about: dict[str, Any]
  curves: dict[str, dict[str, Curve]]
  results: dict[str, Any] | None
  agreements: dict[str, dict[str, Any]]
  losses: dict[str, float]
  verdicts: dict[str, Any] | None
  problems: list[dict[str, Any]]
  speculation: dict[str, Any] | None = None
  agreement: tuple[dict[str, Any], ...] = ()
  routing: dict[str, Any] | None = None

  @property
  def config(self) -> dict[str, Any]:
    """The config as nested dicts."""
    return self.about['config']

  @property
  def name(self) -> str:
    """The name of the directory."""
    return self.directory.resolve().name


def read(directory: pathlib.Path) -> Run:
  """Reads a working directory.

  Raises:
    errors.UserError: it is not a workdir, or one of its files is damaged.
  """
  about = read_object(directory / workdir.CONFIG_FILE)
  if about is None:
    raise errors.UserError(
      f'{directory} is not the workdir of a run: {workdir.CONFIG_FILE} is '
      'missing'
    )
  try:
    about['config']['method']['name'], about['config']['task']['name']
    about['config']['seed']
  except (KeyError, TypeError):
    raise errors.UserError(
      f'{directory / workdir.CONFIG_FILE} is not the config of a run'
    ) from None
  results = read_object(directory / EVAL_FILE)
  if results is not None and not {'base', 'final', 'num'} <= results.keys():
    raise errors.UserError(
      f'{directory / EVAL_FILE} is not the results of a run'
    )
  agreement = _checked(
    directory / AGREEMENT_FILE, 'a table of agreement', _has_agreement
  )
  return Run(
    directory=directory,
    about=about,
    curves=_curves(directory),
    results=results if results and 'sweep' in results['base'] else None,
    agreements=policies.entries(results or {}, 'agreement'),
    losses=policies.entries(results or {}, 'loss'),
    verdicts=read_object(directory / VERDICTS_FILE),
    problems=[
      _problem(row, f'{directory / TRAJECTORIES_FILE}, line {number}')
      for number, row in read_rows(directory / TRAJECTORIES_FILE)
    ],
    speculation=_checked(
      directory / SPECULATION_FILE,
      'a comparison of decoders',
      _compares_decoders,
    ),
    agreement=tuple(agreement['problems']) if agreement else (),
    routing=_checked(
      directory / ROUTING_FILE, 'the measured routing of a run', _has_routing
    ),
  )


def read_object(path: pathlib.Path) -> dict[str, Any] | None:
  """The JSON object in a file; None if the file does not exist."""
  try:
    content = json.loads(path.read_text('utf-8'))
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as e:
    raise errors.UserError(f'cannot read {path}: {e}') from e
  if not isinstance(content, dict):
    raise errors.UserError(f'{path} is not a JSON object')
  return content


def read_rows(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """(line number, object) of a file of JSON lines, which may not exist.

  A truncated last line is left out.
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


def _curves(directory: pathlib.Path) -> dict[str, dict[str, Curve]]:
  """The curves in metrics.jsonl, by phase and metric; finite values only."""
  points: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
  if not (directory / metrics.METRICS_FILE).exists():
    return {}
  for row in metrics.read(directory):
    step = row.pop('step')
    of_phase = points.setdefault(row.pop('phase'), {})
    for name, value in row.items():
      if math.isfinite(value):
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
  """Checks everything that the player relies on."""
  try:
    text = all(isinstance(row[k], str) for k in ('kind', 'prompt', 'gold'))
    valid = text and row['block_length'] > 0 and row['samples']
    for sample in row['samples']:
      length = len(sample['pieces'])
      valid = (
        valid
        and _SAMPLE_KEYS <= sample.keys()
        and len(sample['commit_step']) == length
        and len(sample['confidence']) == length
        and len(sample['steps']) == len(sample['rewards'])
        and all(isinstance(piece, str) for piece in sample['pieces'])
        and all(map(_is_number, sample['commit_step']))
        and all(map(_is_number, sample['confidence']))
        and _is_drafted(sample.get('drafted', [None] * length), length)
      )
  except (KeyError, TypeError):
    valid = False
  if not valid:
    raise errors.UserError(f'{where}, is not a problem with its trajectories')
  return row


def _is_drafted(drafted: Any, length: int) -> bool:
  """Whether it is a draft, or None, for each of the tokens."""
  return (
    isinstance(drafted, list)
    and len(drafted) == length
    and all(draft is None or isinstance(draft, str) for draft in drafted)
  )


def _checked(
  path: pathlib.Path, what: str, is_valid: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
  """The object in a file, if there is one; checks what is shown of it."""
  found = read_object(path)
  if found is None:
    return None
  try:
    valid = is_valid(found)
  except (AttributeError, KeyError, TypeError):
    valid = False
  if not valid:
    raise errors.UserError(f'{path} is not {what}')
  return found


def _compares_decoders(found: dict[str, Any]) -> bool:
  agreement = found['agreement']
  speeds = [of['tokens_per_second'] for of in found['greedy'].values()]
  return (
    'cache' in found['greedy']
    and len(found['rows']) > 0
    and all(map(_is_number, [found['num'], *speeds, *agreement.values()]))
    and all(
      row['decode'] in ('draft', 'fractal')
      and row['compression'] in agreement
      and isinstance(row['use_cache'], bool)
      and all(_is_number(row[key]) for key in _COMPARED)
      and all(
        row[key] is None or _is_number(row[key])
        for key in ('num_placeholders', 'tokens_per_round', 'worst_gap')
      )
      and all(map(_is_number, row['histogram']))
      for row in found['rows']
    )
  )


def _has_agreement(found: dict[str, Any]) -> bool:
  is_text = lambda values: all(isinstance(value, str) for value in values)
  return all(
    is_text([*problem['views'], problem['gold'], problem['id']])
    and all(
      name in ('base', 'final')
      and is_text(of['texts'])
      and all(right in (True, False, None) for right in of['correct'])
      and len(of['texts']) == len(of['correct']) == len(problem['views'])
      and len(of['scores']) == len(problem['views'])
      and all(len(row) == len(problem['views']) for row in of['scores'])
      and all(_is_number(value) for row in of['scores'] for value in row)
      for name, of in problem['policies'].items()
    )
    for problem in found['problems']
  )


def _has_routing(found: dict[str, Any]) -> bool:
  wanted = {'steps', 'seconds', 'loss', 'mrr', 'chance', 'map'}
  wanted |= {'cross', 'cross_loss', 'path_variance', 'load_entropy'}
  models = found['models']
  return (
    {'base', 'final'} <= models.keys()
    and {'num', 'study'} <= found.keys()
    and all(wanted <= model.keys() for model in models.values())
  )


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )
