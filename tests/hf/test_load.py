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
from dllm_jax.hf import load as load_lib
from dllm_jax.hf import save, shards, table
from dllm_jax.models import attention, network, stack, transformer
from dllm_jax.ops import schedules
from dllm_jax.runtime import sharding
from tests import tiny

FAMILIES = (
  'llada',
  'dream',
  'llama',
  'qwen2',
  'qwen3',
  'olmoe',
  'qwen3_moe',
  'gpt2',
)
close = functools.partial(np.testing.assert_allclose, atol=5e-4, rtol=0)


@pytest.fixture(params=FAMILIES)
def folder(request, shared_dir):
  return shared_dir / 'golden' / f'{request.param}_tiny'


def mesh(**sizes):
  return sharding.make_mesh(sharding.MeshConfig(**{'data': 1, **sizes}))


@functools.cache
def model(folder):
  """(cfg, params) of a recorded model."""
  denoiser, params = load_lib.load(load_lib.read(folder), mesh())
  return denoiser.cfg, params


def load(folder, places=None, **how):
  return load_lib.load(load_lib.read(folder), places or mesh(), **how)[1]


@functools.partial(jax.jit, static_argnames='cfg')
def forward(params, tokens, mask, *, cfg):
  return network.Transformer(cfg).apply({'params': params}, tokens, mask)


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
  position = schedules.positions(mask)
  if cfg.max_positions:
    x += params['embed_positions'][position]
  np.testing.assert_array_equal(x[0], want['hidden_states'][0])
  middle, _ = stack.run_layers(
    cfg,
    jax.tree.map(lambda leaf: leaf[:1], params['layers']),
    x,
    attention.visible(position, position, mask, block=cfg.attention_block),
    position,
  )
  final = network.Transformer(cfg).apply(
    {'params': params}, tokens, mask, method=network.Transformer.hidden
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
def test_the_same_bytes_go_back(folder, tmp_path, monkeypatch, max_bytes):
  monkeypatch.setattr(save, 'MAX_SHARD_BYTES', max_bytes)
  record = hf_config.read(folder)
  _, params = model(folder)
  target = tmp_path / 'new'
  save.save(target, params, record)
  files = sorted(target.glob('*.safetensors'))
  assert (len(files) > 2) == (max_bytes == 30_000)
  found = {}
  for file in files:
    assert file.stat().st_size < max(max_bytes, 500 * 64 * 4) + 4000
    found |= load_file(file)
  want = {
    name: array
    for name, array in load_file(folder / 'model.safetensors').items()
    if not name.endswith('.attn.bias')  # of GPT-2, the causal mask
  }
  assert set(found) == set(want)
  for name, array in want.items():
    assert found[name].dtype == array.dtype
    assert found[name].shape == array.shape
    assert found[name].tobytes() == array.tobytes()
  original = json.loads((folder / 'config.json').read_bytes())
  assert json.loads((target / 'config.json').read_bytes()) == original
  again = load(target)
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
  folder = load_lib.read(tmp_path)
  denoiser, params = load_lib.load(folder, mesh())
  assert denoiser.cfg.param_dtype == 'bfloat16'
  out = tmp_path / 'out'
  save.save(out, params, folder.record._replace(denoiser=denoiser))
  found = load_file(out / 'model.safetensors')
  assert set(found) == set(arrays)
  for key, array in arrays.items():
    assert found[key].tobytes() == array.tobytes()


@pytest.mark.parametrize('sizes', [{'fsdp': 2, 'tensor': 2}, {'fsdp': 4}])
def test_each_device_gets_its_shard(folder, sizes):
  if folder.name == 'olmoe_tiny' and 'tensor' in sizes:
    with pytest.raises(errors.UserError, match='mesh.tensor=2 divides heads'):
      load(folder, mesh(**sizes))
    sizes = {'fsdp': 2}
  places = mesh(**sizes)
  params = load(folder, places)
  want = sharding.param_shardings(params, places)
  for leaf, place in zip(
    jax.tree.leaves(params), jax.tree.leaves(want), strict=True
  ):
    assert leaf.sharding == place
  mlp = params['layers']['mlp']
  kernel = mlp.get('experts', mlp)['up_proj']['kernel']
  assert not kernel.sharding.is_fully_replicated
  whole = model(folder)[1]
  jax.tree.map(np.testing.assert_array_equal, params, whole)


def test_another_dtype_is_a_cast(shared_dir):
  folder = shared_dir / 'golden' / 'qwen2_tiny'
  params = load(folder, param_dtype='bfloat16')
  for got, want in zip(
    jax.tree.leaves(params), jax.tree.leaves(model(folder)[1]), strict=True
  ):
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))


