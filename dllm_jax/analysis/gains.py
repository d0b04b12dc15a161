"""The gain of a run over its base, with an interval.

Two policies are compared problem by problem if verdicts.json exists. Otherwise
the variances of the two are added as if they were independent, which gives a
wider interval.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dllm_jax.analysis import policies, record


class Reading(NamedTuple):
  """The results of a policy under the decoding setting that a run reports.

  Attributes:
    policy: 'base', 'control' or 'final'.
    decoding: 'fixed' (or token by token), or 'gated'.
    setting: key of 'sweep' or 'thresholds' in eval.json.
    summary: the entry of eval.json: 'accuracy', 'interval', 'mean_steps', ...
  """

  policy: str
  decoding: str
  setting: str
  summary: dict[str, Any]

  @property
  def accuracy(self) -> float:
    return self.summary['accuracy']

  @property
  def interval(self) -> float:
    """Half-width of the 95 % interval over problems."""
    return self.summary['interval']

  @property
  def words(self) -> str:
    """The decoding setting in words."""
    if self.decoding == 'gated':
      return f'gate at {self.setting}, {self.summary["mean_steps"]:.1f} steps'
    if self.setting.isdigit():
      return f'{self.setting} denoising steps'
    return self.setting


class Gain(NamedTuple):
  """A difference of accuracies and the half-width of its 95 % interval."""

  difference: float
  half_width: float
  paired: bool


def readings(run: record.Run) -> list[Reading]:
  """The policies of a finished run: base, control (if trained) and final.

  All are under the fixed schedule chosen on validation problems, except for a
  final policy with a gate.
  """
  results = run.results
  steps = str(results['chosen_steps'])
  fixed = [
    Reading(name, 'fixed', steps, results[name])
    for name in policies.NAMES
    if name in results
  ]
  if 'at_threshold' not in results['final']:
    return fixed
  gated = results['final']['at_threshold']
  return fixed[:-1] + [Reading('final', 'gated', gated['threshold'], gated)]


def digits(run: record.Run, reading: Reading) -> str | None:
  """Verdicts of a reading, one digit per problem; None if unknown."""
  try:
    return run.verdicts[reading.policy][reading.decoding][reading.setting]
  except (KeyError, TypeError):
    return None


def gain(run: record.Run, before: Reading, after: Reading) -> Gain:
  """The accuracy of `after` minus that of `before`, both of one run."""
  one, other = digits(run, before), digits(run, after)
  if one and other and len(one) == len(other):
    return paired(one, other)
  return Gain(
    after.accuracy - before.accuracy,
    math.hypot(before.interval, after.interval),
    False,
  )


def paired(before: str, after: str) -> Gain:
  """mean(d) ± 1.96 s / sqrt(n) over the differences d of paired verdicts.

  Problems without a verdict ('-') in either are left out.

  Args:
    before: verdicts of one policy, one digit per problem.
    after: verdicts of another on the same problems.
  """
  judged = [d for d in zip(before, after, strict=True) if '-' not in d]
  return of_changes([float(b) - float(a) for a, b in judged] or [0.0])


def of_changes(changes: Sequence[float]) -> Gain:
  """mean(d) ± 1.96 s / sqrt(n) over the changes d of items; see `paired`."""
  change = np.array(changes)
  error = change.std(ddof=1) / math.sqrt(len(change)) if len(change) > 1 else 0
  return Gain(float(change.mean()), float(1.96 * error), True)
