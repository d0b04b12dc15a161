"""diffu-GRPO: GRPO for masked diffusion models, answer-free rollouts alone.

Deviations from the release: docs/papers.md.

References:
  Zhao et al. 2025, d1, arXiv:2504.12216.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import optax

from dllm_jax import types
from dllm_jax.ops import streams
from dllm_jax.rl import advantages
from dllm_jax.rollout import answer_free, batch, context, score
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
    rollouts = answer_free.groups(
      self.ctx, state.params, rows, step, self.rollout
    )
    return batch.judge(
      self.ctx, rows, rollouts, reward=self.reward, advantage=self.advantage
    )

  def update(
    self,
    state: state_lib.TrainState,
    rollouts: types.RolloutBatch,
    step: int,
  ) -> tuple[state_lib.TrainState, list[dict[str, Any]]]:
    """mu inner steps of the clipped surrogate."""
    return policy.update(
      self.ctx,
      state,
      self.reference,
      rollouts,
      streams.step_key(self.ctx.root, 'estimator', step),
      self.optimizer,
      estimator=self.policy.make_estimator(self.rollout.largest_commit()),
      cfg=self.policy,
    )
