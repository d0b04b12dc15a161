"""From requests and rollouts to a `RolloutBatch` with its metrics.

Prompts are copied to the devices once, completions to the host once, and
rewards back once. Dims: B rows, P prompt columns, L completion columns.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from dllm_jax import types, validation
from dllm_jax.rl import advantages
from dllm_jax.rollout import context, prompts, score
from dllm_jax.runtime import process_rows, sharding
from dllm_jax.tasks import task as task_lib

Rows = TypeVar('Rows', prompts.RowPrompts, types.Trajectory)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
  """Size of a batch of rollouts, and how it is decoded.

  Attributes:
    num_prompts: prompts per batch.
    group_size: G, completions per prompt.
    max_prompt_length: largest number of prompt tokens; a batch is as wide as
      its longest prompt.
    decoder: samples the completions.
  """

  num_prompts: int
  group_size: int
  max_prompt_length: int
  decoder: types.Decoder

  def __post_init__(self):
    validation.positive(self, 'num_prompts', 'group_size', 'max_prompt_length')


class Requests(NamedTuple):
  """The completions to sample.

  Attributes:
    prompts: one prompt per row, on the mesh.
    maskable: True on prompt tokens that an estimator may mask, on the mesh.
    prompt_id: index of the prompt among the task's rows, on the host.
    group_id: group within which rewards are compared, numbered from 0 without
      gaps, on the host.
  """

  prompts: prompts.RowPrompts
  maskable: Bool[Array, 'B P']
  prompt_id: Int[np.ndarray, ' B']
  group_id: Int[np.ndarray, ' B']

  @property
  def num_groups(self) -> int:
    return int(self.group_id.max()) + 1


class Rollouts(NamedTuple):
  """Requests with their completions.

  Attributes:
    requests: prompts and groups.
    trajectory: completions, on the mesh.
    guided: True on answer-guided rows, on the host; None if there are none.
  """

  requests: Requests
  trajectory: types.Trajectory
  guided: Bool[np.ndarray, ' B'] | None = None


class Judged(NamedTuple):
  """Rollouts with their rewards.

  Attributes:
    batch: batch for the update, on the mesh.
    samples: completions of this process, on the host.
    correct: whether each row is right, where the verifier could say; NaN
      elsewhere. Of the whole batch, on the host.
    metrics: means over the whole batch, some of them on the devices.
  """

  batch: types.RolloutBatch
  samples: score.Samples
  correct: Float[np.ndarray, ' B']
  metrics: dict[str, Any]


class _Measured(NamedTuple):
  """Values that the metrics are computed from, one per row.

  Attributes:
    scored: rewards and verdicts.
    length: completion tokens up to and including the first stop token.
    num_steps: denoising steps.
    num_committed: tokens of `length` that a denoising step committed.
    confidence: sum of the probabilities of those tokens.
  """

  scored: score.Scored
  length: Int[np.ndarray, ' B']
  num_steps: Int[np.ndarray, ' B']
  num_committed: Int[np.ndarray, ' B']
  confidence: Float[np.ndarray, ' B']


def request_groups(
  ctx: context.Context, rows: Sequence[task_lib.Row], group_size: int
) -> Requests:
  """G completions of every row; row i of the task is prompt i and group i."""
  prompt_id = np.repeat(np.arange(len(rows), dtype=np.int32), group_size)
  return request(ctx.mesh, ctx.encode(rows), prompt_id, group_id=prompt_id)


def request(
  mesh: Mesh,
  encoded: prompts.Prompts,
  prompt_id: Int[np.ndarray, ' B'],
  *,
  group_id: Int[np.ndarray, ' B'],
) -> Requests:
  """One completion of prompt `prompt_id` for each row.

  Args:
    mesh: device mesh; the rows are sharded over it.
    encoded: the N prompts, on the host.
    prompt_id: the prompt of each row, in [0, N).
    group_id: the group of each row.
  """
  own = process_rows.share(mesh, len(prompt_id))
  mine = encoded.take(prompt_id[own])
  *placed, maskable = process_rows.place(
    (mine.ids, mine.mask, own, mine.maskable), mesh, len(prompt_id)
  )
  return Requests(
    prompts=prompts.RowPrompts(*placed),
    maskable=maskable,
    prompt_id=prompt_id,
    group_id=group_id,
  )


def take(
  rows: Rows, index: Int[np.ndarray, ' b'], num_rows: int, mesh: Mesh
) -> Rows:
  """Selects rows, and repeats the last one up to `num_rows`.

  Args:
    rows: prompts or completions on the mesh.
    index: rows to select, some of them several times.
    num_rows: number of rows of the result, which is sharded over the mesh.
    mesh: device mesh.
  """
  index = np.pad(index, (0, num_rows - len(index)), mode='edge')
  return _take(sharding.rows(mesh))((rows,), index)


def merge(
  first: types.Trajectory,
  second: types.Trajectory,
  is_second: Bool[np.ndarray, ' B'],
  mesh: Mesh,
  *,
  is_first_whole: bool = False,
) -> types.Trajectory:
  """Interleaves the rows of two trajectories, in order, by `is_second`.

  Args:
    first: its rows, those where `is_second` is False.
    second: its rows, those where it is True.
    is_second: which trajectory each row is from.
    mesh: device mesh.
    is_first_whole: whether `first` has the other rows too, which are left out.
  """
  of_first = np.cumsum(~is_second) - 1
  if is_first_whole:
    of_first = np.arange(len(is_second))
  of_second = np.cumsum(is_second) - 1 + first.num_steps.shape[0]
  index = np.where(is_second, of_second, of_first)
  return _take(sharding.rows(mesh))((first, second), index)


@functools.cache
def _take(rows: jax.sharding.NamedSharding):
  return jax.jit(
    lambda parts, index: jax.tree.map(
      lambda *x: jnp.concatenate(x)[index], *parts
    ),
    out_shardings=rows,
  )


def judge(
  ctx: context.Context,
  rows: Sequence[task_lib.Row],
  rollouts: Rollouts,
  *,
  reward: score.Reward,
  advantage: advantages.AdvantageConfig,
) -> Judged:
  """Rewards the completions, and compares them within their groups.

  Each process rewards its own rows. Rewards are gathered, so that every process
  has the baselines and metrics of the whole batch. Rows whose reward is not
  finite are excluded from their group's baseline and from the loss.

  Args:
    ctx: the run.
    rows: the task's rows, indexed by `prompt_id`.
    rollouts: completions of those prompts.
    reward: reward function, for example a task's verifier.
    advantage: baseline and scale of the group advantages.
  """
  requests, num_rows = rollouts.requests, len(rollouts.requests.prompt_id)
  own = process_rows.share(ctx.mesh, num_rows)
  samples = score.Samples(
    rows=[rows[i] for i in requests.prompt_id[own]],
    trajectory=process_rows.fetch(rollouts.trajectory),
    group_id=requests.group_id[own],
  )
  measured = process_rows.gather(
    _measure(samples, reward(samples), ctx.vocab), own, num_rows
  )
  guided = rollouts.guided
  if guided is None:
    guided = np.zeros(num_rows, bool)
  scores, group_id, guided_rows = process_rows.replicate(
    (measured.scored.reward, requests.group_id, guided), ctx.mesh
  )
  on_all = sharding.replicated(ctx.mesh)
  group = _compare(advantage, requests.num_groups, on_all)(
    scores, group_id, guided_rows
  )
  made = assemble(
    requests.prompts,
    requests.maskable,
    rollouts.trajectory,
    group,
    group_id,
    guided_rows,
    vocab=ctx.vocab,
    mesh=ctx.mesh,
  )
  metrics = rollout_metrics(measured, guided, made.tokens.shape[1])
  metrics['group/zero_variance'] = jnp.mean(group.tied)
  metrics['reward/not_finite'] = jnp.mean(~group.counted)
  correct = measured.scored.right()
  metrics['group/failed'] = score.finite_mean(
    failed(correct, requests.group_id, ~guided)
  )
  return Judged(made, samples, correct, metrics)


def verdicts(
  ctx: context.Context,
  rows: Sequence[task_lib.Row],
  rollouts: Rollouts,
  cfg: score.RewardConfig,
) -> Float[np.ndarray, ' B']:
  """Whether each row is right, of the whole batch; NaN without a verdict."""
  prompt_id = rollouts.requests.prompt_id
  own = process_rows.share(ctx.mesh, len(prompt_id))
  tokens = process_rows.fetch(rollouts.trajectory.tokens)
  scored = score.score(ctx, [rows[i] for i in prompt_id[own]], tokens, cfg)
  return process_rows.gather(scored.right(), own, len(prompt_id))


def failed(
  correct: Float[np.ndarray, ' B'],
  group_id: Int[np.ndarray, ' B'],
  counted: Bool[np.ndarray, ' B'],
) -> Float[np.ndarray, ' N']:
  """1 for groups without a right one among their counted rows, else 0.

  Rows without a verdict (NaN) do not count; NaN for a group without a row that
  does.
  """
  counted = counted & np.isfinite(correct)
  num_rows = np.bincount(group_id, weights=counted)
  num_right = np.bincount(group_id, weights=counted & (correct == 1))
  return np.where(num_rows, num_right == 0, np.nan)


@functools.cache
def _compare(cfg: advantages.AdvantageConfig, num_groups: int, on_all):
  """`group_advantages`, replicated on every device.

  Otherwise the compiler may split its sums, and the result would depend on the
  mesh in the last bits.
  """
  return jax.jit(
    functools.partial(
      advantages.group_advantages, num_groups=num_groups, cfg=cfg
    ),
    out_shardings=on_all,
  )


@functools.partial(jax.jit, static_argnames=('vocab', 'mesh'))
def assemble(
  prompt: prompts.RowPrompts,
  maskable: Bool[Array, 'B P'],
  trajectory: types.Trajectory,
  group: advantages.Advantages,
  group_id: Int[Array, ' B'],
  guided: Bool[Array, ' B'],
  *,
  vocab: types.Vocabulary,
  mesh: Mesh,
) -> types.RolloutBatch:
  """The batch, with rows sharded over the mesh."""
  advantage = jnp.broadcast_to(
    group.advantage[:, None], trajectory.tokens.shape
  )
  made = types.RolloutBatch(
    prompt_ids=prompt.ids,
    prompt_mask=prompt.mask,
    maskable=maskable,
    tokens=trajectory.tokens,
    sampler_logp=trajectory.logp,
    commit_step=trajectory.commit_step,
    num_steps=trajectory.num_steps,
    completion_mask=vocab.through_stop(trajectory.tokens)
    & group.counted[:, None],
    advantage=advantage,
    guided=guided,
    group_id=group_id,
    row_id=prompt.row_id,
  )
  rows = sharding.rows(mesh)
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows), made)


def _measure(
  samples: score.Samples, scored: score.Scored, vocab: types.Vocabulary
) -> _Measured:
  trajectory = samples.trajectory
  counted = score.completion_mask(trajectory.tokens, vocab.stop_tokens)
  # Tokens after EOS are padding, which would inflate tokens per step.
  committed = counted & (trajectory.commit_step < trajectory.num_steps[:, None])
  return _Measured(
    scored=scored.arrays(),
    length=counted.sum(axis=1),
    num_steps=trajectory.num_steps,
    num_committed=committed.sum(axis=1),
    confidence=np.sum(np.exp(trajectory.logp), axis=1, where=committed),
  )


def rollout_metrics(
  measured: _Measured, guided: Bool[np.ndarray, ' B'], gen_length: int
) -> dict[str, Any]:
  """Means over all rows, and with `free/` and `guided/` over one kind."""
  scored, length = measured.scored, measured.length
  columns = {
    'reward/mean': scored.reward,
    'reward/correct': scored.right(),
    'rollout/length': length,
    'rollout/num_steps': measured.num_steps,
    'rollout/tokens_per_step': measured.num_committed
    / np.maximum(measured.num_steps, 1),
    'rollout/has_eos': length < gen_length,
    'rollout/leaked_gold': scored.leaked,
  }
  columns |= {f'terms/{k}': v for k, v in scored.terms.items()}
  columns |= {f'task/{k}': v for k, v in scored.metrics.items()}
  metrics = {name: score.finite_mean(v) for name, v in columns.items()}
  metrics['rollout/guided_fraction'] = float(guided.mean())
  metrics['rollout/tokens'] = float(length.sum())
  metrics['rollout/confidence'] = float(
    np.sum(measured.confidence, dtype=np.float64) / measured.num_committed.sum()
  )
  if guided.any():
    for kind, rows in (
      ('free', ~guided),
      ('guided', guided),
    ):
      if rows.any():
        metrics |= {
          f'{kind}/{name.split("/")[1]}': score.finite_mean(columns[name][rows])
          for name in (
            'reward/mean',
            'reward/correct',
            'rollout/length',
            'rollout/leaked_gold',
          )
        }
  return metrics
