"""Accuracy over the phrasings of held-out problems, and their agreement.

Dims: N problems, K views.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dllm_jax import types
from dllm_jax.decoding import rounds
from dllm_jax.eval import accuracy, likelihood, masked_likelihood
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
      by_problem = (len(problems), -1)
      made[kind] = summary(
        right.reshape(by_problem), evaluation.answers.reshape(by_problem)
      )
  if isinstance(decoder, rounds.CausalDecoder):
    made['ensemble'] = _ensemble(
      ctx, params, problems, decoder, batch_size, advance
    )
  return made


def matrices(
  ctx: context.Context,
  params: types.Params,
  problems: Sequence[task_lib.Row],
  views: Callable[[task_lib.Row], list[task_lib.Row]],
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
    views: the phrasings of a row.
    decoder: greedy.
    batch_size: rows decoded or scored together.
    advance: called as by `accuracy.evaluate`, and with 1 after each scored
      problem.

  Returns:
    Of each problem: 'texts', the completion of every view; 'correct',
    whether it is right, None without a verdict; and 'scores', where [i][m] is
    the mean log-probability of completion m under view i (nats).
  """
  rows = [view for row in problems for view in views(row)]
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
    scored = likelihood.score(
      ctx.denoiser,
      params,
      pairs,
      vocab=ctx.vocab,
      mesh=ctx.mesh,
      estimate=masked_likelihood.Estimate(num_samples=1),
      seed=0,
      batch_size=batch_size,
    )
    mean = np.divide(scored.logp, [len(y) for _, y in pairs])
    scores.append(mean.reshape(count, count).round(4).tolist())
    if advance is not None:
      advance(1)
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


def agreement(
  found: Sequence[Mapping[str, Any]], num_seen: int
) -> dict[str, Any]:
  """How likely views find what the others wrote, over the problems.

  Args:
    found: as of `matrices`, with the seen views first.
    num_seen: number of seen views, K.

  Returns:
    Means over problems in nats per token, with 'interval's of 1.96 standard
    errors: 'own', of what a seen view wrote under itself; 'seen', under the
    other seen views; 'unseen', under the unseen views, None without any. And
    'num', the number of problems.
  """
  scores = np.array([of['scores'] for of in found])[:, :, :num_seen]
  own = np.eye(num_seen, dtype=bool)
  kinds = {
    'own': scores[:, :num_seen][:, own],
    'seen': scores[:, :num_seen][:, ~own],
    'unseen': scores[:, num_seen:].reshape(len(scores), -1),
  }
  made: dict[str, Any] = {'num': len(scores)}
  for kind, values in kinds.items():
    made[kind] = None
    if values.size:
      by_problem = values.mean(axis=1)
      error = by_problem.std() / np.sqrt(len(by_problem))
      made[kind] = {
        'mean': float(by_problem.mean()),
        'interval': float(1.96 * error),
      }
  return made


def same_answers(answers: Int[np.ndarray, 'N K']) -> float:
  """Share of the pairs of views of a problem that gave the same answer.

  Args:
    answers: as of `score.answer_digests`; a view without one agrees with none.
  """
  pairs = np.triu(np.ones((answers.shape[1],) * 2, bool), 1)
  same = (answers[:, :, None] == answers[:, None]) & (answers[:, None] != 0)
  return float(same[:, pairs].mean())


def summary(
  right: Float[np.ndarray, 'N K'], answers: Int[np.ndarray, 'N K']
) -> dict[str, Any]:
  """Mean, worst, best and standard deviation of the accuracies of the views.

  Args:
    right: verdict of each problem under each view; NaN without one.
    answers: as of `same_answers`.

  Returns:
    Also 'interval', 1.96 standard errors of the mean over problems; 'views',
    the accuracy of each; and 'same', of `same_answers`, which reads no verdict.
  """
  same = same_answers(answers) if answers.shape[1] > 1 else None
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
    'same': same,
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
    tokens = process_rows.fetch(trajectory.tokens)[: len(own)]
    scored = score.score(ctx, [rows[i] for i in own], tokens)
    verdicts.append(process_rows.gather(scored.right(), own, len(rows)))
    if advance is not None:
      advance(len(rows))
  return float(np.nanmean(np.concatenate(verdicts)))
