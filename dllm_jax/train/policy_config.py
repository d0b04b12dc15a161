"""Config groups of the GRPO methods, and their checks."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from dllm_jax import errors, types
from dllm_jax.rl import advantages, logprobs, next_token
from dllm_jax.rollout import batch, context, score
from dllm_jax.runtime import sharding
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import grad

EstimatorName = Literal['one_step', 'trajectory', 'next_token']
ESTIMATORS = get_args(EstimatorName)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
  """Loss and estimator of a policy update.

  Attributes:
    num_inner: mu, optimizer steps per batch.
    num_micro: micro-batches per optimizer step.
    eps: clipping radius of the ratio.
    beta: weight of the KL term; 0 disables it and the reference policy.
    guided_beta: `beta` on answer-guided rows; None uses `beta`.
    max_kl_difference: clamp on the log-probability difference in the k3
      estimate (nats); None is unbounded.
    estimator: 'one_step' or 'trajectory' (`rl.logprobs`) of masked diffusion
      models, 'next_token' (`rl.next_token`) of causal ones.
    mask_prob: probability that 'one_step' masks a prompt token.
    num_views: denoising steps that 'trajectory' samples per row.
    max_sampler_ratio: bound of the weights that correct for a sampler that is
      not the policy: through a cache, or with an anchor
      (`losses.sampler_weight`); None: no weights.
  """

  num_inner: int
  num_micro: int
  eps: float
  beta: float
  guided_beta: float | None
  max_kl_difference: float | None
  estimator: EstimatorName
  mask_prob: float
  num_views: int
  max_sampler_ratio: float | None = None

  def __post_init__(self):
    if self.num_inner < 1 or self.num_micro < 1:
      raise ValueError(
        f'num_inner {self.num_inner} and num_micro {self.num_micro} must be '
        'positive'
      )
    if self.eps <= 0 or self.beta < 0 or (self.guided_beta or 0) < 0:
      raise ValueError(
        f'eps {self.eps} must be positive, beta {self.beta} and guided_beta '
        f'{self.guided_beta} not negative'
      )
    if self.max_sampler_ratio is not None:
      if not 0 < self.max_sampler_ratio < float('inf'):
        raise ValueError(
          f'max_sampler_ratio {self.max_sampler_ratio} must be finite and '
          'positive'
        )
      if self.estimator != 'trajectory':
        raise ValueError(
          f"max_sampler_ratio needs the estimator 'trajectory', not "
          f'{self.estimator!r}, which computes log-probabilities on the '
          'canvases of the sampler: set it to None'
        )
    if self.estimator not in ESTIMATORS:
      raise ValueError(
        f'estimator {self.estimator!r}: expected one of {", ".join(ESTIMATORS)}'
      )

  def make_estimator(self, max_commits: int) -> logprobs.Estimator:
    """The estimator, for steps that commit at most `max_commits` tokens."""
    if self.estimator == 'next_token':
      return next_token.NextToken()
    if self.estimator == 'one_step':
      return logprobs.OneStep(mask_prob=self.mask_prob)
    return logprobs.SampledSteps(
      num_steps=self.num_views, max_commits=max_commits
    )

  @property
  def weight_of_guided_kl(self) -> float:
    return self.beta if self.guided_beta is None else self.guided_beta

  @property
  def has_kl(self) -> bool:
    return self.beta > 0 or self.weight_of_guided_kl > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
  """Config group `method` of methods that compare rollouts within a group.

  Attributes:
    advantage: baseline and scale of the group advantages.
    policy: loss and estimator.
  """

  advantage: advantages.AdvantageConfig
  policy: PolicyConfig

  @property
  def rows_per_rollout(self) -> int:
    """Rows of the update that each rollout becomes."""
    return 1

  @property
  def reads_answers(self) -> bool:
    """Whether training takes a task with answers that can be judged or read."""
    return False

  def check(self, ctx: context.Context, rollout: batch.RolloutConfig) -> None:
    """Checks the config against the mesh and the rollout, before any work.

    Args:
      ctx: the run.
      rollout: config group `rollout`.

    Raises:
      errors.UserError: they do not fit together; names the config keys.
    """
    is_causal = isinstance(ctx.denoiser, types.CausalLM)
    if is_causal != (self.policy.estimator == 'next_token'):
      fitting = 'next_token' if is_causal else 'trajectory or one_step'
      raise errors.UserError(
        f'config key method.policy.estimator is {self.policy.estimator!r}, and '
        f'the model is {"causal" if is_causal else "a masked diffusion model"}'
        f': use {fitting}'
      )
    if types.block_causal(ctx.denoiser) and self.policy.estimator == 'one_step':
      raise errors.UserError(
        "config key method.policy.estimator is 'one_step', which puts all "
        'blocks after blocks of masks, and the model is causal over blocks: '
        'use trajectory'
      )
    if getattr(rollout.decoder, 'published', 'none') != 'none':
      raise errors.UserError(
        f'config key rollout.published is {rollout.decoder.published!r}, which '
        'makes calls that commit nothing: use none in training'
      )
    num_rows = rollout.num_prompts * rollout.group_size
    if rollout.group_size < 2:
      raise errors.UserError(
        f'config key rollout.group_size is {rollout.group_size}, but '
        'advantages are relative to a group: use 2 or more'
      )
    what = 'rollout.num_prompts * rollout.group_size'
    sharding.check_divides(num_rows, ctx.mesh, what)
    grad.check_micro_batches(
      num_rows * self.rows_per_rollout,
      self.policy.num_micro,
      ctx.mesh,
      'method.policy.num_micro',
    )

  def check_rows(
    self, ctx: context.Context, rows: Sequence[task_lib.Row]
  ) -> None:
    """Checks that the method can be trained on the task's rows.

    Args:
      ctx: the run.
      rows: some of the task's rows.

    Raises:
      errors.UserError: it cannot; names the config key.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupConfig(MethodConfig):
  """Config group `method` of a GRPO method; subclasses add their own fields.

  Attributes:
    reward: weights of the verifier's terms in the reward.
  """

  reward: score.RewardConfig

  @property
  def reads_answers(self) -> bool:
    """Its rewards are verdicts."""
    return True

  def check_rows(
    self, ctx: context.Context, rows: Sequence[task_lib.Row]
  ) -> None:
    """Checks that the task has the reward terms that the config names."""
    empty = np.full((1, 1), ctx.vocab.eos_token, np.int32)
    score.score(ctx, rows[:1], empty, self.reward)
