"""Losses: hand-computed, recordings, and extreme log-ratios."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.rl import losses
from tests import tiny

EPS = 0.2


def surrogate(logp, old, advantage):
  as_array = lambda x: jnp.asarray(x, jnp.float32)
  return losses.clipped_surrogate(
    as_array(logp), as_array(old), as_array(advantage), eps=EPS
  )


@pytest.mark.parametrize(
  ('ratio', 'advantage', 'loss', 'slope'),
  [
    (1.0, 3.0, -3.0, -3.0),
    (1.1, 3.0, -3.3, -3.3),
    (1.5, 3.0, -3.6, 0.0),  # clipped at 1.2
    (0.5, 3.0, -1.5, -1.5),  # the minimum is the unclipped term
    (1.5, -2.0, 3.0, 3.0),
    (0.5, -2.0, 1.6, 0.0),  # clipped at 0.8
    (7.0, 0.0, 0.0, 0.0),
  ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, slope):
  logp = np.log(ratio)
  value, grad = jax.value_and_grad(surrogate)(jnp.float32(logp), 0.0, advantage)
  np.testing.assert_allclose(value, loss, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(grad, slope, rtol=1e-5, atol=1e-7)
  clipped = losses.is_clipped(
    jnp.float32(logp), jnp.float32(0.0), jnp.float32(advantage), eps=EPS
  )
  assert bool(clipped) == (slope == 0.0 and advantage != 0.0)


def test_on_policy_ratio_is_1_and_gradient_is_the_advantage():
  logp = jnp.array([-0.3, -20.0, -1e-6])
  advantage = jnp.array([1.0, -2.0, 0.5])
  np.testing.assert_array_equal(losses.ratio(logp, logp), 1.0)
  loss = lambda x: losses.clipped_surrogate(
    x, jax.lax.stop_gradient(x), advantage, eps=EPS
  ).sum()
  np.testing.assert_array_equal(jax.grad(loss)(logp), -advantage)
  np.testing.assert_array_equal(losses.k3(logp, logp, max_difference=None), 0.0)


@pytest.mark.parametrize('gap', [1e3, -1e3, 88.0, -88.0])
@pytest.mark.parametrize('advantage', [1.0, -1.0, 0.0, 1e6])
def test_losses_are_finite_for_extreme_log_ratios(gap, advantage):
  value, grad = jax.value_and_grad(surrogate)(jnp.float32(gap), 0.0, advantage)
  assert np.isfinite(value) and np.isfinite(grad)
  bounded = lambda x: losses.k3(x, jnp.float32(0.0), max_difference=10.0)
  value, grad = jax.value_and_grad(bounded)(jnp.float32(gap))
  assert np.isfinite(value) and np.isfinite(grad)


def test_k3_by_hand_and_bounded():
  logp = jnp.log(jnp.array([0.5, 0.25, 0.5]))
  ref = jnp.log(jnp.array([0.25, 0.5, 0.5]))
  got = losses.k3(logp, ref, max_difference=None)
  want = [0.5 + np.log(2) - 1, 2 - np.log(2) - 1, 0.0]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
  difference = jnp.linspace(-50.0, 50.0, 101)
  bounded = losses.k3(-difference, jnp.zeros(101), max_difference=5.0)
  assert (bounded >= 0).all()
  np.testing.assert_allclose(bounded.max(), np.exp(5.0) - 6.0, rtol=1e-5)
  # Both ways: at D <= -5 it stays exp(-5) + 5 - 1.
  np.testing.assert_allclose(bounded[:46], np.exp(-5.0) + 4.0, rtol=1e-5)
  inside = np.abs(difference) <= 5.0
  free = losses.k3(-difference, jnp.zeros(101), max_difference=None)
  np.testing.assert_allclose(
    np.asarray(bounded)[inside], np.asarray(free)[inside], rtol=1e-6
  )


def test_k3_is_unbiased():
  rng = np.random.default_rng(0)
  p, q = (np.exp(tiny.log_softmax(rng.standard_normal(6))) for _ in range(2))
  k3 = losses.k3(
    jnp.float32(np.log(p)), jnp.float32(np.log(q)), max_difference=None
  )
  want = (p * np.log(p / q)).sum()
  np.testing.assert_allclose((p * np.asarray(k3)).sum(), want, rtol=1e-5)


def test_token_mean_by_hand():
  loss = jnp.array([[1.0, jnp.nan], [3.0, 5.0]])
  mask = jnp.array([[True, False], [True, True]])
  weight = jnp.array([[1.0, jnp.inf], [2.0, 0.5]])
  got = losses.token_mean(loss, mask, weight, jnp.float32(4.0))
  assert got == (1 + 6 + 2.5) / 4
  assert losses.token_mean(loss, mask & False, weight, jnp.float32(0.0)) == 0.0


def padded(x):
  """All cases in one shape, so that operations are compiled once."""
  x = np.array(x)
  rows, columns = x.shape
  return np.pad(x, ((0, 16 - rows), (0, 32 - columns)))


def recorded(case, dtype):
  inputs = case['inputs']
  logp, old, ref = (
    jnp.asarray(padded(inputs[f'logp_{name}']), dtype)
    for name in ('new', 'old', 'ref')
  )
  mask = jnp.asarray(padded(inputs['mask']), bool)
  advantage = np.array(inputs['advantage'])
  if advantage.ndim == 1:
    advantage = advantage[:, None]
  shape = np.shape(inputs['mask'])
  advantage = jnp.asarray(padded(np.broadcast_to(advantage, shape)), dtype)
  eps, beta = inputs['clip_eps'], inputs['beta']
  count = mask.sum().astype(dtype)

  def loss(logp):
    kl = losses.k3(logp, ref, max_difference=None)
    token = losses.clipped_surrogate(logp, old, advantage, eps=eps) + beta * kl
    mean = losses.token_mean(token, mask, jnp.ones_like(token), count)
    return mean, (token, kl)

  (value, (token, kl)), grad = jax.value_and_grad(loss, has_aux=True)(logp)
  clipped = losses.is_clipped(logp, old, advantage, eps=eps) & mask
  cut = lambda x: np.asarray(x)[: shape[0], : shape[1]]
  return {
    'ratio': cut(losses.ratio(logp, old)),
    'kl': cut(kl),
    'per_token_loss': cut(token),
    'loss': value,
    'clip_fraction': clipped.sum() / mask.sum(),
    'grad_logp_new': cut(grad),
  }


def test_losses_equal_recordings(shared_dir):
  path = shared_dir / 'golden' / 'rl' / 'clipped_loss.json'
  for case in tiny.cases(path):
    for name, value in recorded(case, jnp.float32).items():
      want = np.array(case['outputs'][name])
      # k3 cancels around 0: the tolerance is relative to 1.
      np.testing.assert_allclose(
        value,
        want,
        rtol=1e-5,
        atol=1e-5 * max(1.0, np.abs(want).max()),
        err_msg=f'{case["kind"]} {name}',
      )


def test_losses_equal_recordings_in_float64(shared_dir):
  path = shared_dir / 'golden' / 'rl' / 'clipped_loss.json'
  with jax.enable_x64(True):
    for case in tiny.cases(path):
      for name, value in recorded(case, jnp.float64).items():
        np.testing.assert_allclose(
          value,
          np.array(case['outputs'][name]),
          rtol=1e-9,
          atol=1e-12,
          err_msg=f'{case["kind"]} {name}',
        )