@pytest.mark.parametrize('named', ['bfloat16', None])
def test_mixed_dtypes_are_cast_to_that_of_the_config(
  shared_dir, tmp_path, named
):
  """Float32 norms among bfloat16; where config.json is silent, most tensors."""
  arrays = random_bits(shared_dir, tmp_path)
  name = 'model.transformer.ln_f.weight'
  arrays[name] = np.linspace(0, 1, 64, dtype=np.float32)
  save_file(arrays, tmp_path / 'model.safetensors')
  change_config(tmp_path, torch_dtype=named)
  model, params = load_lib.load(load_lib.read(tmp_path), mesh())
  assert model.cfg.param_dtype == 'bfloat16'
  assert {str(x.dtype) for x in jax.tree.leaves(params)} == {'bfloat16'}
  np.testing.assert_array_equal(
    params['norm']['weight'], arrays[name].astype(jnp.bfloat16)
  )


def change_config(folder, **changes):
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def copied(source, target):
  target.mkdir()
  for name in ('config.json', 'model.safetensors'):
    (target / name).write_bytes((source / name).read_bytes())
  return target


@pytest.mark.parametrize('family', ['llada', 'qwen3'])
def test_harmless_extras_are_read_past(shared_dir, tmp_path, family):
  """A stored lm_head of a tied model, rotary tables, notes of transformers."""
  source = shared_dir / 'golden' / f'{family}_tiny'
  folder = copied(source, tmp_path / 'model')
  arrays = dict(load_file(folder / 'model.safetensors'))
  tie = {'llada': 'weight_tying', 'qwen3': 'tie_word_embeddings'}[family]
  change_config(folder, **{tie: True, '_attn_implementation_autoset': True})
  head = {'llada': 'model.transformer.ff_out.weight'}.get(
    family, 'lm_head.weight'
  )
  without = {k: v for k, v in arrays.items() if k != head}
  save_file(without, folder / 'model.safetensors')
  want = load(folder)
  table_name = 'model.layers.0.self_attn.rotary_emb.inv_freq'
  extras = {head: arrays.get(head, np.zeros((9, 9), np.float32))}
  extras[table_name] = np.zeros(4, np.float32)
  save_file(without | extras, folder / 'model.safetensors')
  assert 'lm_head' not in want
  jax.tree.map(np.testing.assert_array_equal, load(folder), want)


@pytest.mark.parametrize(
  'source, family, fields',
  [
    (
      'qwen3',
      'sdar',
      {
        'model_type': 'sdar',
        'architectures': ['SDARForCausalLM'],
        'block_size': 1,
      },
    ),
    (
      'qwen2',
      'fast_dllm',
      {
        'model_type': 'Fast_dLLM_Qwen',
        'architectures': ['Fast_dLLM_QwenForCausalLM'],
        'bd_size': 1,
      },
    ),
  ],
)
def test_blocks_of_one_have_the_recorded_causal_logits(
  shared_dir, tmp_path, source, family, fields
):
  """The tensors of Qwen under the other names; and the same bytes back."""
  golden = shared_dir / 'golden' / f'{source}_tiny'
  folder = copied(golden, tmp_path / 'model')
  change_config(folder, mask_token_id=7, **fields)
  record = hf_config.read(folder)
  assert (record.family, record.special.mask_token) == (family, 7)
  assert record.model.block_causal == 1 and not record.model.causal
  params = load(folder)
  want = tiny.recorded(golden, 'golden.npz')
  mask = np.ones(want['tokens'].shape, bool)
  got = forward(params, want['tokens'], mask, cfg=record.model)
  close(got, want['logits'])
  wider = dataclasses.replace(record.model, block_causal=2)
  other = forward(params, want['tokens'], mask, cfg=wider)
  gap = np.abs(np.asarray(other) - want['logits']).max(axis=(0, 2))
  assert (gap[::2] > 0.01).all()  # they read the token after them
  save.save(tmp_path / 'new', params, record)
  read = lambda path: json.loads((path / 'config.json').read_bytes())
  assert read(tmp_path / 'new') == read(folder)
  old, new = (
    load_file(path / 'model.safetensors') for path in (folder, tmp_path / 'new')
  )
  assert set(new) == set(old)
  assert all(new[name].tobytes() == old[name].tobytes() for name in old)


def test_gpt2_names_may_have_a_prefix(shared_dir, tmp_path):
  source = shared_dir / 'golden' / 'gpt2_tiny'
  folder = copied(source, tmp_path / 'model')
  file = folder / 'model.safetensors'
  plain = load_file(file)
  long = {f'transformer.{name}': array for name, array in plain.items()}
  save_file(long | {'lm_head.weight': plain['wte.weight']}, file)
  jax.tree.map(np.testing.assert_array_equal, load(folder), model(source)[1])
  save_file(long | {'wte.weight': plain['wte.weight']}, file)
  with pytest.raises(errors.UserError, match="'wte.weight' is there with the"):
    load(folder)


