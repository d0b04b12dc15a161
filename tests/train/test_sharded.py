"""Updates of models in parts: the same on any mesh, in place, resumable."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.models import transformer
from dllm_jax.rollout import sharded
from dllm_jax.runtime import sharding
from dllm_jax.state import checkpoint
from dllm_jax.train import optim, policy, policy_config, state
from tests import tiny

L = 8
BATCH = tiny.rollouts(0, rows=16, gen_length=L)
CFG = policy_config.PolicyConfig(
  num_inner=3,
  num_micro=2,
  eps=0.2,
  beta=0.1,
  guided_beta=None,
  max_kl_difference=None,
  estimator='trajectory',
  mask_prob=0.5,
  num_views=2,
)
ESTIMATOR = CFG.make_estimator(2)
ADAM = optim.make(optim.OptimConfig(learning_rate=1e-3))
LORA = dataclasses.replace(tiny.MODEL, lora_rank=2)


def context(sizes, model=tiny.MODEL):
  denoiser = transformer.TransformerDenoiser(cfg=model)
  return tiny.context_of(
    denoiser, **dict(zip(('data', 'fsdp', 'tensor'), sizes, strict=True))
  )


def fresh(ctx):
  """A state whose leaves lie as the rules say."""
  params = tiny.params(ctx.denoiser.cfg)
  made = state.create(jax.tree.map(jnp.asarray, params), ADAM)
  return jax.device_put(made, sharding.param_shardings(made, ctx.mesh))


def update(ctx, start, reference, step=0):
  method = tiny.policy_method(ctx, CFG, ADAM, reference)
  batch = jax.device_put(BATCH, sharding.rows(ctx.mesh))
  return method.update(start, batch, step)


@functools.cache
def updated(sizes):
  """(state, history) after three optimiser steps."""
  ctx = context(sizes)
  return update(ctx, fresh(ctx), fresh(ctx).params)


@pytest.mark.parametrize(
  'sizes',
  [(2, 2, 2)]
  + [
    pytest.param(sizes, marks=pytest.mark.slow)
    for sizes in [(2, 1, 1), (4, 1, 1), (8, 1, 1), (1, 4, 1), (1, 1, 2)]
  ],
)
def test_three_updates_are_the_same_on_any_mesh(sizes):
  """Metrics to 1e-5; parameters to 1e-5 of the rms of each leaf."""
  (got, history), (want, alone) = updated(sizes), updated((1, 1, 1))
  for a, b in zip(history, alone, strict=True):
    assert a.keys() == b.keys()
    for what in a:
      np.testing.assert_allclose(
        a[what], b[what], rtol=1e-5, atol=1e-5, err_msg=what
      )
  before = tiny.params()
  for path, leaf in jax.tree.leaves_with_path(want.params):
    other = leaf_at(got.params, path)
    scale = np.sqrt(np.mean(np.square(leaf)))
    error = np.sqrt(np.mean(np.square(np.asarray(other) - leaf)))
    assert error < 1e-5 * scale, path
    moved = np.abs(np.asarray(leaf) - leaf_at(before, path)).max()
    assert moved > 1e-3, path


def leaf_at(tree, path):
  for key in path:
    tree = tree[key.key]
  return np.asarray(tree)


def test_moments_are_sharded_as_parameters():
  new, _ = updated((2, 2, 2))
  want = sharding.param_shardings(new, context((2, 2, 2)).mesh)

  def check(path, leaf, place):
    assert leaf.sharding.is_equivalent_to(place, leaf.ndim), path

  jax.tree_util.tree_map_with_path(check, new, want)
  kernel = new.opt_state[1][0].mu['layers/mlp/up_proj/kernel']
  assert kernel.addressable_shards[0].data.size == kernel.size // 4


def test_update_donates_its_state():
  """Nothing of the state is copied, and rows are not repeated over fsdp."""
  ctx = context((2, 2, 2))
  start = fresh(ctx)
  compiled = policy.inner_step.lower(
    start,
    {},
    jax.device_put(BATCH, sharding.rows(ctx.mesh)),
    None,
    None,
    jax.random.key(0),
    denoiser=sharded.placed(ctx.denoiser, ctx.mesh),
    vocab=ctx.vocab,
    estimator=ESTIMATOR,
    num_micro=2,
    optimizer=ADAM,
    cfg=dataclasses.replace(CFG, beta=0.0),
    mesh=ctx.mesh,
  ).compile()
  memory = compiled.memory_analysis()
  held = sum(
    x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(start)
  )
  assert memory.alias_size_in_bytes == held
  # 16 rows in 2 micro-batches of 2 views over 4 shards: 4 canvases a device.
  canvas = BATCH.prompt_ids.shape[1] + L
  width = tiny.MODEL.hidden_size
  text = compiled.as_text()
  assert f'f32[4,{canvas},{width}]' in text
  assert f'f32[16,{canvas},{width}]' not in text


def test_resumed_state_continues_bit_for_bit(tmp_path):
  ctx = context((2, 2, 2))
  first, _ = updated((2, 2, 2))
  kept = checkpoint.Checkpoints(tmp_path / 'kept', max_to_keep=1)
  kept.save(1, first, {})
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), first
  )
  restored, _ = kept.restore_newest(like, print)
  reference = fresh(ctx).params
  copied = jax.tree.map(jnp.copy, first)  # the update takes its buffers
  want, _ = update(ctx, copied, reference, step=1)
  got, _ = update(ctx, restored, reference, step=1)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_frozen_leaves_are_not_copied():
  """By the base, the policy and its reference; only adapters are donated."""
  ctx = context((1, 1, 1), LORA)
  base = jax.tree.map(jnp.asarray, tiny.params(LORA))
  start = state.create(state.copy_trained(base), ADAM)
  new, _ = update(ctx, start, base)
  flat = [state.split(params) for params in (base, start.params, new.params)]
  (base_lora, base_kept), (lora, kept), (new_lora, new_kept) = flat
  assert set(base_kept) == set(kept) == set(new_kept) and base_kept
  for name, leaf in base_kept.items():
    assert leaf is kept[name] is new_kept[name], name
  assert all(leaf.is_deleted() for leaf in lora.values())
  for name, leaf in base_lora.items():
    assert (np.asarray(leaf) != new_lora[name]).any()
