"""Policy-gradient, KL and supervised losses, per token and averaged.

Per-token functions return one value a token; `token_mean` is the one place
where tokens are averaged. Everything is float32. Deviations from diffu-GRPO:
the log-ratio and the log-difference are clamped before `exp`, so that a rare
token under one policy gives a large number and not an overflow.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dllm_jax.ops import masked

# exp(20) = 4.9e8: far beyond any clip radius, and finite when squared.
MAX_LOG_RATIO = 20.0


def ratio(
  logp: Float[Array, '*n'], old_logp: Float[Array, '*n']
) -> Float[Array, '*n']:
  """exp(logp - old_logp), the difference clamped to +-20 nats."""
  return jnp.exp(jnp.clip(logp - old_logp, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def clipped_surrogate(
  logp: Float[Array, '*n'],
  old_logp: Float[Array, '*n'],
  advantage: Float[Array, '*n'],
  *,
  eps: float,
) -> Float[Array, '*n']:
  """Clipped policy-gradient loss of every token.

  -min( r A, clip(r, 1 - eps, 1 + eps) A ),   r = exp(logp - old_logp)

  Args:
    logp: log-probability under the policy that is trained (nats).
    old_logp: the same under the rollout policy; a constant.
    advantage: A of each token; a constant.
    eps: clip radius, > 0.

  References:
    Schulman et al. 2017, PPO, eq. 7 (arXiv:1707.06347).
  """
  r = ratio(logp, old_logp)
  return -jnp.minimum(
    r * advantage, jnp.clip(r, 1.0 - eps, 1.0 + eps) * advantage
  )


def k3(
  logp: Float[Array, '*n'],
  ref_logp: Float[Array, '*n'],
  *,
  max_difference: float | None,
) -> Float[Array, '*n']:
  """Schulman's k3 estimate of KL(pi || ref) at every token.

  exp(D) - D - 1,   D = ref_logp - logp

  Args:
    logp: under the policy that is trained (nats).
    ref_logp: under the reference policy; a constant.
    max_difference: D is clamped to this size (nats), which bounds the
      estimate where pi << ref; None is the published, unbounded form.

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
  """Tokens whose ratio is clipped: no gradient flows through them."""
  r = ratio(logp, old_logp)
  return jnp.clip(r, 1.0 - eps, 1.0 + eps) * advantage < r * advantage


def token_mean(
  loss: Float[Array, '*n'],
  mask: Bool[Array, '*n'],
  weight: Float[Array, '*n'],
  count: Float[Array, ''],
) -> Float[Array, '']:
  """sum_mask( weight * loss ) / max(count, 1).

  `count` is the number of counted tokens of the whole batch, not of the
  micro-batch at hand, so that micro-batches add up to the batch.
  """
  return masked.total(weight * loss, mask) / jnp.maximum(count, 1.0)
