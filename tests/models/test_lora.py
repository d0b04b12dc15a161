"""Adapters: silent when new, a rank-r change of the kernel, trained alone."""

import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.models import layers, lora, network
from dllm_jax.train import state
from tests import tiny

LORA = dataclasses.replace(tiny.MODEL, lora_rank=2, lora_alpha=6.0)
TOKENS = jax.random.randint(jax.random.key(0), (2, 6), 0, 28)
MASK = jnp.ones_like(TOKENS, bool)


@functools.partial(jax.jit, static_argnames='cfg')
def logits(params, cfg):
  return network.Transformer(cfg).apply({'params': params}, TOKENS, MASK)


def without(tree):
  """The tree without its adapters."""
  if not isinstance(tree, dict):
    return tree
  return {k: without(v) for k, v in tree.items() if 'lora_' not in k}


def test_linear_by_hand():
  cfg = dataclasses.replace(LORA, lora_rank=1, lora_alpha=3.0)
  params = {
    'kernel': jnp.array([[1.0, 0.0], [0.0, 1.0]]),
    'lora_a': jnp.array([[1.0], [2.0]]),
    'lora_b': jnp.array([[10.0, 20.0]]),
  }
  # x W = (1, 1); x A = 3; (3/1) * 3 * B = (90, 180).
  got = layers.Linear(cfg, 2).apply({'params': params}, jnp.ones((1, 2)))
  np.testing.assert_allclose(got, [[91.0, 181.0]])


def test_adapters_are_used_in_the_dtype_of_the_activations():
  """No float32 copy of them is made; gradients are float32 like the factors."""
  cfg = dataclasses.replace(LORA, dtype='bfloat16', param_dtype='bfloat16')
  wide = jax.random.normal(jax.random.key(1), (5, 16))
  x = wide.astype(jnp.bfloat16)
  linear = layers.Linear(cfg, 3)
  params = linear.init(jax.random.key(2), x)['params']
  params['lora_b'] = jax.random.normal(jax.random.key(3), (2, 3))

  def loss(params, x):
    return jnp.sum(linear.apply({'params': params}, x).astype(jnp.float32) ** 2)

  got, want = jax.grad(loss)(params, x), jax.grad(loss)(params, wide)
  for name in ('lora_a', 'lora_b'):
    assert params[name].dtype == got[name].dtype == jnp.float32
    error = jnp.linalg.norm(got[name] - want[name])
    assert error < 0.05 * jnp.linalg.norm(want[name])
  text = str(jax.make_jaxpr(linear.apply)({'params': params}, x))
  made = [line for line in text.splitlines() if 'dot_general' in line]
  assert len(made) == 3 and all(':bf16' in line for line in made)


def test_a_new_adapter_changes_nothing():
  fresh = jax.jit(network.init, static_argnames='cfg')(
    jax.random.key(0), cfg=LORA
  )
  names = {path[-1].key for path, _ in jax.tree.leaves_with_path(fresh)}
  assert {'lora_a', 'lora_b'} <= names
  np.testing.assert_array_equal(
    logits(fresh, LORA), logits(without(fresh), tiny.MODEL)
  )
  assert float(jnp.abs(logits(fresh, LORA)).max()) > 0


def test_adapters_equal_merged_kernels():
  params = tiny.params(LORA)

  def merge(tree):
    if 'lora_a' in tree:
      change = np.einsum('lir,lro->lio', tree['lora_a'], tree['lora_b'])
      return {**tree, 'kernel': tree['kernel'] + 3.0 * change}
    return {k: merge(v) if isinstance(v, dict) else v for k, v in tree.items()}

  merged = without(merge(params))
  np.testing.assert_allclose(
    logits(params, LORA), logits(merged, tiny.MODEL), rtol=1e-4, atol=1e-4
  )
  gap = logits(params, LORA) - logits(without(params), tiny.MODEL)
  assert float(jnp.abs(gap).max()) > 0.01


def test_split_trains_the_adapters_alone():
  params = tiny.params(LORA)
  trained, frozen = state.split(params)
  assert all(k.split('/')[-1] in ('lora_a', 'lora_b') for k in trained)
  # q, k, v, o, gate, up, down; the unembedding has none.
  assert len(trained) == 14
  assert not any('lora' in k for k in frozen)
  merged = state.merge(trained, frozen)
  assert jax.tree.structure(merged) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_split_without_adapters_trains_everything():
  trained, frozen = state.split(tiny.params())
  assert not frozen
  assert len(trained) == len(jax.tree.leaves(tiny.params()))


