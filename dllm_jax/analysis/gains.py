"""What a run gained over its base, with an interval.

Two policies on the same problems are compared problem by problem, which needs
verdicts.json; without it the intervals of the two are added as if they were
independent, which is wider.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from dllm_jax.analysis import record


class Reading(NamedTuple):
  """A policy under the decoding that a run reports.

  Attributes:
    policy: 'base', 'control' or 'final'.
    decoding: 'fixed' or 'gated'.
    setting: steps or threshold, as eval.json spells it.
    found: that part of eval.json.
  """

  policy: str
  decoding: str
  setting: str
  found: dict[str, Any]

  @property
  def accuracy(self) -> float:
    return self.found['accuracy']

  @property
  def interval(self) -> float:
    """Half of the 95 % interval over problems."""
    return self.found['interval']

  @property
  def words(self) -> str:
    """The decoding in words."""
    if self.decoding == 'fixed':
      return f'{self.setting} denoising steps'
    return f'gate at {self.setting}, {self.found["mean_steps"]:.1f} steps'


class Gain(NamedTuple):
  """A difference of accuracies, and half of its 95 % interval."""

  difference: float
  half_width: float
  paired: bool


def readings(run: record.Run) -> list[Reading]:
  """The policies of a finished run, as it reports them: base, control, final.

  All under the fixed schedule that validation chose, but for a final policy
  with a gate of its own.
  """
  results = run.results
  steps = str(results['chosen_steps'])
  made = [
    Reading(name, 'fixed', steps, results[name])
    for name in ('base', 'control', 'final')
    if name in results
  ]
  if 'at_threshold' in results['final']:
    found = results['final']['at_threshold']
    made[-1] = Reading('final', 'gated', found['threshold'], found)
  return made


def digits(run: record.Run, reading: Reading) -> str | None:
  """Verdicts of a reading, a digit a problem; None where they are not known."""
  try:
    return run.verdicts[reading.policy][reading.decoding][reading.setting]
  except (KeyError, TypeError):
    return None


def gain(run: record.Run, before: Reading, after: Reading) -> Gain:
  """`after` - `before`, both of one run."""
  one, other = digits(run, before), digits(run, after)
  if one and other and len(one) == len(other):
    return paired(one, other)
  return Gain(
    after.accuracy - before.accuracy,
    math.hypot(before.interval, after.interval),
    False,
  )


def paired(before: str, after: str) -> Gain:
  """mean(d) ± 1.96 s / sqrt(n) of the differences d of single verdicts.

  Problems that one of the two has no verdict on ('-') are left out.
  """
  judged = [d for d in zip(before, after, strict=True) if '-' not in d]
  change = np.array([float(b) - float(a) for a, b in judged] or [0.0])
  error = change.std(ddof=1) / math.sqrt(len(change)) if len(change) > 1 else 0
  return Gain(float(change.mean()), float(1.96 * error), True)
