"""TA-GRPO-d: gated rollouts, advantages shaped by the denoising path.

The gate commits what the model is sure of, so that fewer steps suffice where it
is; a row's path, scored along the way, shapes the advantages of its tokens. The
loss is diffu-GRPO's. Deviations: docs/papers.md.

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
import optax
from jaxtyping import Array, Float, Int

from dllm_jax import types
from dllm_jax.ops import streams
from dllm_jax.rl import advantages, trajectory_credit
from dllm_jax.rollout import answer_free, batch, context, score, score_steps
from dllm_jax.runtime import process_rows, processes
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import policy
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaGrpoD:
  """`loop.Method`: prompts to gated rollouts to a policy update.

  Attributes:
    ctx: the run.
    optimizer: of the trained leaves.
    reference: policy of the KL term; None where its weight is 0.
    rollout: how completions are sampled.
    reward: from verdicts to rewards, of finished and of partial texts.
    advantage: how rows are compared.
    credit: how a row's path shapes its tokens' advantages.
    policy: the loss.
  """

  ctx: context.Context
  optimizer: optax.GradientTransformation
  reference: types.Params | None
  rollout: answer_free.RolloutConfig
  reward: score.RewardConfig
  advantage: advantages.AdvantageConfig
  credit: trajectory_credit.CreditConfig
  policy: policy.PolicyConfig
  phase: str = 'rl'

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[types.RolloutBatch, dict[str, float]]:
    """Samples a group of completions for every row, judges and shapes them."""
    rollouts = answer_free.groups(
      self.ctx, state.params, rows, step, self.rollout
    )
    made, metrics = batch.judge(
      self.ctx, rows, rollouts, reward=self.reward, advantage=self.advantage
    )
    if self.credit.delta == 0:
      return made, metrics
    num_rows, own = rollouts.num_rows, rollouts.row_id
    total = final = np.zeros(len(own), np.float32)
    if self.credit.wants_steps:
      steps = score_steps.score_steps(
        self.ctx.task,
        self.ctx.tokenizer,
        [rows[i] for i in rollouts.prompt_id],
        rollouts.trajectory,
        rollouts.prompt_id,
        self.reward,
        max_scores=self.credit.max_step_scores,
        prefill=self.ctx.prefill,
      )
      total, final = steps.total, steps.final
      counts = processes.all_gather(
        np.array([[steps.num_texts, steps.num_scored]], np.int32)
      )
      texts, verdicts = np.sum(np.concatenate(counts), axis=0)
      metrics['credit/texts'] = float(texts)
      # Equal texts of a group that lies over processes are judged in each.
      metrics['credit/verdicts'] = float(verdicts)
    shaped, found = _shape(
      made,
      *process_rows.gather((total, final, rollouts.prompt_id), own, num_rows),
      num_groups=len(rows),
      cfg=self.credit,
    )
    return made._replace(advantage=shaped), metrics | {
      name: float(value) for name, value in jax.device_get(found).items()
    }

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


@functools.partial(jax.jit, static_argnames=('num_groups', 'cfg'))
def _shape(
  made: types.RolloutBatch,
  total: Float[Array, ' B'],
  final: Float[Array, ' B'],
  prompt_id: Int[Array, ' B'],
  *,
  num_groups: int,
  cfg: trajectory_credit.CreditConfig,
) -> tuple[Float[Array, 'B L'], dict[str, Float[Array, '']]]:
  """Token advantages of a judged batch, and what they were made of."""
  auc = trajectory_credit.group_auc(
    total, final, made.num_steps, prompt_id, num_groups=num_groups
  )
  z = trajectory_credit.group_z(auc, prompt_id, num_groups=num_groups)
  weight = trajectory_credit.unmask_weight(made.commit_step)
  mask = made.completion_mask
  flat = made.advantage[:, 0]
  shaped = trajectory_credit.token_advantages(
    flat, z, weight, mask, prompt_id, num_groups=num_groups, cfg=cfg
  )
  count = jnp.maximum(jnp.sum(mask), 1)
  return shaped, {
    'credit/auc': jnp.mean(auc),
    'credit/z': jnp.mean(z),
    'credit/z_abs': jnp.mean(jnp.abs(z)),
    'credit/flipped': trajectory_credit.flipped_fraction(shaped, flat, mask),
    'credit/push': jnp.sum(shaped) / count,
  }
