"""Rollouts on sets of paraphrases: K views of a problem, M candidates.

What is compared and what was read differ here: the group of a candidate is its
set, its prompt one of the set's views. Dims: N sets, K views, M candidates, B
rows, P prompt columns, L completion columns.
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from dllm_jax import errors, types
from dllm_jax.decoding import ensemble, rounds
from dllm_jax.ops import streams
from dllm_jax.rl import advantages
from dllm_jax.rollout import answer_free, batch, context, prompts, sharded
from dllm_jax.runtime import process_rows
from dllm_jax.tasks import task as task_lib

Candidates = Literal['per_view', 'ensemble', 'mixed']
CANDIDATES = get_args(Candidates)


class Sets(NamedTuple):
  """The views of some problems, set by set; on the host.

  Attributes:
    rows: the task's row of each of the N K views.
    encoded: their prompts.
    num_views: K.
  """

  rows: list[task_lib.Row]
  encoded: prompts.Prompts
  num_views: int

  @property
  def num_sets(self) -> int:
    """N."""
    return len(self.rows) // self.num_views


def request_sets(
  ctx: context.Context,
  rows: Sequence[task_lib.Row],
  num_views: int,
  step: int,
) -> Sets:
  """K views of every problem.

  Where the task has more, they take turns: view j of step s is number
  (s K + j) mod n of n.

  Args:
    ctx: the run, whose task is a `task.Paraphrased`.
    rows: the problems.
    num_views: K.
    step: 0-based step of the run.
  """
  chosen = []
  for row in rows:
    views = ctx.task.views(row)
    start = step * num_views
    chosen += [views[(start + j) % len(views)] for j in range(num_views)]
  return Sets(chosen, ctx.encode(chosen), num_views)


def check_sets(
  task: task_lib.Paraphrased, rows: Sequence[task_lib.Row], num_views: int
) -> None:
  """Refuses rows that make no sets of paraphrases.

  Raises:
    errors.UserError: a row has fewer phrasings for training than `num_views`,
      another number of them than the first row, an empty phrasing, or, unseen
      ones included, the same one twice.
  """
  count = len(task.views(rows[0]))
  for row in rows:
    views = task.views(row)
    texts = [
      task.prompt(view).strip() for view in [*views, *task.unseen_views(row)]
    ]
    where = f'row {row["id"]!r} has {len(views)} phrasings for training'
    if len(views) < num_views:
      raise errors.UserError(
        f'{where}, fewer than method.num_views={num_views}: lower that key'
      )
    if len(views) != count:
      raise errors.UserError(
        f'{where}, and row {rows[0]["id"]!r} has {count}: give all rows '
        'equally many paraphrases'
      )
    if '' in texts or len(set(texts)) < len(texts):
      raise errors.UserError(
        f'row {row["id"]!r} has an empty phrasing, or the same one twice: '
        'remove it from the data'
      )


def sources(
  kind: Candidates, num_candidates: int, num_views: int
) -> Int[np.ndarray, ' M']:
  """s(m), the view that candidate m is sampled from; -1 for all of them.

  'per_view' is s(m) = m mod K, 'ensemble' is -1, and 'mixed' has per-view
  candidates in the first half and the ensemble's in the second.
  """
  source = np.arange(num_candidates, dtype=np.int32) % num_views
  first = {'per_view': num_candidates, 'mixed': num_candidates // 2}
  source[first.get(kind, 0) :] = -1
  return source


def candidates(
  ctx: context.Context,
  params: types.Params,
  sets: Sets,
  source: Int[np.ndarray, ' M'],
  step: int,
  *,
  decoder: rounds.CausalDecoder,
  mean: ensemble.Mean,
) -> batch.Rollouts:
  """M candidates of every set; the group of row n M + m is set n.

  Args:
    ctx: the run.
    params: parameters of the policy.
    sets: the N sets.
    source: s(m), as of `sources`. The prompt of an ensemble's candidate in the
      result is view m mod K.
    step: 0-based step of the run; seeds the draws.
    decoder: samples the candidates.
    mean: the ensemble's.
  """
  num_sets, num_views = sets.num_sets, sets.num_views
  view = np.arange(len(source)) % num_views
  first = np.arange(num_sets, dtype=np.int32)[:, None] * num_views
  requests = batch.request(
    ctx.mesh,
    sets.encoded,
    (first + view).reshape(-1).astype(np.int32),
    group_id=np.repeat(np.arange(num_sets, dtype=np.int32), len(source)),
  )
  key = streams.step_key(ctx.root, 'rollout', step)
  is_ensemble = np.tile(source < 0, num_sets)
  parts = []
  if not is_ensemble.all():
    chosen = requests.prompts
    if is_ensemble.any():
      index = np.flatnonzero(~is_ensemble)
      chosen = batch.take(chosen, index, len(index), ctx.mesh)
    parts.append(answer_free.rollout(ctx, params, key, chosen, decoder))
  if is_ensemble.any():
    index = np.flatnonzero(is_ensemble)
    group = requests.group_id[index]
    parts.append(
      decode_ensemble(ctx, params, key, sets, group, index, decoder, mean)
    )
  trajectory = parts[0]
  if len(parts) == 2:
    trajectory = batch.merge(*parts, is_ensemble, ctx.mesh)
  return batch.Rollouts(requests, trajectory)


def decode_ensemble(
  ctx: context.Context,
  params: types.Params,
  key: Key[Array, ''],
  sets: Sets,
  set_of: Int[np.ndarray, ' B'],
  row_id: Int[np.ndarray, ' B'],
  decoder: rounds.CausalDecoder,
  mean: ensemble.Mean,
) -> types.Trajectory:
  """Completions of whole sets, of which each keeps K rows of a cache.

  Args:
    ctx: the run.
    params: parameters of the policy.
    key: PRNG key, consumed; a row draws from `fold_in(key, row_id)`.
    sets: the N sets.
    set_of: the set of each completion; the mesh axes `data` and `fsdp` must
      divide B.
    row_id: seeds the draws of each completion.
    decoder: its length, temperature and truncation are used.
    mean: how distributions are put together.
  """
  own = process_rows.share(ctx.mesh, len(set_of))
  shape = (sets.num_sets, sets.num_views, -1)
  by_set = lambda x: x.reshape(shape)[set_of[own]]
  ids, mask, rows = process_rows.place(
    (
      by_set(sets.encoded.ids),
      by_set(sets.encoded.mask),
      row_id[own].astype(np.int32),
    ),
    ctx.mesh,
    len(set_of),
  )
  return _decode_ensemble(
    ctx.denoiser,
    params,
    key,
    (ensemble.Prompts(ids, mask), rows),
    decoder,
    mean=mean,
    mesh=ctx.mesh,
    vocab=ctx.vocab,
  )


@functools.partial(
  jax.jit, static_argnames=('denoiser', 'mean', 'mesh', 'vocab')
)
def _decode_ensemble(
  denoiser: types.Denoiser,
  params: types.Params,
  key: Key[Array, ''],
  by_row: tuple[ensemble.Prompts, Int[Array, ' B']],
  decoder: rounds.CausalDecoder,
  *,
  mean: ensemble.Mean,
  mesh: Mesh,
  vocab: types.Vocabulary,
) -> types.Trajectory:
  def decode(denoiser, params, shared, by_row, lockstep):
    key, decoder = shared
    views, row_id = by_row
    return ensemble.decode(
      denoiser,
      params,
      streams.row_keys(key, row_id),
      views,
      decoder,
      mean=mean,
      vocab=vocab,
      lockstep=lockstep,
    )

  return sharded.run_sharded(
    mesh, decode, denoiser, params, shared=(key, decoder), by_row=by_row
  )


def own_pairs(
  ctx: context.Context, rollouts: batch.Rollouts
) -> types.RolloutBatch:
  """Every candidate after its own prompt; advantages are 0.

  Args:
    ctx: the run.
    rollouts: the candidates.
  """
  requests, rows = rollouts.requests, len(rollouts.requests.group_id)
  group = advantages.Advantages(
    np.zeros(rows, np.float32),
    np.zeros(requests.num_groups, bool),
    np.ones(rows, bool),
  )
  group, group_id, guided = process_rows.replicate(
    (group, requests.group_id, np.zeros(rows, bool)), ctx.mesh
  )
  return batch.assemble(
    requests.prompts,
    requests.maskable,
    rollouts.trajectory,
    group,
    group_id,
    guided,
    vocab=ctx.vocab,
    mesh=ctx.mesh,
  )


def all_pairs(
  ctx: context.Context,
  sets: Sets,
  rollouts: batch.Rollouts,
  source: Int[np.ndarray, ' M'],
) -> types.RolloutBatch:
  """Every candidate after every view of its set, as rows (n K + i) M + m.

  Advantages are 0. `sampler_logp` is NaN but for the view that a candidate was
  sampled from.

  Args:
    ctx: the run.
    sets: the N sets.
    rollouts: their candidates.
    source: s(m), as of `sources`.
  """
  n, i, m = _indices(sets.num_sets, sets.num_views, rollouts)
  pairs = _pairs(ctx, sets, rollouts, n * sets.num_views + i, n, m)
  other = process_rows.replicate(i != source[m], ctx.mesh)
  logp = jnp.where(other[:, None], jnp.nan, pairs.sampler_logp)
  return pairs._replace(sampler_logp=logp)


def unrelated_pairs(
  ctx: context.Context, sets: Sets, rollouts: batch.Rollouts
) -> types.RolloutBatch:
  """Every candidate after the first view of the next set, as rows n M + m."""
  n, _, m = _indices(sets.num_sets, 1, rollouts)
  other = (n + 1) % sets.num_sets * sets.num_views
  return _pairs(ctx, sets, rollouts, other, n, m)


def _indices(
  num_sets: int, num_views: int, rollouts: batch.Rollouts
) -> Int[np.ndarray, '3 B']:
  """Set, view and candidate of each pair."""
  count = len(rollouts.requests.prompt_id) // num_sets
  shape = (num_sets, num_views, count)
  return np.indices(shape, np.int32).reshape(3, -1)


def _pairs(
  ctx: context.Context,
  sets: Sets,
  rollouts: batch.Rollouts,
  view: Int[np.ndarray, ' B'],
  n: Int[np.ndarray, ' B'],
  m: Int[np.ndarray, ' B'],
) -> types.RolloutBatch:
  """Candidate m of set n after prompt `view` of the sets."""
  count = len(rollouts.requests.prompt_id) // sets.num_sets
  requests = batch.request(ctx.mesh, sets.encoded, view, group_id=n)
  trajectory = batch.take(
    rollouts.trajectory, n * count + m, len(view), ctx.mesh
  )
  return own_pairs(ctx, batch.Rollouts(requests, trajectory))
