"""Multiple choice by likelihood: which option a model finds most likely.

Nothing is generated and no layout is asked for, so that base models, which
follow no instructions, can be compared too. Dims: N questions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dllm_jax.tasks import task as task_lib


def pairs(clozes: Sequence[task_lib.Cloze]) -> list[tuple[str, str]]:
  """(prompt, continuation) of every option of every question, in order."""
  return [(c.prompt, option) for c in clozes for option in c.options]


def judge(
  clozes: Sequence[task_lib.Cloze], logp: Sequence[float]
) -> list[dict[str, Any]]:
  """What a model chooses.

  Args:
    clozes: the questions.
    logp: log-probability of each of `pairs` (nats).

  Returns:
    Of each question its 'options', their 'logp', 'gold', and the index of the
    option with the greatest logp, 'chosen', and with the greatest logp divided
    by its number of characters, 'chosen_per_character'.

  Raises:
    ValueError: there are not as many numbers as options, or one is not finite.
  """
  if len(logp) != sum(len(c.options) for c in clozes):
    raise ValueError('expected a log-probability of every option')
  if not np.isfinite(logp).all():
    raise ValueError('a log-probability is not finite')
  found, start = [], 0
  for cloze in clozes:
    own = np.array(logp[start : start + len(cloze.options)])
    start += len(own)
    sizes = np.array([max(len(o.strip()), 1) for o in cloze.options])
    found.append(
      {
        'options': [option.strip() for option in cloze.options],
        'logp': own.tolist(),
        'gold': cloze.answer,
        'chosen': int(np.argmax(own)),
        'chosen_per_character': int(np.argmax(own / sizes)),
      }
    )
  return found


def summary(judged: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Accuracies with their intervals, 1.96 standard errors, and chance.

  'accuracy' is of the greatest sum, 'accuracy_per_character' of the greatest
  sum over length, which long options need; the evaluation harness of EleutherAI
  calls them acc and acc_norm.
  """
  made: dict[str, Any] = {'num': len(judged)}
  for suffix in ('', '_per_character'):
    right = np.array([j[f'chosen{suffix}'] == j['gold'] for j in judged])
    error = right.std() / np.sqrt(len(right))
    made[f'accuracy{suffix}'] = float(right.mean())
    made[f'interval{suffix}'] = float(1.96 * error)
  made['chance'] = float(np.mean([1 / len(j['options']) for j in judged]))
  return made
