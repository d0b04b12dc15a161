"""Masters: steps that bfloat16 alone would lose."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dllm_jax.train import optim

STEP = 2.0**-11  # a quarter of the spacing of bfloat16 just above 1
GRADS = {'wide': jnp.ones(2), 'narrow': jnp.ones(3)}
START = {'wide': jnp.ones(2), 'narrow': jnp.ones(3, jnp.bfloat16)}


def descend(optimizer, count):
  params, state = START, optimizer.init(START)

  @jax.jit
  def step(params, state):
    updates, state = optimizer.update(GRADS, state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(count):
    params, state = step(params, state)
  return params, state


def test_masters_accumulate_small_steps():
  alone, _ = descend(optax.sgd(-STEP), 64)
  np.testing.assert_array_equal(np.float32(alone['narrow']), 1.0)
  params, state = descend(optim.with_masters(optax.sgd(-STEP)), 64)
  assert params['narrow'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.float32(params['narrow']), 1.0 + 64 * STEP)
  np.testing.assert_array_equal(params['wide'], 1.0 + 64 * STEP)
  assert state.masters['narrow'].dtype == jnp.float32
  assert state.masters['wide'] is None


def test_parameters_are_their_rounded_masters():
  params, state = descend(optim.with_masters(optax.sgd(-STEP)), 3)
  master = state.masters['narrow']
  np.testing.assert_array_equal(master, 1.0 + 3 * STEP)
  np.testing.assert_array_equal(params['narrow'], master.astype(jnp.bfloat16))


def test_moments_of_masters_are_float32():
  optimizer = optim.make(optim.OptimConfig(learning_rate=1e-3))
  dtypes = {x.dtype for x in jax.tree.leaves(optimizer.init(START).inner)}
  assert dtypes == {jnp.dtype('float32'), jnp.dtype('int32')}


def test_float32_parameters_have_no_masters():
  wide = {'wide': START['wide']}
  optimizer = optax.adam(0.1)
  state = optim.with_masters(optimizer).init(wide)
  assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(wide))
