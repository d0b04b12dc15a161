"""Rates and clipping by hand; steps that bfloat16 alone would lose."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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


def cosine(step, steps):
  """From 1 to a tenth in `steps` steps, and no further."""
  return 0.1 + 0.9 * (1 + math.cos(math.pi * min(step / steps, 1))) / 2


@pytest.mark.parametrize(
  ('warmup', 'schedule', 'want'),
  [
    (0, 'constant', [1] * 8),
    (1, 'constant', [1] * 8),
    (2, 'constant', [1 / 2] + [1] * 7),
    (3, 'constant', [1 / 3, 2 / 3] + [1] * 6),
    (0, 'cosine', [cosine(k, 5) for k in range(8)]),
    (1, 'cosine', [cosine(k, 5) for k in range(8)]),
    (3, 'cosine', [1 / 3, 2 / 3] + [cosine(k, 3) for k in range(6)]),
  ],
)
def test_every_step_has_its_rate(warmup, schedule, want):
  """Adam moves by the rate where every gradient is the same."""
  optimizer = optim.make(
    optim.OptimConfig(
      learning_rate=0.5,
      warmup_steps=warmup,
      schedule=schedule,
      decay_steps=5,
      eps=0.0,
    )
  )
  params, got = {'w': jnp.zeros(1)}, []
  state = optimizer.init(params)
  for _ in want:
    updates, state = optimizer.update({'w': jnp.ones(1)}, state, params)
    got.append(-float(updates['w'][0]))
  np.testing.assert_allclose(got, 0.5 * np.array(want), rtol=1e-5)


def adam(grads, *, b1, b2, eps):
  """Steps of Adam at rate 1 by its equations."""
  m = v = 0.0
  for t, g in enumerate(grads, 1):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    yield -(m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)


def test_steps_are_those_of_adam_on_clipped_gradients():
  """Norms are 5, 0.5 and 13 over all leaves; the bound is 2."""
  cfg = optim.OptimConfig(
    learning_rate=1.0, b1=0.8, b2=0.9, eps=0.3, max_grad_norm=2.0
  )
  optimizer = optim.make(cfg)
  params = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
  grads = np.array([[3.0, 4.0], [0.3, -0.4], [-5.0, 12.0]])
  norms = np.linalg.norm(grads, axis=1, keepdims=True)
  want = list(adam(grads * np.minimum(1, 2 / norms), b1=0.8, b2=0.9, eps=0.3))
  state = optimizer.init(params)
  for (a, b), step in zip(grads, want, strict=True):
    given = {'a': jnp.full(1, a), 'b': jnp.full(1, b)}
    updates, state = optimizer.update(given, state, params)
    got = [float(updates['a'][0]), float(updates['b'][0])]
    np.testing.assert_allclose(got, step, rtol=1e-5)


def test_weight_decay_is_of_the_masters():
  """A leaf of 1 whose master is 1 + 2^-9, which bfloat16 rounds to 1."""
  cfg = optim.OptimConfig(learning_rate=0.5, weight_decay=0.5)
  optimizer = optim.make(cfg)
  params = {'w': jnp.ones(1, jnp.bfloat16)}
  state = optimizer.init(params)
  masters = {'w': jnp.full(1, 1 + 2.0**-9)}
  state = state._replace(masters=masters)
  _, state = optimizer.update({'w': jnp.zeros(1)}, state, params)
  want = (1 + 2.0**-9) * (1 - 0.5 * 0.5)
  np.testing.assert_allclose(state.masters['w'], want, rtol=1e-7)


@pytest.mark.parametrize(
  ('wrong', 'line'),
  [
    ({'learning_rate': 0.0}, 'learning_rate 0.0 is not positive'),
    (
      {'schedule': 'cosine', 'decay_steps': 3, 'warmup_steps': 3},
      'decay_steps 3 must exceed warmup_steps 3',
    ),
  ],
)
def test_wrong_settings_are_one_line(wrong, line):
  with pytest.raises(ValueError, match=line):
    optim.OptimConfig(**({'learning_rate': 1.0} | wrong))