def test_untied_models_keep_their_lm_head(shared_dir, tmp_path):
  folder = copied(shared_dir / 'golden' / 'llada_tiny', tmp_path / 'model')
  arrays = dict(load_file(folder / 'model.safetensors'))
  del arrays['model.transformer.ff_out.weight']
  save_file(arrays, folder / 'model.safetensors')
  with pytest.raises(errors.UserError, match='ff_out.weight. is missing'):
    load(folder)


def test_an_unreadable_file_is_one_line(shared_dir, tmp_path, monkeypatch):
  folder = copied(shared_dir / 'golden' / 'llada_tiny', tmp_path / 'model')

  def refuse(*args, **kwargs):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(shards.safetensors, 'safe_open', refuse)
  line = 'cannot read .*model.safetensors: Permission denied; check its perm'
  with pytest.raises(errors.UserError, match=line):
    load(folder)


def test_grouped_heads_and_a_tied_table_of_llada(shared_dir, tmp_path):
  """iLLaDA's shape: LLaDA's names, fewer key heads, one table."""
  cfg = dataclasses.replace(tiny.LLADA, num_kv_heads=2, tie_embeddings=True)
  params = jax.tree.map(jnp.asarray, tiny.params(cfg))
  special = hf_config.Special(mask_token=11, eos_tokens=(12,))
  target = tmp_path / 'new'
  save.save(
    target,
    params,
    hf_config.Record('llada', transformer.of_config(cfg), special),
  )
  names = load_file(target / 'model.safetensors')
  assert 'model.transformer.ff_out.weight' not in names
  assert names['model.transformer.blocks.1.k_proj.weight'].shape == (32, 64)
  record = hf_config.read(target)
  assert (record.family, record.model) == ('llada', cfg)
  assert record.special.mask_token == 11
  jax.tree.map(np.testing.assert_array_equal, load(target), params)


def test_a_model_of_no_family_has_the_native_form(tmp_path):
  """Tensors by our paths, nothing turned; config.json has our fields."""
  cfg = dataclasses.replace(tiny.MODEL, qk_norm=True)
  assert hf_config.family_of(cfg) == hf_config.NATIVE
  special = hf_config.Special(mask_token=29, eos_tokens=(28,))
  record = hf_config.Record(
    hf_config.NATIVE, transformer.of_config(cfg), special
  )
  save.save(tmp_path / 'new', tiny.params(cfg), record)
  config = json.loads((tmp_path / 'new' / 'config.json').read_bytes())
  assert (config['model_type'], config['vocab_size']) == ('dllm_jax', 32)
  assert config['model']['name'] == 'transformer'
  assert config['model']['qk_norm'] is True
  arrays = load_file(tmp_path / 'new' / 'model.safetensors')
  np.testing.assert_array_equal(
    arrays['layers.mlp.up_proj.kernel'],
    tiny.params(cfg)['layers']['mlp']['up_proj']['kernel'],
  )
  folder = load_lib.read(tmp_path / 'new')
  assert folder.record.special == special
  own, params = load_lib.load(folder, mesh(fsdp=2))
  assert own.cfg == cfg
  jax.tree.map(np.testing.assert_array_equal, params, tiny.params(cfg))


@pytest.mark.parametrize(
  'changes, family',
  [
    ({}, 'llada'),
    ({'attention_bias': True, 'logit_shift': True}, 'dream'),
    ({'causal': True}, 'llama'),
    ({'causal': True, 'attention_bias': True}, 'qwen2'),
    ({'causal': True, 'qk_norm': True}, 'qwen3'),
    ({'block_causal': 4, 'qk_norm': True}, 'sdar'),
    (
      {'block_causal': 4, 'attention_bias': True, 'logit_shift': True},
      'fast_dllm',
    ),
    ({'block_causal': 4}, 'dllm_jax'),
    ({'logit_shift': True}, 'dllm_jax'),
    ({'head_dim': 6}, 'dllm_jax'),
  ],
)
def test_family_of_a_new_model(changes, family):
  cfg = dataclasses.replace(tiny.MODEL, **changes)
  assert hf_config.family_of(cfg) == family


def test_targets_have_the_place_of_every_leaf():
  places = mesh(fsdp=2)
  leaves = table.targets(tiny.DENOISER, places)
  assert leaves['layers/mlp/up_proj/kernel'].sharding.spec[1] == 'fsdp'
