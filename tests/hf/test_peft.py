"""Adapters in PEFT's layout, there and back, and merged as PEFT would."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dllm_jax import errors
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import load, peft
from dllm_jax.hf.families import FAMILIES as RECORDS
from dllm_jax.models import lora, network
from dllm_jax.runtime import sharding
from tests import tiny

FAMILIES = ('llada', 'dream', 'llama', 'qwen2', 'qwen3')
LORA = dataclasses.replace(tiny.MODEL, lora_rank=2, lora_alpha=6.0)


def mesh():
  return sharding.make_mesh(sharding.MeshConfig())


def adapters_of(cfg):
  return lora.split(tiny.params(cfg))[0]


def save(folder, adapters, family, cfg, **how):
  folder.mkdir(exist_ok=True)
  arrays = dict(peft.tensors(family, adapters))
  peft.save(folder, arrays, family, cfg, **how)


@functools.partial(jax.jit, static_argnames='cfg')
def forward(params, tokens, *, cfg):
  mask = jax.numpy.ones(tokens.shape, bool)
  return network.Transformer(cfg).apply({'params': params}, tokens, mask)


@pytest.mark.parametrize('family', FAMILIES)
def test_there_and_back(tmp_path, family):
  adapters = adapters_of(LORA)
  save(tmp_path, adapters, family, LORA, base='org/name')
  found = peft.load(tmp_path, family, tiny.MODEL, mesh())
  assert peft.rank_of(tmp_path) == (LORA.lora_rank, LORA.lora_alpha)
  jax.tree.map(np.testing.assert_array_equal, found, adapters)
  config = json.loads((tmp_path / peft.CONFIG_FILE).read_text())
  assert config['base_model_name_or_path'] == 'org/name'
  assert (config['peft_type'], config['r'], config['lora_alpha']) == (
    'LORA',
    2,
    6.0,
  )


def test_the_names_and_shapes_are_pefts(tmp_path):
  adapters = adapters_of(LORA)
  save(tmp_path / 'q', adapters, 'qwen2', LORA)
  found = load_file(tmp_path / 'q' / peft.WEIGHTS_FILE)
  stem = 'base_model.model.model.layers.1.mlp.down_proj.lora_'
  assert found[stem + 'A.weight'].shape == (2, tiny.MODEL.mlp_size)
  assert found[stem + 'B.weight'].shape == (tiny.MODEL.hidden_size, 2)
  path = 'layers/mlp/down_proj/lora_a'
  np.testing.assert_array_equal(found[stem + 'A.weight'], adapters[path][1].T)
  assert len(found) == 2 * 7 * 2
  save(tmp_path / 'l', adapters, 'llada', LORA)
  found = load_file(tmp_path / 'l' / peft.WEIGHTS_FILE)
  stem = 'base_model.model.model.transformer.blocks.0.'
  assert f'{stem}attn_out.lora_A.weight' in found
  assert f'{stem}ff_out.lora_B.weight' in found


@pytest.mark.parametrize('family', FAMILIES)
def test_pefts_expression_matches_the_adapted_modules_alone(tmp_path, family):
  save(tmp_path, adapters_of(LORA), family, LORA)
  config = json.loads((tmp_path / peft.CONFIG_FILE).read_text())
  matches = functools.partial(re.fullmatch, config['target_modules'])
  for name in load_file(tmp_path / peft.WEIGHTS_FILE):
    module = name.removeprefix('base_model.model.').rsplit('.lora_', 1)[0]
    assert matches(module), module
  head = RECORDS[family].names.top['lm_head/kernel'].removesuffix('.weight')
  assert not matches(head)
  norm = RECORDS[family].names.tensor('layers/input_layernorm/weight', 0)
  assert not matches(norm.removesuffix('.weight'))


@pytest.mark.parametrize('family', ['llada', 'qwen3'])
def test_merging_is_what_peft_says_it_is(shared_dir, tmp_path, family):
  """W + alpha / r B A on their own tensors gives our adapted logits."""
  folder = shared_dir / 'golden' / f'{family}_tiny'
  record = hf_config.read(folder)
  cfg = dataclasses.replace(record.model, lora_rank=2, lora_alpha=3.0)
  _, params = load.load(load.read(folder), mesh())
  adapters = adapters_of(cfg)
  save(tmp_path, adapters, family, cfg)
  arrays = dict(load_file(folder / 'model.safetensors'))
  factors = load_file(tmp_path / peft.WEIGHTS_FILE)
  for name, a in factors.items():
    if '.lora_A.' in name:
      b = factors[name.replace('.lora_A.', '.lora_B.')]
      key = name.removeprefix('base_model.model.').replace('.lora_A', '')
      arrays[key] = arrays[key] + 1.5 * b @ a
  save_file(arrays, tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_bytes((folder / 'config.json').read_bytes())
  _, merged = load.load(load.read(tmp_path), mesh())
  tokens = tiny.recorded(folder, 'golden.npz')['tokens']
  adapted = forward(lora.join(params, adapters), tokens, cfg=cfg)
  by_them = forward(merged, tokens, cfg=record.model)
  by_us = tiny.merge_lora(lora.join(params, adapters), cfg)
  close = functools.partial(np.testing.assert_allclose, atol=5e-4, rtol=0)
  close(by_them, adapted)
  close(forward(by_us, tokens, cfg=record.model), adapted)
  base = forward(params, tokens, cfg=record.model)
  assert np.abs(base - adapted).max() > 0.1


def test_modules_that_were_not_adapted_stay(tmp_path):
  save(tmp_path, adapters_of(LORA), 'qwen2', LORA)
  file = tmp_path / peft.WEIGHTS_FILE
  kept = {k: v for k, v in load_file(file).items() if 'q_proj' in k}
  save_file(kept, file)
  with pytest.raises(errors.UserError, match='is missing, and target_modules'):
    peft.load(tmp_path, 'qwen2', tiny.MODEL, mesh())
  config = json.loads((tmp_path / peft.CONFIG_FILE).read_text())
  config['target_modules'] = ['q_proj']
  (tmp_path / peft.CONFIG_FILE).write_text(json.dumps(config))
  found = peft.load(tmp_path, 'qwen2', tiny.MODEL, mesh())
  for path, leaf in found.items():
    assert bool((np.asarray(leaf) == 0).all()) == ('q_proj' not in path)


def _config(**changes):
  return lambda config, arrays: config.update(changes)


def _rename(old, new):
  def edit(config, arrays):
    key = next(k for k in arrays if old in k)
    arrays[key.replace(old, new)] = arrays.pop(key)

  return edit


def _drop(part):
  return lambda config, arrays: arrays.pop(next(k for k in arrays if part in k))


def _cut(config, arrays):
  key = next(k for k in arrays if 'lora_A' in k)
  arrays[key] = arrays[key][:1].copy()


def _pair(config, arrays):
  """Without one module of those that a list of names means."""
  config['target_modules'] = ['q_proj', 'up_proj']
  for key in [k for k in arrays if 'layers.1.self_attn.q_proj' in k]:
    arrays.pop(key)


def test_layers_and_modules_that_the_config_leaves_out(tmp_path):
  save(tmp_path, adapters_of(LORA), 'qwen2', LORA)
  config = json.loads((tmp_path / peft.CONFIG_FILE).read_text())
  config |= {
    'target_modules': 'all-linear',
    'exclude_modules': ['up_proj'],
    'layers_to_transform': [1],
  }
  (tmp_path / peft.CONFIG_FILE).write_text(json.dumps(config))
  file = tmp_path / peft.WEIGHTS_FILE
  kept = {
    k: v
    for k, v in load_file(file).items()
    if 'layers.1.' in k and 'up_proj' not in k
  }
  save_file(kept, file)
  found = peft.load(tmp_path, 'qwen2', tiny.MODEL, mesh())
  assert not np.asarray(found['layers/mlp/up_proj/lora_a']).any()
  assert np.asarray(found['layers/mlp/down_proj/lora_a'][1]).any()


@pytest.mark.parametrize(
  'edit, line',
  [
    (_config(peft_type='IA3'), "peft_type is 'IA3'; only 'LORA'"),
    (_config(use_dora=True), 'use_dora is True; only False'),
    (_config(use_rslora=True), 'use_rslora is True'),
    (_config(bias='all'), "bias is 'all'; only 'none'"),
    (_config(modules_to_save=['lm_head']), 'modules_to_save is'),
    (_config(rank_pattern={'q_proj': 4}), 'rank_pattern is'),
    (_config(init_lora_weights='pissa'), 'init_lora_weights is .*base model'),
    (_config(r=0), 'r is 0; it must be an integer'),
    (_config(r=10**9), 'r is 1000000000'),
    (_config(lora_alpha='x'), 'lora_alpha is'),
    (_rename('layers.1', 'layers.7'), 'layers.7.* is of no module'),
    (_rename('self_attn.q_proj', 'lm_head'), 'lm_head.* is of no module'),
    (_rename('base_model', '../../evil'), 'evil.* is of no module'),
    (_drop('lora_A'), 'lacks its partner'),
    (_drop('lora_B'), 'lacks its partner'),
    (_cut, 'has the shape'),
    (_pair, 'q_proj.lora_A.weight is missing, and target_modules'),
    (_config(r=2**13), 'r is 8192, more than the'),
    (_config(target_modules='[a'), 'target_modules is .*char-class'),
    (_config(target_modules=None), 'target_modules is None: neither'),
    (_config(layers_to_transform='1'), 'layers_to_transform is no list'),
  ],
)
def test_what_is_not_ours_is_named(tmp_path, edit, line):
  save(tmp_path, adapters_of(LORA), 'qwen2', LORA)
  config = json.loads((tmp_path / peft.CONFIG_FILE).read_text())
  arrays = dict(load_file(tmp_path / peft.WEIGHTS_FILE))
  edit(config, arrays)
  (tmp_path / peft.CONFIG_FILE).write_text(json.dumps(config))
  save_file(arrays, tmp_path / peft.WEIGHTS_FILE)
  with pytest.raises(errors.UserError, match=line):
    peft.load(tmp_path, 'qwen2', tiny.MODEL, mesh())
