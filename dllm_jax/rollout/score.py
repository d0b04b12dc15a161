"""Completions to text to verdicts, on the host.

Dims: B rows, L completion columns.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from dllm_jax import errors, types
from dllm_jax.rollout import context
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import tokenizer as tokenizer_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
  """From reward terms to a reward.

  Attributes:
    weights: (term, weight) pairs; the reward is the weighted sum.
    past_eos: judge the text after the first stop token too, as the published
      rewards do, although no gradient reaches it (D13 in docs/papers.md).
  """

  weights: tuple[tuple[str, float], ...]
  past_eos: bool = False


class Scored(NamedTuple):
  """Verdicts of a batch, as arrays with one entry a row.

  Attributes:
    reward: weighted sum of the reward terms.
    terms: every term that the task reports, weighted or not.
    correct: what accuracy counts.
    judged: False where the verifier itself failed, and `correct` says nothing.
    metrics: what else the task reports.
    leaked: the reasoning spells the gold answer.
    texts: the completions.
    reasons: of the verdicts, in a few words; '' for none.
  """

  reward: Float[np.ndarray, ' B']
  terms: dict[str, Float[np.ndarray, ' B']]
  correct: Bool[np.ndarray, ' B']
  judged: Bool[np.ndarray, ' B']
  metrics: dict[str, Float[np.ndarray, ' B']]
  leaked: Bool[np.ndarray, ' B']
  texts: list[str]
  reasons: list[str]


class Samples(NamedTuple):
  """Completions of this process, on the host, as a reward function reads them.

  Attributes:
    rows: the task's row that each completion answers.
    trajectory: tokens, log-probabilities and commit steps, as numpy arrays.
    group_id: the group that each completion is compared with.
  """

  rows: Sequence[task_lib.Row]
  trajectory: types.Trajectory
  group_id: Int[np.ndarray, ' B']


Reward = Callable[[Samples], Scored]


def task_reward(ctx: context.Context, cfg: RewardConfig) -> Reward:
  """The reward of the task's verifier; see `score`."""
  return lambda samples: score(
    ctx.task,
    ctx.tokenizer,
    samples.rows,
    samples.trajectory.tokens,
    cfg,
    prefill=ctx.prefill,
  )


def completion_mask(
  tokens: Int[np.ndarray, 'B L'], stop_tokens: Sequence[int]
) -> Bool[np.ndarray, 'B L']:
  """True up to and including the first stop token; all True without one."""
  is_stop = np.isin(tokens, stop_tokens)
  return np.cumsum(is_stop, axis=1) - is_stop == 0


def texts(
  tokenizer: tokenizer_lib.Tokenizer,
  tokens: Int[np.ndarray, 'B L'],
  *,
  past_eos: bool,
) -> list[str]:
  """The text of every row, up to its first stop token.

  Args:
    tokenizer: of the ids.
    tokens: completions.
    past_eos: keep the text after that too.
  """
  keep = completion_mask(tokens, tokenizer.special.stop)
  if past_eos:
    keep[:] = True
  return tokenizer.decode_batch(
    [row[mask].tolist() for row, mask in zip(tokens, keep, strict=True)]
  )


def weigh(verdict: task_lib.Score, cfg: RewardConfig) -> float:
  """The reward of a verdict: the weighted sum of its terms."""
  terms = (weight * verdict.terms[name] for name, weight in cfg.weights)
  return sum(terms, start=0.0)


def finite_mean(values: np.ndarray) -> float:
  """Mean of the finite values; nan where there is none.

  Terms of rows that could not be judged are not a number.
  """
  finite = np.asarray(values, np.float64)
  finite = finite[np.isfinite(finite)]
  return float(finite.mean()) if finite.size else float('nan')


def score(
  task: task_lib.Task,
  tokenizer: tokenizer_lib.Tokenizer,
  rows: Sequence[task_lib.Row],
  tokens: Int[np.ndarray, 'B L'],
  cfg: RewardConfig,
  *,
  prefill: str = '',
) -> Scored:
  """Judges every completion against its row.

  Args:
    task: the verifier.
    tokenizer: of the ids.
    rows: the task's row of each completion.
    tokens: completions.
    cfg: the reward.
    prefill: text that stands before every completion, and is judged with it.

  Raises:
    errors.UserError: a weight names a term that the task does not have.
  """
  written = texts(tokenizer, tokens, past_eos=cfg.past_eos)
  whole = [prefill + text for text in written]
  verdicts = task_lib.score_all(task, rows, whole)
  column = lambda field, name: np.array(
    [getattr(verdict, field)[name] for verdict in verdicts], np.float32
  )
  terms = {name: column('terms', name) for name in verdicts[0].terms}
  if unknown := sorted(set(dict(cfg.weights)) - set(terms)):
    raise errors.UserError(
      f'method.reward.{unknown[0]} is no reward term of task {task.name!r}; '
      f'it has {", ".join(sorted(terms))}'
    )
  return Scored(
    reward=np.array([weigh(verdict, cfg) for verdict in verdicts], np.float32),
    terms=terms,
    correct=np.array([verdict.correct for verdict in verdicts], bool),
    judged=np.array([verdict.judged for verdict in verdicts], bool),
    metrics={name: column('metrics', name) for name in verdicts[0].metrics},
    leaked=np.array(
      [
        task.reasoning_has_gold(row, text)
        for row, text in zip(rows, whole, strict=True)
      ],
      bool,
    ),
    texts=written,
    reasons=[verdict.reason for verdict in verdicts],
  )
