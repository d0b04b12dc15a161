"""Accuracy over the phrasings of held-out problems.

Dims: N problems, K views.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from dllm_jax import types
from dllm_jax.decoding import rounds
from dllm_jax.eval import accuracy, likelihood
from dllm_jax.ops import streams
from dllm_jax.rollout import context, paraphrase, score
from dllm_jax.runtime import process_rows, sharding
from dllm_jax.tasks import task as task_lib


def evaluate(
  ctx: context.Context,
  params: types.Params,
  problems: Sequence[task_lib.Row],
  decoder: types.Decoder,
  *,
  batch_size: int,
  advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
  """Accuracy under every phrasing, and of the phrasings together.

  Args:
    ctx: the run, whose task is a `task.Paraphrased`.
    params: parameters of the policy.
    problems: held-out rows.
    decoder: greedy.
    batch_size: rows decoded together.
    advance: called as by `accuracy.evaluate`.

  Returns:
    'seen' and 'unseen', each a `summary` (the latter None without such views);
    and of a causal model 'ensemble', the accuracy of greedy decoding from the
    geometric mean over the seen views.
  """
  made: dict[str, Any] = {}
  kinds = {'seen': ctx.task.views, 'unseen': ctx.task.unseen_views}
  for kind, views in kinds.items():
    rows = [view for row in problems for view in views(row)]
    made[kind] = None
    if rows:
      evaluation = accuracy.evaluate(
        ctx, params, rows, decoder, batch_size=batch_size, advance=advance
      )
      right = np.where(evaluation.judged, evaluation.correct, np.nan)
      made[kind] = summary(right.reshape(len(problems), -1))
  if isinstance(decoder, rounds.CausalDecoder):
    made['ensemble'] = _ensemble(
      ctx, params, problems, decoder, batch_size, advance
    )
  return made


def matrices(
  ctx: context.Context,
  params: types.Params,
  problems: Sequence[task_lib.Row],
  decoder: types.Decoder,
  *,
  batch_size: int,
  advance: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
  """What every view writes, and what the other views make of it.

  Args:
    ctx: the run, of a causal model and a `task.Paraphrased`.
    params: parameters of the policy.
    problems: held-out rows.
    decoder: greedy.
    batch_size: rows decoded or scored together.
    advance: called as by `accuracy.evaluate`, and after each scored problem.

  Returns:
    Of each problem: 'texts', the completion of every seen view; 'correct',
    whether it is right, None without a verdict; and 'scores', where [i][m] is
    the mean log-probability of completion m under view i (nats).
  """
  rows = [view for row in problems for view in ctx.task.views(row)]
  count = len(rows) // len(problems)
  made = accuracy.evaluate(
    ctx, params, rows, decoder, batch_size=batch_size, advance=advance
  )
  mask = score.completion_mask(made.tokens, ctx.vocab.stop_tokens)
  written = [t[m].tolist() for t, m in zip(made.tokens, mask, strict=True)]
  encoded = ctx.encode(rows)
  asked = [
    i[m].tolist() for i, m in zip(encoded.ids, encoded.mask, strict=True)
  ]
  scores = []
  for start in range(0, len(rows), count):
    own = slice(start, start + count)
    pairs = [(x, y) for x in asked[own] for y in written[own]]
    logp = likelihood.loglikelihood(
      ctx.denoiser,
      params,
      pairs,
      vocab=ctx.vocab,
      mesh=ctx.mesh,
      num_samples=1,
      seed=0,
      batch_size=batch_size,
    )
    mean = np.divide(logp, [len(y) for _, y in pairs])
    scores.append(mean.reshape(count, count).round(4).tolist())
    if advance is not None:
      advance(0)
  texts = score.texts(ctx.tokenizer, made.tokens, past_eos=False)
  correct = [
    bool(right) if judged else None
    for right, judged in zip(made.correct, made.judged, strict=True)
  ]
  return [
    {
      'texts': texts[start : start + count],
      'correct': correct[start : start + count],
      'scores': scores[start // count],
    }
    for start in range(0, len(rows), count)
  ]


def summary(right: Float[np.ndarray, 'N K']) -> dict[str, Any]:
  """Mean, worst, best and standard deviation of the accuracies of the views.

  Args:
    right: verdict of each problem under each view; NaN without one.

  Returns:
    Also 'interval', 1.96 standard errors of the mean over problems, and
    'views', the accuracy of each.
  """
  right = right[~np.isnan(right).all(axis=1)]
  by_view = np.nanmean(right, axis=0)
  by_problem = np.nanmean(right, axis=1)
  error = by_problem.std() / np.sqrt(len(by_problem))
  return {
    'mean': float(by_view.mean()),
    'interval': float(1.96 * error),
    'worst': float(by_view.min()),
    'best': float(by_view.max()),
    'std': float(by_view.std()),
    'views': by_view.tolist(),
  }


def _ensemble(
  ctx: context.Context,
  params: types.Params,
  problems: Sequence[task_lib.Row],
  decoder: rounds.CausalDecoder,
  batch_size: int,
  advance: Callable[[int], None] | None,
) -> float:
  """Accuracy of greedy decoding from the mean over the seen views."""
  num_views = len(ctx.task.views(problems[0]))
  shards = sharding.num_row_shards(ctx.mesh)
  size = max(batch_size // num_views // shards, 1) * shards
  key = streams.step_key(ctx.root, 'eval', 0)
  verdicts = []
  for start in range(0, len(problems), size):
    rows = problems[start : start + size]
    sets = paraphrase.request_sets(ctx, rows, num_views, 0)
    # The last problem stands in for those that a batch lacks.
    index = np.minimum(np.arange(size), len(rows) - 1)
    trajectory = paraphrase.decode_ensemble(
      ctx, params, key, sets, index, np.arange(size), decoder, 'geometric'
    )
    own = process_rows.share(ctx.mesh, len(rows), size)
    scored = score.score(
      ctx.task,
      ctx.tokenizer,
      [rows[i] for i in own],
      process_rows.fetch(trajectory.tokens)[: len(own)],
      score.RewardConfig(weights=()),
      prefill=ctx.prefill,
    )
    right = np.where(scored.judged, scored.correct, np.nan)
    verdicts.append(process_rows.gather(right, own, len(rows)))
    if advance is not None:
      advance(len(rows))
  return float(np.nanmean(np.concatenate(verdicts)))
