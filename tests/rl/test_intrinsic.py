"""The answer-free rewards of one prompt, against scipy and by hand."""

import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from dllm_jax.rl import intrinsic

LOGITS = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32) * 2
TOKENS = jnp.zeros(3, int)


def test_self_certainty_is_the_divergence_of_the_uniform_distribution():
  p = special.softmax(LOGITS, axis=-1)
  uniform = np.full_like(p, 1 / 7)
  want = stats.entropy(uniform, p, axis=-1)  # KL(U || p)
  got = intrinsic.self_certainty(jnp.asarray(LOGITS), TOKENS)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert (np.abs(got - stats.entropy(p, uniform, axis=-1)) > 1e-2).all()


def test_self_certainty_counts_allowed_tokens_alone():
  excluded = np.full((3, 2), -np.inf, np.float32)
  wide = jnp.asarray(np.concatenate([LOGITS, excluded], axis=1))
  np.testing.assert_allclose(
    intrinsic.self_certainty(wide, TOKENS),
    intrinsic.self_certainty(jnp.asarray(LOGITS), TOKENS),
    rtol=1e-6,
  )


def test_negative_entropy():
  want = -stats.entropy(special.softmax(LOGITS, axis=-1), axis=-1)
  got = intrinsic.negative_entropy(jnp.asarray(LOGITS), TOKENS)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_majority_by_hand():
  assert intrinsic.majority(['7', '8', '7', None]) == [1, 0, 1, 0]
  assert intrinsic.majority(['8', '7', '7', '8', '9']) == [1, 1, 1, 1, 0]
  assert intrinsic.majority([None, None, None]) == [0, 0, 0]
  assert intrinsic.majority([None, None, '3']) == [0, 0, 1]
