"""AG-GRPO: answer-free and answer-guided rollouts under one group baseline.

The first G_AF rows of a group are
answer-free, the others reason towards the gold answer and re-predict it; the
loss is diffu-GRPO's, and sees the prompt alone.

References:
  Kim et al. 2026, AG-GRPO, ACL (2026.acl-long.1724).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Int, Key

from dllm_jax import types
from dllm_jax.ops import schedules, streams
from dllm_jax.rl import advantages
from dllm_jax.rollout import (
  answer_free,
  answer_guided,
  batch,
  context,
  prompts,
  score,
)
from dllm_jax.runtime import process_rows
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import policy
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgGrpo:
  """`loop.Method`: prompts and gold answers to a policy update.

  Attributes:
    ctx: the run.
    optimizer: of the trained leaves.
    reference: policy of the KL term; None where its weight is 0.
    rollout: how answer-free completions are sampled; G is of both kinds.
    guided: the answer-guided part of a group.
    reward: from verdicts to rewards.
    advantage: how rows are compared.
    policy: the loss.
  """

  ctx: context.Context
  optimizer: optax.GradientTransformation
  reference: types.Params | None
  rollout: answer_free.RolloutConfig
  guided: answer_guided.GuidedConfig
  reward: score.RewardConfig
  advantage: advantages.AdvantageConfig
  policy: policy.PolicyConfig
  phase: str = 'rl'

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[types.RolloutBatch, dict[str, float]]:
    """Samples both kinds of rows of every group, and judges them together."""
    ctx, size = self.ctx, self.rollout.group_size
    anchors = answer_guided.anchors(ctx.task, ctx.tokenizer, rows, self.guided)
    row_id = np.arange(len(rows) * size, dtype=np.int32)
    last = row_id % size >= size - self.guided.num_guided
    has_anchor = np.array([a is not None for a in anchors])
    guided = last & has_anchor[row_id // size]
    key = streams.step_key(ctx.root, 'rollout', step)

    # The two kinds are sampled apart and put back at their rows. Rows are
    # padded to one of two shapes: with no prompt fallen back, and with any.
    num_guided = len(rows) * self.guided.num_guided
    none_fell_back = guided.sum() == num_guided
    num_free = len(row_id) - (num_guided if none_fell_back else 0)
    free = lambda: self._free(state, rows, key, row_id[~guided], num_free)
    towards = lambda: self._guided(
      state, rows, anchors, key, row_id[guided], num_guided
    )
    if guided.all():
      trajectory = towards()
    elif guided.any():
      trajectory = batch.interleave(free(), towards(), guided)
    else:
      trajectory = free()
    own = process_rows.share(ctx.mesh, len(row_id))
    rollouts = batch.Rollouts(
      prompts=ctx.encode_at(rows, own // size, self.rollout.max_prompt_length),
      trajectory=jax.tree.map(lambda x: x[own], trajectory),
      prompt_id=own // size,
      guided=guided[own],
      row_id=own,
      num_rows=len(row_id),
    )
    return batch.judge(
      ctx, rows, rollouts, reward=self.reward, advantage=self.advantage
    )

  def _share(
    self,
    rows: Sequence[task_lib.Row],
    row_id: Int[np.ndarray, ' B'],
    num_rows: int,
  ) -> tuple[Int[np.ndarray, ' b'], Int[np.ndarray, ' b'], prompts.Prompts]:
    """This process's places in `row_id`: they, their prompt ids and prompts."""
    own = process_rows.share(self.ctx.mesh, len(row_id), num_rows)
    prompt_id = row_id[own] // self.rollout.group_size
    length = self.rollout.max_prompt_length
    return own, prompt_id, self.ctx.encode_at(rows, prompt_id, length)

  def _free(
    self,
    state: state_lib.TrainState,
    rows: Sequence[task_lib.Row],
    key: Key[Array, ''],
    row_id: Int[np.ndarray, ' B'],
    num_rows: int,
  ) -> types.Trajectory:
    """Answer-free completions of the given rows, all of them everywhere."""
    ctx, cfg = self.ctx, self.rollout
    own, _, encoded = self._share(rows, row_id, num_rows)
    sampled = answer_free.rollout(
      ctx,
      state.params,
      key,
      encoded,
      row_id[own],
      cfg,
      num_rows=num_rows,
    )
    return process_rows.gather(sampled, own, len(row_id))

  def _guided(
    self,
    state: state_lib.TrainState,
    rows: Sequence[task_lib.Row],
    anchors: Sequence[Sequence[int] | None],
    key: Key[Array, ''],
    row_id: Int[np.ndarray, ' B'],
    num_rows: int,
  ) -> types.Trajectory:
    """Answer-guided completions of the given rows, all of them everywhere."""
    ctx, cfg = self.ctx, self.rollout
    own, prompt_id, encoded = self._share(rows, row_id, num_rows)
    sampled = answer_guided.rollout(
      ctx,
      state.params,
      key,
      encoded,
      [anchors[i] for i in prompt_id],
      row_id[own],
      temperature=cfg.temperature,
      gen_length=cfg.gen_length,
      order=cfg.order,
      num_rows=num_rows,
      cfg=self.guided,
      cfg_scale=cfg.cfg_scale,
    )
    return process_rows.gather(sampled, own, len(row_id))

  def update(
    self,
    state: state_lib.TrainState,
    rollouts: types.RolloutBatch,
    step: int,
  ) -> tuple[state_lib.TrainState, list[dict[str, Any]]]:
    """mu inner steps of the clipped surrogate, on both kinds of rows."""
    cfg, guided = self.rollout, self.guided
    largest = cfg.largest_commit()
    if guided.num_guided:
      answer_steps = guided.steps_of_answer(cfg.gen_length)
      largest = max(
        largest,
        schedules.largest_quota(cfg.gen_length, guided.num_steps),
        schedules.largest_quota(guided.max_anchor, answer_steps),
      )
    return policy.update(
      self.ctx,
      state,
      self.reference,
      rollouts,
      streams.step_key(self.ctx.root, 'estimator', step),
      self.optimizer,
      estimator=self.policy.make_estimator(largest),
      cfg=self.policy,
    )
