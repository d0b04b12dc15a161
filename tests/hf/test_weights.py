"""Hugging Face folders: recorded logits, the same bytes back, nothing odd."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dllm_jax import errors
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import shards
from dllm_jax.hf import weights as hf
from dllm_jax.models import attention, stack, transformer
from dllm_jax.ops import schedules
from dllm_jax.runtime import sharding
from tests import tiny

FAMILIES = ('llada', 'dream', 'llama', 'qwen2', 'qwen3')
close = functools.partial(np.testing.assert_allclose, atol=5e-4, rtol=0)


@pytest.fixture(params=FAMILIES)
def folder(request, shared_dir):
  return shared_dir / 'golden' / f'{request.param}_tiny'


def mesh(**sizes):
  return sharding.make_mesh(sharding.MeshConfig(**{'data': 1, **sizes}))


@functools.cache
def model(folder):
  """(cfg, params) of a recorded model."""
  record = hf_config.read(folder)
  return record.model, load(folder, record)


def load(folder, record, places=None, **changes):
  return hf.load(
    shards.list_tensors(folder),
    record.family,
    dataclasses.replace(record.model, **changes),
    places or mesh(),
    where=str(folder),
  )


@functools.partial(jax.jit, static_argnames='cfg')
def forward(params, tokens, mask, *, cfg):
  return transformer.Transformer(cfg).apply({'params': params}, tokens, mask)


def test_recorded_logits(folder):
  cfg, params = model(folder)
  want = tiny.recorded(folder, 'golden.npz')
  mask = np.ones(want['tokens'].shape, bool)
  close(forward(params, want['tokens'], mask, cfg=cfg), want['logits'])


def test_recorded_hidden_states(folder):
  cfg, params = model(folder)
  want = tiny.recorded(folder, 'golden.npz')
  tokens = jnp.asarray(want['tokens'][:1])
  mask = jnp.ones(tokens.shape, bool)
  x = params['embed_tokens'][tokens]
  np.testing.assert_array_equal(x[0], want['hidden_states'][0])
  position = schedules.positions(mask)
  middle, _ = stack.run_layers(
    cfg,
    params['layers'],
    x,
    attention.visible(position, position, mask, causal=cfg.causal),
    position,
    0,
    1,
  )
  final = transformer.Transformer(cfg).apply(
    {'params': params}, tokens, mask, method=transformer.Transformer.hidden
  )
  assert len(want['hidden_states']) == cfg.num_layers + 1 == 3
  close(middle[0], want['hidden_states'][1])
  close(final[0], want['hidden_states'][2])


@pytest.mark.parametrize('side', ['left', 'right'])
def test_recorded_ragged_rows(folder, side):
  cfg, params = model(folder)
  want = tiny.recorded(folder, 'golden.npz')
  lengths = want['mixed_lengths']
  assert len(set(lengths.tolist())) > 1
  pairs = zip(want['mixed_tokens'], lengths, strict=True)
  rows = [row[:n].tolist() for row, n in pairs]
  width = want['mixed_tokens'].shape[1] + 2
  ids, mask = tiny.pad(rows, width, 99, side=side)
  logits = np.asarray(forward(params, ids, mask, cfg=cfg))
  for i, n in enumerate(lengths):
    close(logits[i, mask[i]], want['mixed_logits'][i, :n])


@pytest.mark.parametrize('max_bytes', [2**30, 30_000])
def test_the_same_bytes_go_back(folder, tmp_path, max_bytes):
  record = hf_config.read(folder)
  _, params = model(folder)
  hf.save(tmp_path, params, record, max_shard_bytes=max_bytes)
  files = sorted(tmp_path.glob('*.safetensors'))
  assert (len(files) > 2) == (max_bytes == 30_000)
  found = {}
  for file in files:
    assert file.stat().st_size < max(max_bytes, 500 * 64 * 4) + 4000
    found |= load_file(file)
  want = load_file(folder / 'model.safetensors')
  assert set(found) == set(want)
  for name, array in want.items():
    assert found[name].dtype == array.dtype
    assert found[name].shape == array.shape
    assert found[name].tobytes() == array.tobytes()
  original = json.loads((folder / 'config.json').read_bytes())
  assert json.loads((tmp_path / 'config.json').read_bytes()) == original
  again = load(tmp_path, hf_config.read(tmp_path))
  jax.tree.map(np.testing.assert_array_equal, again, params)


def random_bits(folder, tmp_path, name='llada'):
  """The model with tensors of random bits: infinities, denormals, -0.

  NaNs become zeros: compilers may change a NaN's payload.
  """
  rng = np.random.default_rng(0)
  path, arrays = folder / 'golden' / f'{name}_tiny', {}
  for key, array in load_file(path / 'model.safetensors').items():
    bits = rng.integers(0, 2**16, array.shape, np.uint16)
    bits[(bits & 0x7F80 == 0x7F80) & (bits & 0x7F != 0)] = 0
    arrays[key] = bits.view(ml_dtypes.bfloat16)
  save_file(arrays, tmp_path / 'model.safetensors')
  config = json.loads((path / 'config.json').read_bytes())
  config['torch_dtype'] = 'bfloat16'
  (tmp_path / 'config.json').write_text(json.dumps(config))
  return arrays


@pytest.mark.parametrize('name', ['llada', 'dream'])
def test_every_bit_of_bfloat16_survives(shared_dir, tmp_path, name):
  arrays = random_bits(shared_dir, tmp_path, name)
  record = hf_config.read(tmp_path)
  assert hf.stored_dtype(shards.list_tensors(tmp_path), '') == 'bfloat16'
  cfg = dataclasses.replace(record.model, param_dtype='bfloat16')
  params = load(tmp_path, record, param_dtype='bfloat16')
  out = tmp_path / 'out'
  out.mkdir()
  hf.save(out, params, record._replace(model=cfg))
  found = load_file(out / 'model.safetensors')
  assert set(found) == set(arrays)
  for key, array in arrays.items():
    assert found[key].tobytes() == array.tobytes()


@pytest.mark.parametrize('sizes', [{'fsdp': 2, 'tensor': 2}, {'fsdp': 4}])
def test_each_device_gets_its_shard(folder, sizes):
  record = hf_config.read(folder)
  places = mesh(**sizes)
  params = load(folder, record, places)
  want = sharding.param_shardings(params, places)
  for leaf, place in zip(
    jax.tree.leaves(params), jax.tree.leaves(want), strict=True
  ):
    assert leaf.sharding == place
  kernel = params['layers']['mlp']['up_proj']['kernel']
  assert not kernel.sharding.is_fully_replicated
  whole = model(folder)[1]
  jax.tree.map(np.testing.assert_array_equal, params, whole)


def test_another_dtype_is_a_cast(shared_dir):
  folder = shared_dir / 'golden' / 'qwen2_tiny'
  params = load(folder, hf_config.read(folder), param_dtype='bfloat16')
  for got, want in zip(
    jax.tree.leaves(params), jax.tree.leaves(model(folder)[1]), strict=True
  ):
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))


def test_tensors_of_two_dtypes_need_a_word(shared_dir, tmp_path):
  arrays = random_bits(shared_dir, tmp_path)
  name = 'model.transformer.ln_f.weight'
  arrays[name] = arrays[name].astype(np.float32)
  save_file(arrays, tmp_path / 'model.safetensors')
  with pytest.raises(errors.UserError, match='bfloat16 and float32.*--dtype'):
    hf.stored_dtype(shards.list_tensors(tmp_path), str(tmp_path))


def test_grouped_heads_and_a_tied_table_of_llada(shared_dir, tmp_path):
  """iLLaDA's shape: LLaDA's names, fewer key heads, one table."""
  cfg = dataclasses.replace(tiny.LLADA, num_kv_heads=2, tie_embeddings=True)
  params = jax.tree.map(jnp.asarray, tiny.params(cfg))
  special = hf_config.Special(mask_token=11, eos_tokens=(12,))
  hf.save(tmp_path, params, hf_config.Record('llada', cfg, special))
  names = load_file(tmp_path / 'model.safetensors')
  assert 'model.transformer.ff_out.weight' not in names
  assert names['model.transformer.blocks.1.k_proj.weight'].shape == (32, 64)
  record = hf_config.read(tmp_path)
  assert (record.family, record.model) == ('llada', cfg)
  assert record.special.mask_token == 11
  jax.tree.map(np.testing.assert_array_equal, load(tmp_path, record), params)


def test_adapters_are_not_dropped_in_silence(tmp_path):
  cfg = dataclasses.replace(tiny.MODEL, lora_rank=2)
  record = hf_config.Record('llada', cfg, hf_config.Special(mask_token=1))
  with pytest.raises(errors.UserError, match='merge them'):
    hf.save(tmp_path, tiny.params(cfg), record)
  assert not list(tmp_path.iterdir())
