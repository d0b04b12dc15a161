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

import numpy as np
import optax

from dllm_jax import types
from dllm_jax.ops import schedules, streams
from dllm_jax.rl import advantages
from dllm_jax.rollout import (
  answer_free,
  answer_guided,
  batch,
  context,
  score,
)
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
    encoded = ctx.encode(rows, self.rollout.max_prompt_length).repeat(size)
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
    free = answer_free.rollout(
      ctx,
      state.params,
      key,
      encoded.take(~guided),
      row_id[~guided],
      self.rollout,
      num_rows=num_free,
    )
    trajectory = free
    if guided.any():
      towards = answer_guided.rollout(
        ctx,
        state.params,
        key,
        encoded.take(guided),
        [anchors[i // size] for i in row_id[guided]],
        row_id[guided],
        temperature=self.rollout.temperature,
        gen_length=self.rollout.gen_length,
        order=self.rollout.order,
        num_rows=num_guided,
        cfg=self.guided,
        cfg_scale=self.rollout.cfg_scale,
      )
      trajectory = batch.interleave(free, towards, guided)
    rollouts = batch.Rollouts(
      prompts=encoded,
      trajectory=trajectory,
      prompt_id=row_id // size,
      guided=guided,
      row_id=row_id,
    )
    return batch.judge(
      ctx, rows, rollouts, reward=self.reward, advantage=self.advantage
    )

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
