"""Scores completions on the host: tokens to text to verdicts to rewards.

Dims: B rows, L completion columns.
"""

import dataclasses
import hashlib
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
  """Weights of the reward terms.

  Attributes:
    weights: (term, weight) pairs; the reward is the weighted sum.
    past_eos: also judge the text after the first stop token, as the published
      rewards do, although no gradient reaches it (D13 in docs/papers.md).
  """

  weights: tuple[tuple[str, float], ...]
  past_eos: bool = False


NO_REWARD = RewardConfig(weights=())


class Scored(NamedTuple):
  """Verdicts of a batch, with one entry per row.

  Attributes:
    reward: weighted sum of the reward terms.
    terms: all reward terms of the task, weighted or not.
    correct: whether the completion counts as correct in the accuracy.
    judged: False where the verifier failed and `correct` has no meaning.
    metrics: other metrics of the task.
    leaked: whether the reasoning contains the gold answer.
    texts: texts of the completions.
    reasons: short reasons of the verdicts; '' if there is none.
    parsed: the answers that were read; None where there is none.
  """

  reward: Float[np.ndarray, ' B']
  terms: dict[str, Float[np.ndarray, ' B']]
  correct: Bool[np.ndarray, ' B']
  judged: Bool[np.ndarray, ' B']
  metrics: dict[str, Float[np.ndarray, ' B']]
  leaked: Bool[np.ndarray, ' B']
  texts: list[str]
  reasons: list[str]
  parsed: list[str | float | None]

  def right(self) -> Float[np.ndarray, ' B']:
    """1 for right completions and 0 for wrong ones; NaN without a verdict."""
    return np.where(self.judged, self.correct, np.nan)

  def arrays(self) -> 'Scored':
    """Without the texts, which processes do not exchange."""
    return self._replace(texts=[], reasons=[], parsed=[])


class Samples(NamedTuple):
  """The completions of this process, on the host; input of a reward function.

  Attributes:
    rows: the task's row of each completion.
    trajectory: tokens, log-probabilities and commit steps, as NumPy arrays.
    group_id: group within which each reward is compared.
  """

  rows: Sequence[task_lib.Row]
  trajectory: types.Trajectory
  group_id: Int[np.ndarray, ' B']


Reward = Callable[[Samples], Scored]


def task_reward(ctx: context.Context, cfg: RewardConfig = NO_REWARD) -> Reward:
  """The reward function of the task's verifier; see `score`."""
  return lambda samples: score(
    ctx, samples.rows, samples.trajectory.tokens, cfg
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
    tokenizer: decodes the ids.
    tokens: completion ids.
    past_eos: whether to keep the text after the stop token.
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


def answer_digests(
  parsed: Sequence[str | float | None],
) -> Int[np.ndarray, ' B']:
  """A number for each answer, the same for the same one; 0 for none.

  Numbers, unlike answers, can be exchanged between processes.
  """

  def digest(answer):
    if answer is None:
      return 0
    digest = hashlib.blake2b(repr(answer).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)

  return np.array([digest(answer) for answer in parsed], np.int64)


def finite_mean(values: np.ndarray) -> float:
  """Mean of the finite values; nan if there are none.

  Terms of rows that were not judged are nan.
  """
  finite = np.asarray(values, np.float64)
  finite = finite[np.isfinite(finite)]
  return float(finite.mean()) if finite.size else float('nan')


def score(
  ctx: context.Context,
  rows: Sequence[task_lib.Row],
  tokens: Int[np.ndarray, 'B L'],
  cfg: RewardConfig = NO_REWARD,
) -> Scored:
  """Judges every completion.

  Args:
    ctx: the run: the verifier, the tokenizer, and the prefill, which precedes
      every completion that is judged.
    rows: the task's row of each completion.
    tokens: completion ids.
    cfg: weights of the reward terms.

  Raises:
    errors.UserError: a weight names a term that the task does not have.
  """
  task = ctx.task
  decoded = texts(ctx.tokenizer, tokens, past_eos=cfg.past_eos)
  judged_texts = [ctx.prefill + text for text in decoded]
  verdicts = task_lib.score_all(task, rows, judged_texts)
  column = lambda field, name: np.array(
    [getattr(verdict, field)[name] for verdict in verdicts], np.float32
  )
  terms = {name: column('terms', name) for name in verdicts[0].terms}
  if unknown := sorted(set(dict(cfg.weights)) - set(terms)):
    raise errors.UserError(
      f'method.reward.{unknown[0]} is not a reward term of task '
      f'{task.name!r}: expected one of {", ".join(sorted(terms))}'
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
        for row, text in zip(rows, judged_texts, strict=True)
      ],
      bool,
    ),
    texts=decoded,
    reasons=[verdict.reason for verdict in verdicts],
    parsed=[verdict.parsed for verdict in verdicts],
  )
