"""report.html: a run as one self-contained page.

Data for the charts and the player are embedded as JSON. Text of models and data
sets is in that JSON, or escaped by the template, and never becomes markup. The
page's content security policy allows its own style and script and nothing else.
"""

import base64
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe
from jinja2 import utils

from dllm_jax import errors, metric_names
from dllm_jax.analysis import (
  charts,
  gains,
  policies,
  record,
  routing_charts,
  speculation_charts,
)
from dllm_jax.state import workdir

FILE = 'report.html'
PAGE = pathlib.Path(__file__).parent / 'page'
SCRIPTS = ('dom.js', 'chart.js', 'player.js', 'main.js')
METHODS = {
  'ag_grpo': 'AG-GRPO',
  'cpc_grpo': 'CPC-GRPO',
  'diffu_grpo': 'diffu-GRPO',
  'moe_erl': 'MoE-ERL',
  'sft': 'Supervised training',
  'ta_grpo_d': 'TA-GRPO-d',
}
SCALES = (0.04, 0.08, 0.2, 0.4, 0.6, 0.8)  # of an axis with four ticks
TASKS = {
  'aqua': 'AQuA',
  'aqua_phrasings': 'AQuA under several instructions',
  'countdown': 'Countdown',
  'gsm8k': 'GSM8K',
  'gsm8k_phrasings': 'GSM8K under several instructions',
  'humaneval': 'HumanEval',
  'kodcode': 'KodCode',
  'math': 'MATH',
  'mbpp': 'MBPP',
  'openbookqa': 'OpenBookQA',
  'openbookqa_phrasings': 'OpenBookQA under several instructions',
  'paraphrases': 'Paraphrased instructions',
  'phrasings': 'Misread phrasings',
  'scitldr': 'SciTLDR',
  'squad': 'SQuAD',
  'sudoku': 'Sudoku',
  'tagged_functions': 'tagged functions',
  'wikitext-2': 'WikiText-2',
  'word_problems': 'Word problems',
}
KINDS = {
  'fixed': 'Fixed: the base fails, the final policy solves it',
  'broken': 'Broken: the base solves it, the final policy fails',
  'both right': 'Both right',
  'both wrong': 'Both wrong',
  'drafted': 'Drafted: one prompt under several decoders',
}


def write(directory: pathlib.Path) -> pathlib.Path:
  """Writes report.html into the directory of a run and returns its path.

  Raises:
    errors.UserError: it is not the workdir of a run, or the disk refuses.
  """
  return save(of_run(record.read(directory)), directory / FILE)


def save(page: str, path: pathlib.Path) -> pathlib.Path:
  """Writes a page atomically and returns its path.

  Raises:
    errors.UserError: the disk refuses.
  """
  partial = path.with_name(path.name + '.tmp')
  try:
    partial.write_text(page, 'utf-8')
    partial.replace(path)
  except OSError as e:
    raise errors.UserError(
      f'cannot write {path}: {e.strerror}; use another --out'
    ) from e
  return path


def of_run(run: record.Run) -> str:
  """The page of one run."""
  guided = charts.of_run(metric_names.GUIDED, run)
  terms = charts.reward_terms(run)
  learning = charts.of_run(metric_names.LEARNING, run)
  results = run.results or {}
  names = [n for n in policies.NAMES if n in results]
  compared = run.speculation
  frontier = charts.frontier(
    {n: results[n] for n in names}, {n: n for n in names}
  )
  return render(
    'run.html',
    {
      'charts': {
        'frontier': [frontier] if frontier else [],
        'learning': learning[:1] + [terms] * bool(terms) + learning[1:],
        'guided': guided,
        'consensus': charts.of_run(metric_names.CONSENSUS, run),
        'supervised': charts.of_run(metric_names.SUPERVISED, run),
      }
      | speculation_charts.sections(compared),
      'problems': run.problems,
    },
    run=run,
    title=title(run),
    state=_state(run),
    headline=_headline(run) if results else None,
    speculation=speculation_charts.summary(compared) if compared else None,
    phrasings=list(policies.entries(results, 'phrasings').items()),
    agreements=run.agreements,
    losses=run.losses,
    agreement=[_shaded(problem) for problem in run.agreement],
    routing=routing_charts.summary(run.routing) if run.routing else None,
    heats=routing_charts.heats(run.routing) if run.routing else [],
    is_drafted=all(p['kind'] == 'drafted' for p in run.problems),
    tunes_base=run.config['method']['name'] == 'sft'
    and bool(run.config.get('base', {}).get('path')),
    is_causal='autoregressive' in results.get('base', {}).get('sweep', ()),
    schedules=_schedules(results, names),
    thresholds=_thresholds(results, names),
    missing=charts.missing(metric_names.LEARNING, run) if run.curves else [],
    kinds=[
      (KINDS.get(kind, kind), rows) for kind, rows in _by_kind(run).items()
    ],
    facts=_facts(run),
    config=sorted(workdir.flatten(run.config).items()),
  )


