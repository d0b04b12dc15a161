"""Mixtures of experts that are made of folders of dense models."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.flax import load_file

from dllm_jax import errors
from dllm_jax.hf import load, upcycled
from dllm_jax.models import network
from dllm_jax.runtime import sharding

TOKENS = np.arange(2 * 12).reshape(2, 12) * 11 % 250


def mesh_of(**sizes):
  return sharding.make_mesh(sharding.MeshConfig(**{'data': 1, **sizes}))


@pytest.fixture(scope='module')
def mesh():
  return mesh_of()


def read(path, mesh):
  """The config, the parameters and the logits of a folder's model."""
  denoiser, params = load.load(load.read(path), mesh)
  apply = jax.jit(network.Transformer(denoiser.cfg).apply)
  mask = jnp.ones(TOKENS.shape, bool)
  return denoiser.cfg, params, apply({'params': params}, TOKENS, mask)


@pytest.mark.parametrize(
  ('family', 'sparse_every'), [('gpt2', 2), ('gpt2', 1), ('llama', 1)]
)
def test_it_computes_what_the_dense_model_computes(
  shared_dir, tmp_path, mesh, family, sparse_every
):
  source = shared_dir / 'golden' / f'{family}_tiny'
  upcycled.convert(
    source, tmp_path / 'moe', mesh, num_experts=4, sparse_every=sparse_every
  )
  _, _, want = read(source, mesh)
  cfg, params, got = read(tmp_path / 'moe', mesh)
  np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
  assert (cfg.num_experts, cfg.sparse_every) == (4, sparse_every)
  sparse = params['layers'].get('sparse', params['layers'])
  routers = np.asarray(sparse['mlp']['gate']['kernel'])
  assert len(routers) == cfg.num_layers // sparse_every
  assert 0.01 < routers.std() < 0.03


def test_a_divided_model_has_the_same_bytes(shared_dir, tmp_path, mesh):
  source = shared_dir / 'golden' / 'gpt2_tiny'
  for name, on in (('one', mesh), ('two', mesh_of(fsdp=2))):
    upcycled.convert(source, tmp_path / name, on, num_experts=4, seed=3)
  read = lambda name: (tmp_path / name / 'model.safetensors').read_bytes()
  assert read('one') == read('two')


def test_a_folder_that_could_not_be_read_again_is_refused(
  shared_dir, tmp_path, mesh
):
  source = tmp_path / 'source'
  shutil.copytree(shared_dir / 'golden' / 'gpt2_tiny', source)
  config = json.loads((source / 'config.json').read_text())
  del config['eos_token_id']
  (source / 'config.json').write_text(json.dumps(config))
  with pytest.raises(errors.UserError, match='EOS'):
    upcycled.convert(source, tmp_path / 'out', mesh, num_experts=4)
  assert not (tmp_path / 'out').exists()


def test_what_cannot_be_upcycled_is_refused(shared_dir, tmp_path, mesh):
  golden = shared_dir / 'golden'
  make = lambda source, **more: upcycled.convert(
    source, tmp_path / 'out', mesh, **{'num_experts': 4, **more}
  )
  with pytest.raises(errors.UserError, match='only a dense transformer'):
    make(golden / 'olmoe_tiny')
  with pytest.raises(errors.UserError, match='sparse_every 5 does not divide'):
    make(golden / 'gpt2_tiny', sparse_every=5)
  assert not (tmp_path / 'out').exists()
  (tmp_path / 'out').mkdir()
  with pytest.raises(errors.UserError, match='already exists'):
    make(tmp_path / 'nowhere')


def test_the_command(commands, shared_dir, tmp_path):
  source = shared_dir / 'golden' / 'gpt2_tiny'
  run = lambda *more: commands.run(
    'convert.py',
    *('--from', source, '--to', tmp_path / 'moe', *more),
    config=False,
  )
  ran = run('--upcycle', 3, '--dtype', 'bfloat16')
  assert (ran.code, ran.err) == (0, '')
  record = load.read(tmp_path / 'moe').record
  assert record.model.num_experts == 3
  kept = load.read(source).record
  assert record.special == kept.special
  weights = load_file(tmp_path / 'moe' / 'model.safetensors')
  assert {str(x.dtype) for x in weights.values()} == {'bfloat16'}
  ran = run('--sparse_every', 2)
  assert ran.code != 0 and 'is read with --upcycle alone' in ran.err
  ran = run('--upcycle', 3, '--merge_lora')
  assert ran.code != 0 and 'merge them first' in ran.err
