"""Answer-free rewards that use one prompt: the baselines of CPC-GRPO.

Dims: V vocabulary.
"""

import collections
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dllm_jax.ops import sampling


def self_certainty(
  logits: Float[Array, '*n V'], tokens: Int[Array, '*n']
) -> Float[Array, '*n']:
  """KL(U || p) in nats, where U is uniform over the allowed tokens.

  KL(U || p) = logsumexp(z) - mean_v z_v - log V

  Args:
    logits: z; -inf excludes a token, and V counts those that are left.
    tokens: not read.

  References:
    Zhao et al. 2025, INTUITOR, arXiv:2505.19590.
  """
  del tokens
  allowed = logits > -jnp.inf
  size = jnp.sum(allowed, axis=-1)
  mean = jnp.sum(jnp.where(allowed, logits, 0.0), axis=-1) / size
  return jax.nn.logsumexp(logits, axis=-1) - mean - jnp.log(size)


def negative_entropy(
  logits: Float[Array, '*n V'], tokens: Int[Array, '*n']
) -> Float[Array, '*n']:
  """-H(p) = sum_v p_v log p_v in nats; `tokens` is not read.

  References:
    Prabhudesai et al. 2025, RENT, arXiv:2505.22660.
  """
  del tokens
  return -sampling.entropy(logits)


def majority(answers: Sequence[Hashable]) -> list[float]:
  """1 for the candidates of a set with a most frequent answer, else 0.

  Answers that are equally frequent are all of them, so that there is nothing to
  learn where no two candidates agree. None is no answer.

  References:
    Zuo et al. 2025, TTRL, arXiv:2504.16084.
  """
  count = collections.Counter(a for a in answers if a is not None)
  if not count:
    return [0.0] * len(answers)
  most = max(count.values())
  return [float(count[answer] == most) for answer in answers]
