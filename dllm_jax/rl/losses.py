"""Policy-gradient and KL losses of each token, and their mean.

All functions except for `token_mean` return one value per token. Everything is
float32. Deviations from diffu-GRPO: differences of log-probabilities are
clamped before `exp`, so that a token that is rare under one policy gives a
large finite value.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dllm_jax.ops import masked

# exp(20) = 4.9e8 is far beyond any clip radius, and its square is finite.
MAX_LOG_RATIO = 20.0


def ratio(
  logp: Float[Array, '*n'], old_logp: Float[Array, '*n']
) -> Float[Array, '*n']:
  """exp(logp - old_logp), with the difference clamped to +-20 nats."""
  return jnp.exp(jnp.clip(logp - old_logp, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def clipped_surrogate(
  logp: Float[Array, '*n'],
  old_logp: Float[Array, '*n'],
  advantage: Float[Array, '*n'],
  *,
  eps: float,
) -> Float[Array, '*n']:
  """The clipped policy-gradient loss of each token.

  -min( r A, clip(r, 1 - eps, 1 + eps) A ),   r = exp(logp - old_logp)

  Args:
    logp: log-probability under the trained policy, in nats.
    old_logp: log-probability under the rollout policy; a constant.
    advantage: A of each token; a constant.
    eps: clip radius, > 0.

  References:
    Schulman et al. 2017, PPO, eq. 7 (arXiv:1707.06347).
  """
  r = ratio(logp, old_logp)
  return -jnp.minimum(
    r * advantage, jnp.clip(r, 1.0 - eps, 1.0 + eps) * advantage
  )


def sampler_weight(
  logp: Float[Array, '*n'],
  sampler_logp: Float[Array, '*n'],
  *,
  largest: float,
) -> Float[Array, '*n']:
  """The truncated importance weight of each token of another sampler.

  min( exp(logp - sampler_logp), c )

  Rollouts through a cache are drawn from a model that differs from the trained
  one; the weight makes up for it, and the bound keeps its variance finite.

  Args:
    logp: log-probability under the rollout policy as the learner computes it
      (nats); a constant.
    sampler_logp: the same as the sampler computed it, at temperature 1 too; NaN
      where it is unknown, and the weight 1.
    largest: c.

  References:
    Ionides 2008, Truncated importance sampling; Yao et al. 2025, "Your
    efficient RL framework secretly brings you off-policy RL training".
  """
  known = ~jnp.isnan(sampler_logp)
  weight = jnp.minimum(ratio(logp, sampler_logp), largest)
  return jnp.where(known, weight, 1.0)


def k3(
  logp: Float[Array, '*n'],
  ref_logp: Float[Array, '*n'],
  *,
  max_difference: float | None,
) -> Float[Array, '*n']:
  """Schulman's k3 estimate of KL(pi || ref) at each token.

  exp(D) - D - 1,   D = ref_logp - logp

  Args:
    logp: log-probability under the trained policy, in nats.
    ref_logp: log-probability under the reference policy; a constant.
    max_difference: D is clamped to +- this value in nats, which bounds the
      estimate where pi << ref; None for the published, unbounded form.

  References:
    Schulman 2020, "Approximating KL divergence"; D11 in docs/papers.md.
  """
  difference = ref_logp - logp
  if max_difference is not None:
    difference = jnp.clip(difference, -max_difference, max_difference)
  return jnp.exp(difference) - difference - 1.0


def is_clipped(
  logp: Float[Array, '*n'],
  old_logp: Float[Array, '*n'],
  advantage: Float[Array, '*n'],
  *,
  eps: float,
) -> Bool[Array, '*n']:
  """Tokens whose ratio is clipped, so that their gradient is 0.

  The arguments are those of `clipped_surrogate`.
  """
  r = ratio(logp, old_logp)
  return jnp.clip(r, 1.0 - eps, 1.0 + eps) * advantage < r * advantage


def token_mean(
  loss: Float[Array, '*n'],
  mask: Bool[Array, '*n'],
  weight: Float[Array, '*n'],
  count: Float[Array, ''],
) -> Float[Array, '']:
  """Weighted mean over tokens: sum_mask(weight * loss) / max(count, 1).

  Args:
    loss: loss of each token.
    mask: tokens that are trained.
    weight: weight of each token.
    count: number of trained tokens in the whole batch, not in this micro-batch:
      the results of the micro-batches then add up to that of the batch.
  """
  return masked.total(weight * loss, mask) / jnp.maximum(count, 1.0)