@functools.partial(jax.jit, static_argnames='cfg')
def fresh(key, cfg):
  return lora.fresh(key, cfg)


def test_fresh_adapters_are_those_of_a_fresh_model():
  init = jax.jit(network.init, static_argnames='cfg')
  adapters, plain = lora.split(init(jax.random.key(4), LORA))
  jax.tree.map(
    np.testing.assert_array_equal, fresh(jax.random.key(4), LORA), adapters
  )
  assert jax.tree.structure(plain) == jax.tree.structure(tiny.params())
  joined = lora.join(tiny.params(), adapters)
  assert jax.tree.structure(joined) == jax.tree.structure(tiny.params(LORA))
  np.testing.assert_array_equal(
    logits(joined, LORA), logits(tiny.params(), tiny.MODEL)
  )
  with pytest.raises(ValueError, match='lora_rank is 0'):
    lora.fresh(jax.random.key(0), tiny.MODEL)
  with pytest.raises(ValueError, match='a table of positions .* adapters'):
    dataclasses.replace(LORA, max_positions=8)


def test_merging_by_hand():
  cfg = dataclasses.replace(LORA, lora_rank=1, lora_alpha=3.0)
  linear = {
    'kernel': jnp.array([[[1.0, 0.0], [0.0, 1.0]]]),
    'lora_a': jnp.array([[[1.0], [2.0]]]),
    'lora_b': jnp.array([[[10.0, 20.0]]]),
  }
  merged = tiny.merge_lora({'layers': {'x': linear}}, cfg)
  want = [[[31.0, 60.0], [60.0, 121.0]]]
  np.testing.assert_array_equal(merged['layers']['x']['kernel'], want)
  assert set(merged['layers']['x']) == {'kernel'}


def test_the_merged_model_is_the_adapted_one():
  params, cfg = tiny.params(LORA), tiny.MODEL
  merged = tiny.merge_lora(params, LORA)
  assert jax.tree.structure(merged) == jax.tree.structure(tiny.params())
  np.testing.assert_allclose(
    logits(merged, cfg), logits(params, LORA), rtol=1e-4, atol=1e-4
  )
  apart = logits(lora.split(params)[1], cfg) - logits(params, LORA)
  assert float(jnp.abs(apart).max()) > 0.01


def test_merging_rounds_once_to_the_dtype_of_the_kernel():
  cfg = dataclasses.replace(LORA, param_dtype='bfloat16')
  params = jax.tree.map(jnp.asarray, tiny.params(LORA))
  adapters, plain = lora.split(params)
  plain = jax.tree.map(lambda x: x.astype(jnp.bfloat16), plain)
  merged = tiny.merge_lora(lora.join(plain, adapters), cfg)
  got = merged['layers']['mlp']['up_proj']['kernel']
  path = 'layers/mlp/up_proj/lora_'
  change = np.einsum('lir,lro->lio', adapters[path + 'a'], adapters[path + 'b'])
  old = np.float32(plain['layers']['mlp']['up_proj']['kernel'])
  want = jnp.asarray(old + 3.0 * change, jnp.bfloat16)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.float32(got), np.float32(want), rtol=2**-8, atol=1e-6
  )
  merged = tiny.merge_lora(tiny.params(), tiny.MODEL)
  jax.tree.map(np.testing.assert_array_equal, merged, tiny.params())


def test_kernels_that_come_one_by_one_are_changed_in_place():
  params = jax.tree.map(jnp.array, tiny.params(LORA))
  want = tiny.merge_lora(params, LORA)
  adapters, plain = lora.split(params)
  old = plain['layers']['mlp']['up_proj']['kernel']
  place = old.unsafe_buffer_pointer()
  leaves = flax.traverse_util.flatten_dict(plain, sep='/')
  merged = dict(lora.merge_leaves(iter(leaves.items()), adapters, LORA))
  assert old.is_deleted()
  path = 'layers/mlp/up_proj/kernel'
  assert merged[path].unsafe_buffer_pointer() == place
  merged = flax.traverse_util.unflatten_dict(merged, sep='/')
  jax.tree.map(np.testing.assert_array_equal, merged, want)


def test_merging_does_not_round_its_products():
  # What a CPU does anyway, a TPU does only when asked.
  shapes = (1, 3, 4), (1, 3, 2), (1, 2, 4)
  kernel, a, b = (jnp.ones(shape) for shape in shapes)
  traced = str(jax.make_jaxpr(lora._merged_layer)(kernel, 0, a, b, 1.0))
  assert 'dot_general' in traced and 'HIGHEST' in traced
