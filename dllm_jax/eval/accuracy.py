"""Decodes held-out prompts and counts what the verifier accepts."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int

from dllm_jax import errors, types
from dllm_jax.ops import streams
from dllm_jax.rollout import answer_free, context, score
from dllm_jax.tasks import task as task_lib

Setting = TypeVar('Setting', int, float)


class Evaluation(NamedTuple):
  """Results over a set of rows.

  Attributes:
    accuracy: share of the judged rows that the verifier accepts.
    mean_steps: denoiser calls a row.
    tokens_per_step: completion tokens up to EOS over denoiser calls.
    metrics: means of the task's reward terms and metrics.
    tokens_per_second: completion tokens up to EOS, decoding time alone.
    seconds: of decoding.
    correct: verdict of each row.
    texts: completion of each row.
    tokens: the same as ids.
    logp: log-probability of each token when it was committed (nats).
    commit_step: when each token was committed.
    num_steps: denoiser calls of each row.
  """

  accuracy: float
  mean_steps: float
  tokens_per_step: float
  metrics: dict[str, float]
  tokens_per_second: float
  seconds: float
  correct: Float[np.ndarray, ' N']
  texts: list[str]
  tokens: Int[np.ndarray, 'N L']
  logp: Float[np.ndarray, 'N L']
  commit_step: Int[np.ndarray, 'N L']
  num_steps: Int[np.ndarray, ' N']

  def summary(self) -> dict[str, Any]:
    """What eval.json says; `interval` is 1.96 standard errors."""
    n = len(self.correct)
    error = np.sqrt(self.accuracy * (1 - self.accuracy) / n)
    return {
      'accuracy': self.accuracy,
      'interval': float(1.96 * error),
      'num': n,
      'mean_steps': self.mean_steps,
      'tokens_per_step': self.tokens_per_step,
      'tokens_per_second': self.tokens_per_second,
    } | self.metrics


def evaluate(
  ctx: context.Context,
  params: types.Params,
  rows: Sequence[task_lib.Row],
  cfg: answer_free.RolloutConfig,
  *,
  batch_size: int,
  advance: Callable[[int], None] | None = None,
) -> Evaluation:
  """Decodes every row once, without any gold answer, and scores it.

  Args:
    ctx: the run.
    params: of the policy.
    rows: held-out rows.
    cfg: the decoding setting; its temperature is 0 for greedy decoding.
    batch_size: rows decoded together.
    advance: called with the number of rows done since the last call.

  Returns:
    The evaluation; a row's result does not depend on `batch_size`.
  """
  encoded = ctx.encode(rows, cfg.max_prompt_length)
  row_id = np.arange(len(rows), dtype=np.int32)
  key = streams.step_key(ctx.root, 'eval', 0)
  parts, seconds = [], 0.0
  for start in range(0, len(rows), batch_size):
    chunk = slice(start, start + batch_size)
    began = time.perf_counter()
    part = answer_free.rollout(
      ctx,
      params,
      key,
      encoded.take(chunk),
      row_id[chunk],
      cfg,
      num_rows=batch_size,
    )
    seconds += time.perf_counter() - began
    parts.append(part)
    if advance is not None:
      advance(len(part.num_steps))
  trajectory = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  scored = score.score(
    ctx.task,
    ctx.tokenizer,
    rows,
    trajectory.tokens,
    score.RewardConfig(weights=()),
    prefill=ctx.prefill,
  )
  length = score.completion_mask(trajectory.tokens, ctx.vocab.eos_token)
  means = scored.terms | scored.metrics
  if not scored.judged.any():
    raise errors.UserError(
      f'none of the {len(rows)} completions could be judged: the verifier of '
      f'task {ctx.task.name!r} fails'
    )
  return Evaluation(
    accuracy=float(scored.correct[scored.judged].mean()),
    mean_steps=float(trajectory.num_steps.mean()),
    tokens_per_step=float(length.sum() / max(trajectory.num_steps.sum(), 1)),
    metrics={name: score.finite_mean(v) for name, v in means.items()},
    tokens_per_second=float(length.sum() / seconds),
    seconds=seconds,
    correct=scored.correct.astype(np.float32),
    texts=scored.texts,
    tokens=trajectory.tokens,
    logp=trajectory.logp,
    commit_step=trajectory.commit_step,
    num_steps=trajectory.num_steps,
  )


def sweep(
  ctx: context.Context,
  params: types.Params,
  rows: Sequence[task_lib.Row],
  settings: Mapping[Setting, answer_free.RolloutConfig],
  *,
  batch_size: int,
  advance: Callable[[int], None] | None = None,
) -> dict[Setting, Evaluation]:
  """`evaluate` under each of several decodings, by one compilation a decoder.

  Args:
    ctx: the run.
    params: of the policy.
    rows: held-out rows.
    settings: decodings by name.
    batch_size: rows decoded together.
    advance: as in `evaluate`.
  """
  return {
    name: evaluate(
      ctx, params, rows, cfg, batch_size=batch_size, advance=advance
    )
    for name, cfg in settings.items()
  }
