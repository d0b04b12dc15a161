"""diffu-GRPO: GRPO for masked diffusion models, on answer-free rollouts.

Deviations from the release: docs/papers.md.

References:
  Zhao et al. 2025, d1, arXiv:2504.12216.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import optax

from dllm_jax import types
from dllm_jax.rollout import answer_free, batch, context, score
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import policy, policy_config
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffuGrpo:
  """`loop.Method` of diffu-GRPO.

  Attributes:
    cfg: config group `method`.
    ctx: the run: task, tokenizer, model and mesh.
    rollout: config group `rollout`: size of a batch, and the decoder.
    optimizer: gradient transformation applied to the trained leaves.
    reference: parameters of the reference policy in the KL term.
  """

  Config = policy_config.GroupConfig
  phase = 'rl'

  cfg: policy_config.GroupConfig
  ctx: context.Context
  rollout: batch.RolloutConfig
  optimizer: optax.GradientTransformation
  reference: types.Params

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

  def update(
    self, state: state_lib.TrainState, rollouts: types.RolloutBatch, step: int
  ) -> tuple[state_lib.TrainState, list[dict[str, Any]]]:
    """mu optimizer steps on the clipped surrogate."""
    return policy.update(
      self.ctx,
      state,
      rollouts,
      step,
      optimizer=self.optimizer,
      reference=self.reference,
      max_commits=self.rollout.decoder.largest_commit(),
      cfg=self.cfg.policy,
    )
