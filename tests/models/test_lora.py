"""Adapters: silent when new, a rank-r change of the kernel, trained alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dllm_jax.models import layers, transformer
from dllm_jax.train import state
from tests import tiny

LORA = dataclasses.replace(tiny.MODEL, lora_rank=2, lora_alpha=6.0)
TOKENS = jax.random.randint(jax.random.key(0), (2, 6), 0, 28)
MASK = jnp.ones_like(TOKENS, bool)


@functools.partial(jax.jit, static_argnames='cfg')
def logits(params, cfg):
  return transformer.Transformer(cfg).apply({'params': params}, TOKENS, MASK)


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


def test_a_new_adapter_changes_nothing():
  fresh = jax.jit(transformer.init, static_argnames='cfg')(
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
