"""Trajectories and verdicts to a `RolloutBatch`, with the metrics of a rollout.

Dims: B rows, P prompt columns, L completion columns, N prompts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from dllm_jax import types
from dllm_jax.rl import advantages
from dllm_jax.rollout import context, prompts, score
from dllm_jax.runtime import process_rows
from dllm_jax.tasks import task as task_lib


class Rollouts(NamedTuple):
  """What the sampler made of a batch of prompts: this process's rows.

  Attributes:
    prompts: one prompt a row.
    trajectory: of numpy arrays.
    prompt_id: group of each row.
    guided: True on answer-guided rows.
    row_id: number of each row in the batch.
    num_rows: of the batch, in all processes together.
  """

  prompts: prompts.Prompts
  trajectory: types.Trajectory
  prompt_id: Int[np.ndarray, ' B']
  guided: Bool[np.ndarray, ' B']
  row_id: Int[np.ndarray, ' B']
  num_rows: int


class _Measured(NamedTuple):
  """What verdicts and metrics are made of, one entry a row."""

  scored: score.Scored
  prompt_id: Int[np.ndarray, ' B']
  guided: Bool[np.ndarray, ' B']
  length: Int[np.ndarray, ' B']
  num_steps: Int[np.ndarray, ' B']
  num_committed: Int[np.ndarray, ' B']
  confidence: Float[np.ndarray, ' B']


def interleave(
  first: types.Trajectory,
  second: types.Trajectory,
  is_second: Bool[np.ndarray, ' B'],
) -> types.Trajectory:
  """Rows of two trajectories, each in its order, put at their places."""

  def place(a, b):
    out = np.empty((len(is_second), *a.shape[1:]), a.dtype)
    out[~is_second], out[is_second] = a, b
    return out

  return jax.tree.map(place, first, second)


def judge(
  ctx: context.Context,
  rows: Sequence[task_lib.Row],
  rollouts: Rollouts,
  *,
  reward: score.RewardConfig,
  advantage: advantages.AdvantageConfig,
) -> tuple[types.RolloutBatch, dict[str, float]]:
  """Verifies the completions; the batch on the mesh, and metrics to log.

  Each process verifies its own rows; verdicts are gathered, so that baselines
  and metrics are of the whole batch, and the same everywhere.

  A row whose reward is not finite is masked out: it counts neither in its
  group's baseline nor in the loss.

  Args:
    ctx: the run.
    rows: the task's row of each prompt id.
    rollouts: of those prompts.
    reward: from verdicts to rewards.
    advantage: from rewards to advantages.
  """
  trajectory = rollouts.trajectory
  scored = score.score(
    ctx.task,
    ctx.tokenizer,
    [rows[i] for i in rollouts.prompt_id],
    trajectory.tokens,
    reward,
    prefill=ctx.prefill,
  )
  through_eos = score.completion_mask(trajectory.tokens, ctx.vocab.stop_tokens)
  own, num_rows = rollouts.row_id, rollouts.num_rows
  measured = process_rows.gather(
    _measure(rollouts, scored, through_eos), own, num_rows
  )
  group = jax.device_get(
    _advantages(
      measured.scored.reward,
      measured.prompt_id,
      measured.guided,
      num_prompts=len(rows),
      cfg=advantage,
    )
  )
  counted = through_eos & group.counted[own, None]
  batch = types.RolloutBatch(
    prompt_ids=rollouts.prompts.ids,
    prompt_mask=rollouts.prompts.mask,
    maskable=rollouts.prompts.maskable,
    tokens=trajectory.tokens,
    sampler_logp=trajectory.logp,
    commit_step=trajectory.commit_step,
    num_steps=trajectory.num_steps,
    completion_mask=counted,
    advantage=np.repeat(
      group.advantage[own, None], trajectory.tokens.shape[1], axis=1
    ),
    guided=rollouts.guided,
    row_id=rollouts.row_id,
  )
  metrics = rollout_metrics(measured, trajectory.tokens.shape[1])
  metrics['group/zero_variance'] = float(np.mean(group.tied))
  metrics['reward/not_finite'] = float(np.mean(~group.counted))
  return process_rows.place(batch, ctx.mesh, num_rows), metrics


_advantages = jax.jit(
  advantages.group_advantages, static_argnames=('num_prompts', 'cfg')
)


def _measure(
  rollouts: Rollouts,
  scored: score.Scored,
  completion_mask: Bool[np.ndarray, 'B L'],
) -> _Measured:
  trajectory = rollouts.trajectory
  # What follows EOS is filler: committing it says nothing of the model.
  committed = completion_mask & (
    trajectory.commit_step < trajectory.num_steps[:, None]
  )
  return _Measured(
    scored=scored._replace(texts=[], reasons=[]),
    prompt_id=rollouts.prompt_id,
    guided=rollouts.guided,
    length=completion_mask.sum(axis=1),
    num_steps=trajectory.num_steps,
    num_committed=committed.sum(axis=1),
    confidence=np.sum(np.exp(trajectory.logp), axis=1, where=committed),
  )


def rollout_metrics(measured: _Measured, gen_length: int) -> dict[str, float]:
  """Means over the rows; `free/` and `guided/` over those of one kind."""
  scored, length = measured.scored, measured.length
  columns = {
    'reward/mean': scored.reward,
    'reward/correct': np.where(scored.judged, scored.correct, np.nan),
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
  metrics['rollout/guided_fraction'] = float(measured.guided.mean())
  metrics['rollout/tokens'] = float(length.sum())
  metrics['rollout/confidence'] = float(
    np.sum(measured.confidence, dtype=np.float64) / measured.num_committed.sum()
  )
  if measured.guided.any():
    for kind, rows in (
      ('free', ~measured.guided),
      ('guided', measured.guided),
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
