"""Accuracy, denoising steps and speed on held-out prompts."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from dllm_jax import errors, types
from dllm_jax.ops import streams
from dllm_jax.rollout import answer_free, context, prompts, score
from dllm_jax.runtime import process_rows
from dllm_jax.tasks import task as task_lib

Setting = TypeVar('Setting', int, float, str)
# Keys of results files, which a task's terms and metrics must not overwrite.
RESERVED = frozenset(
  'accuracy interval num unjudged mean_steps tokens_per_step '
  'tokens_per_second num_samples task model params seed decoding reasons '
  'sweep threshold thresholds at_threshold trained_steps kept_step '
  'phrasings agreement few_shot profile weights git versions'.split()
)


class Evaluation(NamedTuple):
  """Results over a set of rows.

  Attributes:
    accuracy: fraction of the judged rows that are correct; NaN if the task is
      open-ended.
    mean_steps: mean number of denoiser calls per row.
    tokens_per_step: completion tokens, up to the first stop token, per denoiser
      call.
    metrics: means of the task's reward terms and metrics.
    tokens_per_second: those tokens per second of decoding.
    seconds: decoding time (s).
    correct: verdict of each row, 1 or 0.
    judged: False where the verifier failed and `correct` has no meaning.
    reasons: short reasons of the verdicts; '' if there is none.
    answers: `score.answer_digests` of the answers that were read.
    tokens: completion ids of each row.
    logp: log-probability of each token when it was committed (nats).
    commit_step: 0-based step that committed each token.
    num_steps: number of denoiser calls of each row.
  """

  accuracy: float
  mean_steps: float
  tokens_per_step: float
  metrics: dict[str, float]
  tokens_per_second: float
  seconds: float
  correct: Float[np.ndarray, ' N']
  judged: Bool[np.ndarray, ' N']
  reasons: list[str]
  answers: Int[np.ndarray, ' N']
  tokens: Int[np.ndarray, 'N L']
  logp: Float[np.ndarray, 'N L']
  commit_step: Int[np.ndarray, 'N L']
  num_steps: Int[np.ndarray, ' N']

  def summary(self) -> dict[str, Any]:
    """The entries of eval.json; `interval` is 1.96 standard errors."""
    n = int(self.judged.sum())
    error = np.sqrt(self.accuracy * (1 - self.accuracy) / n)
    return {
      'accuracy': self.accuracy,
      'interval': float(1.96 * error),
      'num': len(self.judged),
      'unjudged': len(self.judged) - n,
      'mean_steps': self.mean_steps,
      'tokens_per_step': self.tokens_per_step,
      'tokens_per_second': self.tokens_per_second,
    } | self.metrics


def evaluate(
  ctx: context.Context,
  params: types.Params,
  rows: Sequence[task_lib.Row],
  decoder: types.Decoder,
  *,
  batch_size: int,
  draw: int = 0,
  advance: Callable[[int], None] | None = None,
) -> Evaluation:
  """Decodes every row once, without its gold answer, and scores it.

  Args:
    ctx: the run.
    params: parameters of the policy.
    rows: held-out rows.
    decoder: how to decode.
    batch_size: rows decoded together; results do not depend on it.
    draw: index of the sample; seeds the draws.
    advance: called after each decoded batch with its number of rows, and after
      each scored batch with 0, equally often in every process.

  Returns:
    The evaluation of all rows, in every process; each decodes and scores its
    own rows.

  Raises:
    errors.UserError: no completion was judged, or the task reports a reserved
      name.
  """
  key = streams.step_key(ctx.root, 'eval', draw)
  parts, numbers, seconds = [], [], 0.0
  prepared = decoder.prepare(ctx.denoiser, params)
  for start in range(0, len(rows), batch_size):
    count = min(batch_size, len(rows) - start)
    own = start + process_rows.share(ctx.mesh, count, batch_size)
    encoded = ctx.encode(rows[start : start + count]).take(own - start)
    began = time.perf_counter()
    placed = process_rows.place(
      prompts.RowPrompts(encoded.ids, encoded.mask, own), ctx.mesh, batch_size
    )
    trajectory = answer_free.sample(
      ctx.denoiser,
      prepared,
      key,
      placed,
      decoder,
      mesh=ctx.mesh,
      vocab=ctx.vocab,
    )
    fetched = process_rows.fetch(trajectory)
    part = jax.tree.map(lambda x: x[: len(own)], fetched)  # noqa: B023
    seconds += time.perf_counter() - began
    parts.append(part)
    numbers.append(own)
    if advance is not None:
      advance(count)
  verdicts = []
  for part, own in zip(parts, numbers, strict=True):
    verdicts.append(_judge(ctx, [rows[i] for i in own], part.tokens))
    if advance is not None:
      advance(0)
  trajectory, (scored, reasons, answers) = process_rows.gather(
    jax.tree.map(
      lambda *x: np.concatenate(x),
      *zip(parts, verdicts, strict=True),
    ),
    np.concatenate(numbers),
    len(rows),
  )
  length = score.completion_mask(trajectory.tokens, ctx.vocab.stop_tokens)
  means = scored.terms | scored.metrics
  if taken := sorted(RESERVED & means.keys()):
    raise errors.UserError(
      f'task {ctx.task.name!r} reports {taken[0]!r}, a reserved key of results '
      'files; rename that reward term or metric of the task'
    )
  is_open_ended = isinstance(ctx.task, task_lib.OpenEnded)
  if not scored.judged.any() and not is_open_ended:
    raise errors.UserError(
      f'none of the {len(rows)} completions could be judged: the verifier of '
      f'task {ctx.task.name!r} failed'
    )
  return Evaluation(
    accuracy=float('nan')
    if is_open_ended
    else float(scored.correct[scored.judged].mean()),
    mean_steps=float(trajectory.num_steps.mean()),
    tokens_per_step=float(length.sum() / max(trajectory.num_steps.sum(), 1)),
    metrics={name: score.finite_mean(v) for name, v in means.items()},
    tokens_per_second=float(length.sum() / seconds),
    seconds=seconds,
    correct=scored.correct.astype(np.float32),
    judged=scored.judged,
    reasons=[reason.decode('ascii') for reason in reasons],
    answers=answers,
    tokens=trajectory.tokens,
    logp=trajectory.logp,
    commit_step=trajectory.commit_step,
    num_steps=trajectory.num_steps,
  )


def _judge(
  ctx: context.Context,
  rows: Sequence[task_lib.Row],
  tokens: Int[np.ndarray, 'b L'],
) -> tuple[score.Scored, np.ndarray, np.ndarray]:
  """Verdicts without their texts; reasons as ASCII bytes; answers' digests."""
  scored = score.score(ctx, rows, tokens)
  # ASCII, since truncation to 64 bytes could split a longer character.
  reasons = [reason.encode('ascii', 'replace') for reason in scored.reasons]
  digests = score.answer_digests(scored.parsed)
  return scored.arrays(), np.array(reasons, 'S64'), digests


def sweep(
  ctx: context.Context,
  params: types.Params,
  rows: Sequence[task_lib.Row],
  decoders: Mapping[Setting, types.Decoder],
  *,
  batch_size: int,
  advance: Callable[[int], None] | None = None,
) -> dict[Setting, Evaluation]:
  """`evaluate` under each of several decoders, by setting.

  Decoders that differ only in traced fields share a compilation.
  """
  return {
    setting: evaluate(
      ctx, params, rows, decoder, batch_size=batch_size, advance=advance
    )
    for setting, decoder in decoders.items()
  }
