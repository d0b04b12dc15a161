"""Two results files of `launch/eval.py`, item by item.

Both evaluations are of the same items, so that their difference is paired: its
interval does not have the variance of the items in it, which is most of that of
an accuracy.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from dllm_jax import errors
from dllm_jax.analysis import gains, record
from dllm_jax.state import workdir

# Endings of the files of items, beside the results.
GENERATIONS, CHOICES = '.generations.jsonl', '.choices.jsonl'
# What two evaluations may differ in, of all that their files say.
_PROTOCOL = (
  'model',
  'params',
  'weights',
  'profile',
  'decoding',
  'few_shot',
  'likelihood',
  'seed',
  'git',
  'versions',
)
_SHOWN = 10  # ids of a list


class Evaluation(NamedTuple):
  """A results file and its items.

  Attributes:
    path: of the results file.
    results: what it says.
    correct: the share of the completions of an item that are right, by the id
      of the item; items that could not be judged are not in it.
  """

  path: pathlib.Path
  results: dict[str, Any]
  correct: dict[str, float]


class Comparison(NamedTuple):
  """The second evaluation against the first.

  Attributes:
    task: what was evaluated.
    num: items that both judged.
    left_out: items that one of them did not judge, or does not have.
    accuracies: of the first and the second, on the items of both.
    gain: their difference, paired.
    gained: ids of the items that the second solves more often.
    lost: ids of those that it solves less often.
    p_value: of a two-sided sign test of `gained` against `lost` (McNemar's
      exact test where an item has one completion).
    differing: (key, value of the first, value of the second) of the protocols.
  """

  task: str
  num: int
  left_out: int
  accuracies: tuple[float, float]
  gain: gains.Gain
  gained: list[str]
  lost: list[str]
  p_value: float
  differing: list[tuple[str, Any, Any]]


def read(path: pathlib.Path) -> Evaluation:
  """A results file, and the items that lie beside it.

  Raises:
    errors.UserError: it is none, or its items are missing or damaged.
  """
  results = record.read_object(path)
  if results is None:
    raise errors.UserError(f'there is no results file {path}')
  if not {'task', 'accuracy', 'seed'} <= results.keys():
    raise errors.UserError(
      f'{path} is not the results of launch/eval.py for one decoding'
    )
  items = path.with_suffix(CHOICES if 'by' in results else GENERATIONS)
  if not items.exists():
    raise errors.UserError(
      f'{items} is missing: keep it beside {path.name}, it has the items'
    )
  verdicts: dict[str, list[float]] = {}
  for number, row in record.read_rows(items):
    try:
      if 'by' in results:
        right = row['chosen'] == row['gold']
      else:
        right = row['correct']
      if right is not None:
        verdicts.setdefault(str(row['id']), []).append(float(right))
    except (KeyError, TypeError, ValueError):
      raise errors.UserError(f'{items}, line {number}, is no item') from None
  correct = {name: float(np.mean(v)) for name, v in verdicts.items()}
  return Evaluation(path, results, correct)


def compare(first: Evaluation, second: Evaluation) -> Comparison:
  """The second against the first, on the items that both have.

  Raises:
    errors.UserError: they are of other tasks, or have no items in common.
  """
  tasks = [e.results['task'] for e in (first, second)]
  if tasks[0] != tasks[1]:
    raise errors.UserError(
      f'{first.path} is of task {tasks[0]!r}, {second.path} of {tasks[1]!r}: '
      'compare evaluations of one task'
    )
  common = [name for name in first.correct if name in second.correct]
  if not common:
    raise errors.UserError(
      f'{first.path} and {second.path} have no items in common'
    )
  before = np.array([first.correct[name] for name in common])
  after = np.array([second.correct[name] for name in common])
  pick = lambda chosen: [n for n, c in zip(common, chosen, strict=True) if c]
  gained, lost = pick(after > before), pick(after < before)
  flipped = len(gained) + len(lost)
  return Comparison(
    task=tasks[0],
    num=len(common),
    left_out=len(first.correct.keys() | second.correct.keys()) - len(common),
    accuracies=(float(before.mean()), float(after.mean())),
    gain=gains.of_changes((after - before).tolist()),
    gained=gained,
    lost=lost,
    p_value=float(stats.binomtest(len(gained), flipped).pvalue)
    if flipped
    else 1.0,
    differing=_differing(first.results, second.results),
  )


def _differing(
  first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
  flat = [
    workdir.flatten({k: r[k] for k in _PROTOCOL if k in r})
    for r in (first, second)
  ]
  keys = dict.fromkeys([*flat[0], *flat[1]])
  pairs = [(key, flat[0].get(key), flat[1].get(key)) for key in keys]
  return [(key, a, b) for key, a, b in pairs if a != b]


def lines(comparison: Comparison) -> list[str]:
  """The comparison in words, a line each."""
  first, second = comparison.accuracies
  gain = comparison.gain
  told = [
    f'{comparison.task}, {comparison.num} items of both: '
    f'{100 * first:.1f} % and {100 * second:.1f} %; second - first = '
    f'{100 * gain.difference:+.1f} ± {100 * gain.half_width:.1f} points '
    f'(paired, 95 %), p = {comparison.p_value:.3g} (sign test)',
    f'the second solves {_named(comparison.gained)}',
    f'the first solves {_named(comparison.lost)}',
  ]
  if comparison.left_out:
    told.append(f'{comparison.left_out} items are not judged in both')
  told += [f'{k}: {a} -> {b}' for k, a, b in comparison.differing]
  if not comparison.differing:
    told.append('the protocols are the same')
  return told


def _named(ids: Sequence[str]) -> str:
  more = f' and {len(ids) - _SHOWN} more' if len(ids) > _SHOWN else ''
  shown = f': {", ".join(ids[:_SHOWN])}{more}' if ids else ''
  return f'{len(ids)} items more often{shown}'
