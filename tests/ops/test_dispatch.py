"""Experts applied by one-hot sums, by ragged products and by blocks."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.ops import dispatch

E, D, F = 5, 6, 7


def expert(product, x):
  return product(jnp.tanh(product(x, 'up')), 'down')


def inputs(num=37, count=2, seed=0, load='even'):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  kernels = {'up': draw(E, D, F), 'down': draw(E, F, D)}
  chosen = np.stack([rng.permutation(E)[:count] for _ in range(num)])
  if load == 'one':  # all tokens at the same experts
    chosen[:] = np.arange(count) + 2
  gate = jnp.asarray(rng.random((num, count)), jnp.float32)
  return kernels, draw(num, D), jnp.asarray(chosen, jnp.int32), gate


def test_dense_equals_a_loop_over_tokens():
  kernels, x, chosen, gate = inputs()
  got = dispatch.dense(expert, kernels, x, chosen, gate)
  kernels, x, chosen, gate = jax.tree.map(np.asarray, inputs())
  for n in range(len(x)):
    want = sum(
      gate[n, j] * np.tanh(x[n] @ kernels['up'][e]) @ kernels['down'][e]
      for j, e in enumerate(chosen[n])
    )
    np.testing.assert_allclose(got[n], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('load', ['even', 'one'])
@pytest.mark.parametrize('count', [1, 3])
@pytest.mark.parametrize('name', ['ragged', 'blocked'])
def test_the_fast_ones_equal_the_dense_one_with_gradients(name, count, load):
  kernels, x, chosen, gate = inputs(count=count, load=load)

  def run(apply):
    def loss(kernels, x, gate):
      y = apply(expert, kernels, x, chosen, gate)
      return jnp.sum(y**2), y

    run = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(run)(kernels, x, gate)

  got, want = run(dispatch.DISPATCHES[name]), run(dispatch.dense)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    got,
    want,
  )


def largest(apply, num, backward):
  """Elements of the largest array in the compiled program."""
  kernels, x, chosen, gate = inputs(num=num, count=2)

  def run(kernels, x):
    return jnp.sum(apply(expert, kernels, x, chosen, gate) ** 2)

  run = jax.grad(run, argnums=(0, 1)) if backward else run
  text = jax.jit(run).lower(kernels, x).compile().as_text()
  shapes = re.findall(r'f32\[([\d,]+)\]', text)
  return max(np.prod([int(n) for n in s.split(',')]) for s in shapes)


@pytest.mark.parametrize('backward', [False, True])
def test_blocks_have_no_array_of_tokens_times_experts_times_width(backward):
  num = 1024
  choices = 2 * num
  size = dispatch.block_size(choices, E)
  most = (choices // size + E) * max(size * F, D * F)
  assert largest(dispatch.blocked, num, backward) <= most < num * E * D
  assert largest(dispatch.dense, num, backward) >= num * E * D


@pytest.mark.parametrize(
  'choices, size', [(1, 8), (2048, 128), (10**6, 512), (310, 16)]
)
def test_block_sizes_by_hand(choices, size):
  assert dispatch.block_size(choices, E) == size


def test_an_unknown_dispatch_and_the_one_of_this_backend():
  assert dispatch.find('auto') is dispatch.blocked  # on a CPU
  with pytest.raises(KeyError):
    dispatch.find('fast')
