"""The parts of a block, against numbers by hand and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.models import config, layers
from tests import tiny

X = jax.random.normal(jax.random.key(0), (2, 3, 16))


def test_rms_norm_by_hand():
  x = jnp.array([[3.0, 4.0]])  # rms = sqrt(12.5)
  got = layers.RMSNorm(tiny.MODEL).apply(
    {'params': {'weight': jnp.array([1.0, 2.0])}}, x
  )
  np.testing.assert_allclose(got, [[3.0, 8.0]] / np.sqrt(12.5), rtol=1e-5)


def test_rms_norm_of_zeros_is_finite():
  norm = lambda x: (
    layers.RMSNorm(tiny.MODEL)
    .apply({'params': {'weight': jnp.ones(4)}}, x)
    .sum()
  )
  value, grad = jax.value_and_grad(norm)(jnp.zeros((1, 4)))
  assert value == 0.0 and np.isfinite(grad).all()


def test_layer_norm_by_hand():
  x = jnp.array([[1.0, 5.0]])  # mean 3, standard deviation 2
  got = layers.LayerNorm(tiny.MODEL).apply(
    {
      'params': {'weight': jnp.array([1.0, 3.0]), 'bias': jnp.array([0.5, 0.0])}
    },
    x,
  )
  np.testing.assert_allclose(got, [[-0.5, 3.0]], rtol=1e-5)


def test_linear():
  kernel, bias = X[0, :, :4], X[1, 0, :4]
  got = layers.Linear(tiny.MODEL, 4, use_bias=True).apply(
    {'params': {'kernel': kernel, 'bias': bias}}, X[..., :3]
  )
  want = np.asarray(X[..., :3] @ kernel) + np.asarray(bias)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_rope_by_hand():
  # d = 4: column 0 turns with column 2 by p, column 1 with 3 by p / 10.
  x = jnp.array([[[[1.0, 0.0, 0.0, 2.0]]]])
  got = layers.rope(x, jnp.array([[3]]), theta=100.0)[0, 0, 0]
  want = [np.cos(3), -2 * np.sin(0.3), np.sin(3), 2 * np.cos(0.3)]
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_rope_keeps_norms_and_sees_only_distances():
  q, k = X[:1, :, None, :8], X[1:, :, None, :8]
  turn = lambda x, p: layers.rope(x, jnp.array([p]), theta=10_000.0)
  np.testing.assert_allclose(turn(q, [0, 0, 0]), q, rtol=1e-6)
  scores = lambda shift: jnp.sum(
    turn(q, [4 + shift, 1 + shift, shift])
    * turn(k, [shift, 5 + shift, 9 + shift]),
    -1,
  )
  np.testing.assert_allclose(scores(0), scores(100), rtol=1e-4, atol=1e-5)
  assert np.abs(scores(0) - (q * k).sum(-1)).max() > 0.1
  np.testing.assert_allclose(
    jnp.linalg.norm(turn(q, [7, 8, 9]), axis=-1),
    jnp.linalg.norm(q, axis=-1),
    rtol=1e-5,
  )


def test_llama_3_stretches_the_slow_pairs_by_hand():
  scaling = config.RopeScaling(
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=3.0,
    original_max_position=20,
  )
  got = layers.rope_frequencies(6, 27.0, scaling)
  # Frequencies 1, 1/3, 1/9; turns in 20 positions 3.183, 1.061, 0.354: the
  # first stays, the last is divided by 4, and (1.061 - 1) / 2 of the second is.
  kept = (20 / (2 * np.pi * 3) - 1) / 2
  want = [1.0, (kept + (1 - kept) / 4) / 3, 1 / 36]
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_allclose(
    layers.rope_frequencies(6, 27.0), [1.0, 1 / 3, 1 / 9], rtol=1e-6
  )


@pytest.mark.parametrize(
  'wrong',
  [
    {'factor': 0.0},
    {'low_freq_factor': -1.0},
    {'high_freq_factor': 1.0},
    {'original_max_position': 0},
  ],
)
def test_scaling_refuses(wrong):
  right = {
    'factor': 4.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 3.0,
    'original_max_position': 20,
  }
  with pytest.raises(ValueError, match=next(iter(wrong))):
    config.RopeScaling(**(right | wrong))
