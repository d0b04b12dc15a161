"""TA-GRPO-d: gated rollouts, and advantages shaped by the trajectory.

The gate commits the tokens that the model is sure of, which saves steps. The
text after every denoising step is scored, and the scores of a trajectory shape
the advantages of its tokens. The loss is diffu-GRPO's. Deviations:
docs/papers.md.

References:
  Kim and Kang 2026, TA-GRPO-d, ACL (2026.acl-long.1723).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dllm_jax import types
from dllm_jax.rl import trajectory_credit
from dllm_jax.rollout import answer_free, batch, score, score_steps
from dllm_jax.runtime import process_rows, processes
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import policy, policy_config
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaGrpoDConfig(policy_config.GroupConfig):
  """Config group `method` of TA-GRPO-d.

  Attributes:
    credit: how a trajectory shapes the advantages of its tokens.
  """

  credit: trajectory_credit.CreditConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaGrpoD(policy.PolicyMethod):
  """`loop.Method` of TA-GRPO-d."""

  Config = TaGrpoDConfig

  cfg: TaGrpoDConfig

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[types.RolloutBatch, dict[str, Any]]:
    """Samples and rewards a group per row, and shapes the advantages."""
    ctx, credit = self.ctx, self.cfg.credit
    rollouts = answer_free.groups(ctx, state.params, rows, step, self.rollout)
    judged = batch.judge(
      ctx,
      rows,
      rollouts,
      reward=score.task_reward(ctx, self.cfg.reward),
      advantage=self.cfg.advantage,
    )
    metrics = judged.metrics
    if credit.delta == 0:
      return judged.batch, metrics
    total = final = np.zeros(len(judged.samples.rows), np.float32)
    if credit.wants_steps:
      steps = score_steps.score_steps(
        ctx, judged.samples, self.cfg.reward, max_scores=credit.max_step_scores
      )
      total, final = steps.total, steps.final
      counts = processes.all_gather(
        np.array([[steps.num_texts, steps.num_scored]], np.int32)
      )
      texts, verdicts = np.sum(np.concatenate(counts), axis=0)
      metrics['credit/texts'] = float(texts)
      # A group that spans processes has its equal texts judged in each.
      metrics['credit/verdicts'] = float(verdicts)
    num_rows = len(rollouts.requests.prompt_id)
    own = process_rows.share(ctx.mesh, num_rows)
    shaped, shaping = _shape(
      judged.batch,
      *process_rows.gather((total, final), own, num_rows),
      num_groups=rollouts.requests.num_groups,
      cfg=credit,
    )
    return judged.batch._replace(advantage=shaped), metrics | shaping


@functools.partial(jax.jit, static_argnames=('num_groups', 'cfg'))
def _shape(
  rollouts: types.RolloutBatch,
  total: Float[Array, ' B'],
  final: Float[Array, ' B'],
  *,
  num_groups: int,
  cfg: trajectory_credit.CreditConfig,
) -> tuple[Float[Array, 'B L'], dict[str, Float[Array, '']]]:
  """Token advantages of a rewarded batch, and metrics of the shaping."""
  auc = trajectory_credit.group_auc(
    total, final, rollouts.num_steps, rollouts.group_id, num_groups=num_groups
  )
  z = trajectory_credit.group_z(auc, rollouts.group_id, num_groups=num_groups)
  weight = trajectory_credit.unmask_weight(rollouts.commit_step)
  mask = rollouts.completion_mask
  flat = rollouts.advantage[:, 0]
  shaped = trajectory_credit.token_advantages(
    flat, z, weight, mask, rollouts.group_id, num_groups=num_groups, cfg=cfg
  )
  count = jnp.maximum(jnp.sum(mask), 1)
  return shaped, {
    'credit/auc': jnp.mean(auc),
    'credit/z': jnp.mean(z),
    'credit/z_abs': jnp.mean(jnp.abs(z)),
    'credit/flipped': trajectory_credit.flipped_fraction(shaped, flat, mask),
    'credit/push': jnp.sum(shaped) / count,
  }