def render(template: str, data: Mapping[str, Any], **values: Any) -> str:
  """Renders a template of `page/`.

  Args:
    template: its file name.
    data: JSON for the scripts: 'charts' by section, and 'problems'.
    values: variables of the template.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PAGE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    'percent': percent,
    'points': points,
    'duration': duration,
    'json': json.dumps,
  }
  style = (PAGE / 'page.css').read_text('utf-8')
  script = ''.join((PAGE / name).read_text('utf-8') for name in SCRIPTS)
  policy = "default-src 'none'; base-uri 'none'; form-action 'none'; " + (
    f'style-src {_hash(style)}; script-src {_hash(script)}'
  )
  return environment.get_template(template).render(
    values,
    style=markupsafe.Markup(style),
    script=markupsafe.Markup(script),
    policy=policy,
    sections=data['charts'],
    # Escapes '<', '>', '&', "'" and everything that is not ASCII.
    data=utils.htmlsafe_json_dumps(data, allow_nan=False),
  )


def _hash(text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  return f"'sha256-{base64.b64encode(digest).decode()}'"


def title(run: record.Run) -> str:
  """The method and the task."""
  if run.speculation is not None:
    return f'Speculative decoding on {task_title(run)}'
  method = run.config['method']['name']
  return f'{METHODS.get(method, method)} on {task_title(run)}'


def task_title(run: record.Run) -> str:
  """The usual spelling of the task's name."""
  name = run.config['task']['name']
  return TASKS.get(name, name)


def percent(share: float) -> str:
  """0.1234 -> '12.3'."""
  return f'{100 * share:.1f}'


def points(share: float) -> str:
  """0.1234 -> '+12.3'; negative numbers get a typographic minus sign."""
  return f'{100 * share:+.1f}'.replace('-', '−')


def duration(seconds: float) -> str:
  """126.4 -> '2 min 6 s'."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {rest} s' if minutes else f'{rest} s'


def _state(run: record.Run) -> str:
  """One line about the progress of the run."""
  curves = run.curves.get('rl', {}).values()
  steps = max((int(curve.steps[-1]) for curve in curves), default=0)
  if not (run.results or run.speculation or run.agreements or run.losses):
    return (
      f'not finished: {steps} of {run.config["train"]["num_steps"]} updates'
    )
  return f'{steps} updates' if steps else 'finished'


def _headline(run: record.Run) -> dict[str, Any]:
  """Base and final, their difference, and the scale of the axis."""
  readings = gains.readings(run)
  base, final = readings[0], readings[-1]
  top = max(reading.accuracy + reading.interval for reading in readings)
  return {
    'readings': readings,
    'base': base,
    'final': final,
    'gain': gains.gain(run, base, final),
    'num': run.results['num'],
    'scale': next((s for s in SCALES if top <= s), 1.0),
    'steps_share': final.summary['mean_steps']
    / max(base.summary['mean_steps'], 1e-9),
  }


def _schedules(
  results: Mapping[str, Any], names: list[str]
) -> list[tuple[str, list[Any]]]:
  """(setting, the policies' entries of eval.json) of each plain decoder."""
  if not names:
    return []
  return [
    (steps, [results[name]['sweep'][steps] for name in names])
    for steps in results[names[0]]['sweep']
  ]


def _thresholds(
  results: Mapping[str, Any], names: list[str]
) -> list[tuple[str, list[Any], Any]]:
  """(threshold, the policies' entries, comparison at equal steps)."""
  if not names or 'thresholds' not in results[names[0]]:
    return []
  against = results.get('frontier', {}).get('final', ())
  rows = {row['threshold']: row for row in against}
  return [
    (t, [results[name]['thresholds'][t] for name in names], rows.get(t))
    for t in results[names[0]]['thresholds']
  ]


def _shaded(problem: dict[str, Any]) -> dict[str, Any]:
  """A problem with the shade of each score: 0 for unlikely, 9 for certain."""
  shade = lambda score: min(int(10 * math.exp(score)), 9)
  policies = {
    name: of
    | {'rows': [[(s, shade(min(s, 0.0))) for s in row] for row in of['scores']]}
    for name, of in problem['policies'].items()
  }
  return problem | {'policies': policies}


def _by_kind(run: record.Run) -> dict[str, list[tuple[int, str]]]:
  """(index, prompt in one line) of the problems, by kind."""
  by_kind: dict[str, list[tuple[int, str]]] = {}
  for index, problem in enumerate(run.problems):
    line = ' '.join(problem['prompt'].split())
    line = line if len(line) <= 60 else f'…{line[-60:]}'
    by_kind.setdefault(problem['kind'], []).append((index, line))
  return by_kind


def _facts(run: record.Run) -> list[tuple[str, str]]:
  """Names and values of the run's provenance."""
  about, devices = run.about, run.about.get('devices', [])
  command = about.get('command', '')
  kinds = [f'{devices.count(d)} × {d}' for d in dict.fromkeys(devices)]
  machine = about.get('machine', {})
  seconds = (run.results or {}).get('seconds', {})
  versions = about.get('versions', {})
  return [
    *[('Command', command)] * bool(command),
    ('Directory', str(run.directory)),
    ('Seed', str(run.config['seed'])),
    ('Commit', about.get('git') or 'not a git checkout'),
    ('Devices', ', '.join(kinds)),
    *((name.capitalize(), str(value)) for name, value in machine.items()),
    *((f'Time, {name}', duration(s)) for name, s in seconds.items()),
    ('Versions', ', '.join(f'{name} {v}' for name, v in versions.items() if v)),
  ]
