"""How far decoding through caches is from decoding without."""

import dataclasses

import jax
import jax.numpy as jnp

from dllm_jax import types
from dllm_jax.bench import caches, cases
from dllm_jax.decoding import fixed
from dllm_jax.rollout import prompts
from dllm_jax.runtime import sharding
from tests import tiny

CASE = cases.make_case('small', tiny.MODEL, 8, 5, 12, 4, 6)
FIXED = fixed.Fixed(gen_length=12, block_length=4, num_steps=6)


def divergence(**changes):
  decoder = dataclasses.replace(FIXED, **changes)
  canvas = tiny.canvas(tiny.random_prompts(1, [3, 5]), 12)
  return jax.jit(caches.divergence, static_argnames=('denoiser', 'vocab'))(
    tiny.DENOISER,
    tiny.params(),
    tiny.row_keys(0, [0, 1]),
    types.Canvas(*map(jnp.asarray, canvas)),
    decoder,
    vocab=tiny.VOCAB,
  )


def test_divergence_is_zero_where_nothing_is_stale():
  dual = float(divergence(cache='dual'))
  assert dual > 1e-5
  assert abs(float(divergence(cache='dual', refresh_every=1))) < 1e-7
  # Only the prompt's columns are stale.
  assert 0 < float(divergence(cache='dual', vicinity=12)) < dual / 2


def test_a_comparison():
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  denoiser, ids = tiny.DENOISER, cases.prompts(CASE)
  encoded = prompts.RowPrompts(
    jnp.asarray(ids), jnp.ones(ids.shape, bool), jnp.arange(8, dtype=jnp.int32)
  )
  tried = caches.decoders(CASE.decoder, ['dual'])
  plain, dual = caches.compare(
    denoiser,
    tiny.params(),
    encoded,
    tried,
    vocab=CASE.vocab,
    mesh=mesh,
    rounds=1,
    with_kl=True,
  )
  assert plain['calls'] == {'whole': 48, 'windows': {}}
  assert dual['calls'] == {'whole': 24, 'windows': {4: 24}}
  assert plain['flops_over_none'] == 1 == plain['same_as_none']
  assert dual['flops_over_none'] < 0.8 and dual['kl'] > 0
  # Keys and values, two layers, 8 rows of 17 columns, 2 heads of 4, float32.
  assert (plain['cache_bytes'], dual['cache_bytes']) == (0, 2 * 2 * 8 * 17 * 32)
  assert plain['speedup']['none'] == {'wall': 1, 'cpu': 1}
