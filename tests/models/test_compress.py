"""Compressed models: which leaves, which function, on which devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dllm_jax.models import layers, transformer
from dllm_jax.ops import quantize
from dllm_jax.runtime import sharding
from tests import tiny

CFG = dataclasses.replace(
  tiny.MODEL, causal=True, attention_bias=True, qk_norm=True
)
# Two groups of 64 input features for o_proj and down_proj, one a device.
WIDE = dataclasses.replace(
  CFG, hidden_size=64, num_heads=8, num_kv_heads=4, head_dim=16, mlp_size=128
)
KERNELS = {
  *(f'self_attn/{name}_proj' for name in 'qkvo'),
  *(f'mlp/{name}_proj' for name in ('gate', 'up', 'down')),
}
ways = pytest.mark.parametrize('how', quantize.COMPRESSIONS)
coded = pytest.mark.parametrize('how', ['int8', 'int4'])


def compressed(how, cfg=CFG):
  return transformer.TransformerCausalLM(cfg=cfg).compress(
    tiny.params(cfg), how
  )


def flat(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


def dequantised(params):
  """Parameters of an uncompressed model: scale times whole numbers."""

  def widen(tree):
    if 'kernel' not in tree:
      return {
        k: widen(v) if isinstance(v, dict) else v for k, v in tree.items()
      }
    kernel = np.asarray(tree['kernel'].astype(jnp.float32), np.float64)
    rest = {k: v for k, v in tree.items() if k in ('bias', 'lora_a', 'lora_b')}
    for name in ('scale', 'group_scale'):
      if name in tree:
        scale = np.asarray(tree[name], np.float64)
        times = kernel.shape[-2] // scale.shape[-2]
        kernel = kernel * np.repeat(scale, times, -2)
    return {'kernel': kernel.astype(np.float32), **rest}

  return {**params, 'layers': widen(params['layers'])}


@functools.partial(jax.jit, static_argnums=0)
def logits(lm, params, ids, mask):
  query = jnp.broadcast_to(jnp.arange(1, ids.shape[1] + 1)[None], ids.shape)
  return lm(params, ids, mask, query)


@ways
def test_kernels_of_the_layers_are_replaced_and_nothing_else(how):
  own, got = flat(tiny.params(CFG)), flat(compressed(how))
  added = {'int8': 'scale', 'int4': 'group_scale'}.get(how)
  paths = {f'layers/{name}' for name in KERNELS}
  assert got.keys() - own.keys() == (
    {f'{path}/{added}' for path in paths} if added else set()
  )
  assert own.keys() <= got.keys()
  for name, leaf in own.items():
    if name.removesuffix('/kernel') in paths:
      assert got[name].shape == leaf.shape
      changed = not np.array_equal(got[name].astype(jnp.float32), leaf)
      assert changed == (how != 'none')
    else:  # embedding, norms, biases and the unembedding
      np.testing.assert_array_equal(got[name], leaf, name)


@coded
def test_each_layer_has_its_own_scales(how):
  whole = flat(compressed(how)['layers'])
  own = flat(tiny.params(CFG)['layers'])
  for name in KERNELS:
    for layer in range(CFG.num_layers):
      kernel = jnp.asarray(own[f'{name}/kernel'][layer])
      for leaf, want in quantize.COMPRESSIONS[how](kernel).items():
        np.testing.assert_array_equal(whole[f'{name}/{leaf}'][layer], want)


@coded
@pytest.mark.parametrize('rank', [0, 2])
def test_compressed_linear_equals_the_dequantised_kernel(how, rank):
  cfg = dataclasses.replace(CFG, lora_rank=rank)
  linear = layers.Linear(cfg, 20, use_bias=True)
  x = jax.random.normal(jax.random.key(0), (3, 96))
  params = linear.init(jax.random.key(1), x)['params']
  # Biases and adapters that act.
  params = {
    k: jax.random.normal(jax.random.key(i), v.shape) if k != 'kernel' else v
    for i, (k, v) in enumerate(sorted(params.items()))
  }
  rest = {k: v for k, v in params.items() if k != 'kernel'}
  small = quantize.COMPRESSIONS[how](params['kernel'])
  got = linear.apply({'params': {**small, **rest}}, x)

  own = dequantised({'layers': {**small, **rest}})['layers']
  own = {k: np.asarray(v, np.float64) for k, v in own.items()}
  y = np.asarray(x, np.float64) @ own['kernel'] + own['bias']
  if rank:
    scale = cfg.lora_alpha / rank
    y += scale * np.asarray(x, np.float64) @ own['lora_a'] @ own['lora_b']
  np.testing.assert_allclose(got, y, rtol=1e-4, atol=1e-4)
  exact = linear.apply({'params': params}, x)
  assert np.abs(exact - got).max() > 1e-3  # it is compressed


@coded
def test_compressed_model_equals_the_dequantised_one(how):
  lm = transformer.TransformerCausalLM(cfg=CFG)
  ids, mask = map(jnp.asarray, tiny.pad(tiny.random_prompts(0, [7, 3, 5]), 7))
  small = compressed(how)
  got = logits(lm, small, ids, mask)
  want = logits(lm, dequantised(small), ids, mask)
  real = np.asarray(mask)
  np.testing.assert_allclose(got[real], want[real], rtol=1e-4, atol=1e-4)
  own = logits(lm, tiny.params(CFG), ids, mask)
  assert 1e-3 < np.abs(got - own)[real].max() < {'int8': 0.5, 'int4': 5.0}[how]


@pytest.mark.parametrize('sizes', [(1, 1, 2), (1, 2, 1), (2, 2, 2)])
@pytest.mark.parametrize(
  ('how', 'cfg'),
  [('int8', CFG), ('int4', WIDE)],
  ids=['int8', 'int4'],
)
def test_devices_of_a_mesh_compute_the_same(how, cfg, sizes):
  lm = transformer.TransformerCausalLM(cfg=cfg)
  prompts = tiny.random_prompts(0, [7, 3, 5, 6])
  ids, mask = map(jnp.asarray, tiny.pad(prompts, 7))
  small = compressed(how, cfg)
  data, fsdp, tensor = sizes
  mesh = sharding.make_mesh(
    sharding.MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
  )
  part, rows = lm.part(mesh), P(('data', 'fsdp'))
  placed = jax.device_put(small, sharding.param_shardings(small, mesh))
  kernel = placed['layers']['mlp']['down_proj']['kernel']
  assert kernel.dtype == jnp.dtype(how)
  got = jax.jit(
    jax.shard_map(
      lambda *args: logits(part, *args),
      mesh=mesh,
      in_specs=(sharding.specs(small), rows, rows),
      out_specs=rows,
      check_vma=False,
    )
  )(placed, ids, mask)
  want, real = logits(lm, small, ids, mask), np.asarray(mask)
  np.testing.assert_allclose(
    np.asarray(got)[real], np.asarray(want)[real], rtol=1e-4, atol=1e-4
  )


@coded
def test_compressing_what_is_on_a_mesh_gives_the_same(how):
  lm = transformer.TransformerCausalLM(cfg=WIDE)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
  own = tiny.params(WIDE)
  placed = jax.device_put(own, sharding.param_shardings(own, mesh))
  got, want = lm.compress(placed, how), lm.compress(own, how)
  jax.tree.map(np.testing.assert_array_equal, got, want)
