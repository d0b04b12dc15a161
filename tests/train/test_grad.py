"""Micro-batches, skipping, and updates that are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dllm_jax.runtime import sharding
from dllm_jax.train import grad, state

X = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
Y = np.arange(8, dtype=np.float32)
PARAMS = {'w': jnp.array([1.0, -2.0, 0.5]), 'b': jnp.array([0.25])}
MESH = sharding.make_mesh(sharding.MeshConfig(data=1))
OPTIMIZER = optax.adamw(0.1, weight_decay=0.0)


def loss(params, micro):
  x, y = micro
  error = x @ params['w'] + jnp.broadcast_to(params['b'], y.shape) - y
  return jnp.sum(error**2) / 8, {'rows': y}


def is_counted(micro):
  return jnp.any(micro[1] >= 4)


@functools.partial(
  jax.jit, static_argnames=('num_micro', 'counts', 'optimizer')
)
def update(params, x, y, *, num_micro, counts=None, optimizer=OPTIMIZER):
  return grad.update(
    state.create(params, optimizer),
    (x, y),
    loss,
    optimizer,
    mesh=MESH,
    num_micro=num_micro,
    counts=counts,
  )


def test_micro_batches_deal_rows_in_turn():
  got = grad.micro_batches({'x': jnp.arange(6)}, 2)
  np.testing.assert_array_equal(got['x'], [[0, 2, 4], [1, 3, 5]])
  with pytest.raises(ValueError, match='6 rows'):
    grad.micro_batches(jnp.arange(6), 4)


@pytest.mark.parametrize('count', [1, 2, 4, 8])
def test_undo_micro_batches_is_the_inverse(count):
  dealt = grad.micro_batches(jnp.asarray(X), count)
  assert dealt.shape == (count, 8 // count, 3)
  np.testing.assert_array_equal(grad.undo_micro_batches(dealt), X)


@pytest.mark.parametrize('num_micro', [1, 2, 8])
def test_micro_batched_update_equals_one_gradient(num_micro):
  optimizer = optax.sgd(0.1)
  value, g = jax.value_and_grad(lambda p: loss(p, (X, Y))[0])(PARAMS)
  new, aux = update(PARAMS, X, Y, num_micro=num_micro, optimizer=optimizer)
  for name in PARAMS:
    np.testing.assert_allclose(
      new.params[name], PARAMS[name] - 0.1 * g[name], rtol=1e-5
    )
  np.testing.assert_allclose(aux['loss'], value, rtol=1e-6)
  norm = np.sqrt(sum(np.sum(np.square(x)) for x in g.values()))
  np.testing.assert_allclose(aux['grad_norm'], norm, rtol=1e-5)
  np.testing.assert_array_equal(grad.undo_micro_batches(aux['rows']), Y)
  assert new.step == 1


def test_skipped_micro_batches_give_zeros():
  # Micro-batch m of 4 has rows m and m + 4; y >= 4 is then always there.
  everything, _ = update(PARAMS, X, Y, num_micro=4)
  counted, _ = update(PARAMS, X, Y, num_micro=4, counts=is_counted)
  for name in PARAMS:
    np.testing.assert_array_equal(counted.params[name], everything.params[name])
  # With NaN in the rows of micro-batch 1, skipping it leaves the others.
  y = np.where(np.arange(8) % 4 == 1, 0.0, Y)
  bad = np.where(y[:, None] == Y[:, None], X, np.nan)
  y[0] = 0.0
  got, aux = update(PARAMS, bad, y, num_micro=4, counts=is_counted)
  keep = np.arange(8) % 4 != 1
  g = jax.grad(lambda p: loss(p, (X[keep], y[keep]))[0])(PARAMS)
  assert np.isfinite(aux['loss'])
  np.testing.assert_allclose(got.opt_state[0].mu['w'], 0.1 * g['w'], rtol=1e-5)


def assert_same_bits(got, want):
  def one(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())

  jax.tree.map(one, got, want)


# Minus zero, a number that is almost none, and a NaN: the bits alone count.
ODD = {'w': jnp.array([-0.0, 1e-45, 3.0]), 'b': jnp.array([0.25])}


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_non_finite_loss_changes_no_bit(bad):
  """With the state donated, in the middle of a run."""
  step = jax.jit(
    lambda state, y: grad.update(
      state, (X, y), loss, OPTIMIZER, mesh=MESH, num_micro=2
    ),
    donate_argnums=0,
  )
  spoiled = Y.copy()
  spoiled[3] = bad
  start = jax.tree.map(jnp.copy, state.create(ODD, OPTIMIZER))
  middle, aux = step(start, Y)
  assert aux['skipped'] == 0
  want = jax.device_get(middle)
  skipped, aux = step(middle, spoiled)
  assert not np.isfinite(aux['loss']) and aux['skipped'] == 1
  assert_same_bits(jax.device_get(skipped), want)
  # The next update is as if the bad one had never been.
  again, _ = step(skipped, Y)
  other, _ = step(jax.tree.map(jnp.asarray, want), Y)
  assert again.step == 2
  assert_same_bits(again, other)


def test_non_finite_update_changes_no_bit():
  """Loss and gradient are finite, and the optimiser makes too much of them."""
  wild = optax.sgd(3e38)
  new, aux = update(PARAMS, X, Y, num_micro=2, optimizer=wild)
  assert np.isfinite(aux['loss']) and np.isfinite(aux['grad_norm'])
  assert aux['skipped'] == 1
  assert_same_bits(new, state.create(PARAMS, wild))


def test_non_finite_gradient_changes_no_bit():
  @jax.jit
  def go():
    # sqrt at 0: the value is 0, the gradient infinite.
    root = lambda params, _: (jnp.sqrt(jnp.sum(params['w'] * 0.0)), {})
    return grad.update(
      state.create(PARAMS, OPTIMIZER),
      X,
      root,
      OPTIMIZER,
      mesh=MESH,
      num_micro=1,
    )

  new, aux = go()
  assert aux['loss'] == 0.0 and not np.isfinite(aux['grad_norm'])
  jax.tree.map(np.testing.assert_array_equal, new.params, PARAMS)


def test_frozen_leaves_do_not_change_and_have_no_moments():
  params = {'layer': {'kernel': jnp.ones(3), 'lora_a': jnp.ones(3)}}

  def value(p, micro):
    kernel = p['layer']['kernel'] + p['layer']['lora_a']
    return jnp.sum(micro[0] @ kernel), {}

  start = state.create(params, OPTIMIZER)
  assert list(start.opt_state[0].mu) == ['layer/lora_a']
  new, _ = jax.jit(
    lambda s: grad.update(s, (X, Y), value, OPTIMIZER, mesh=MESH, num_micro=2)
  )(start)
  layer = new.params['layer']
  np.testing.assert_array_equal(layer['kernel'], 1.0)
  assert (layer['lora_a'] != 1.0).all()
