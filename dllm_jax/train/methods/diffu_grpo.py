"""diffu-GRPO: GRPO for masked diffusion models, answer-free rollouts alone.

Deviations from the release: docs/papers.md.

References:
  Zhao et al. 2025, d1, arXiv:2504.12216.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import optax

from dllm_jax import types
from dllm_jax.decoding import fixed
from dllm_jax.ops import streams
from dllm_jax.rl import advantages
from dllm_jax.rollout import answer_free, batch, context, prompts, score
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import policy
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffuGrpo:
  """`loop.Method`: prompts to rollouts to a policy update.

  Attributes:
    ctx: the run.
    optimizer: of the trained leaves.
    reference: policy of the KL term; None where its weight is 0.
    rollout: how completions are sampled.
    reward: from verdicts to rewards.
    advantage: how rows are compared.
    policy: the loss.
  """

  ctx: context.Context
  optimizer: optax.GradientTransformation
  reference: types.Params | None
  rollout: answer_free.RolloutConfig
  reward: score.RewardConfig
  advantage: advantages.AdvantageConfig
  policy: policy.PolicyConfig
  phase: str = 'rl'

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[types.RolloutBatch, dict[str, float]]:
    """Samples a group of completions for every row, and judges them."""
    ctx, cfg = self.ctx, self.rollout
    size = cfg.group_size
    encoded = prompts.encode(
      ctx.task, ctx.tokenizer, rows, cfg.max_prompt_length
    ).repeat(size)
    row_id = np.arange(len(rows) * size, dtype=np.int32)
    trajectory = answer_free.rollout(
      ctx,
      state.params,
      streams.step_key(ctx.root, 'rollout', step),
      encoded,
      row_id,
      cfg,
      num_rows=len(row_id),
    )
    rollouts = batch.Rollouts(
      prompts=encoded,
      trajectory=trajectory,
      prompt_id=row_id // size,
      guided=np.zeros(len(row_id), bool),
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
    """mu inner steps of the clipped surrogate."""
    largest = fixed.largest_commit(
      self.rollout.schedule(), self.rollout.num_steps
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
