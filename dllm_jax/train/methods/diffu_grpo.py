"""diffu-GRPO: GRPO for masked diffusion models, on answer-free rollouts.

Deviations from the release: docs/papers.md.

References:
  Zhao et al. 2025, d1, arXiv:2504.12216.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dllm_jax import types
from dllm_jax.rollout import answer_free, batch, score
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import policy, policy_config
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffuGrpo(policy.PolicyMethod):
  """`loop.Method` of diffu-GRPO."""

  Config = policy_config.GroupConfig

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[types.RolloutBatch, dict[str, Any]]:
    """Samples a group of completions for every row, and rewards them."""
    rollouts = answer_free.groups(
      self.ctx, state.params, rows, step, self.rollout
    )
    judged = batch.judge(
      self.ctx,
      rows,
      rollouts,
      reward=score.task_reward(self.ctx, self.cfg.reward),
      advantage=self.cfg.advantage,
    )
    return judged.batch, judged.metrics
