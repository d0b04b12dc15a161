"""Folders that are written: bytes, adapters, digests, failures, old kinds."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file

from dllm_jax import errors
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import folder, load, peft, save, shards, sidecar
from dllm_jax.models import lora, network, transformer
from dllm_jax.runtime import sharding
from dllm_jax.text import chat, tokenizer
from tests import tiny

REPO = pathlib.Path(__file__).resolve().parents[2]
FAMILIES = ('llada', 'dream', 'llama', 'qwen2', 'qwen3')


def mesh(**sizes):
  return sharding.make_mesh(sharding.MeshConfig(**{'data': 1, **sizes}))


@functools.partial(jax.jit, static_argnames='cfg')
def forward(params, tokens, *, cfg):
  mask = jnp.ones(tokens.shape, bool)
  return network.Transformer(cfg).apply({'params': params}, tokens, mask)


def golden(shared_dir, family):
  return shared_dir / 'golden' / f'{family}_tiny'


@pytest.fixture(scope='module')
def written(shared_dir, tmp_path_factory):
  """A LLaDA that was written here, with tokenizer files beside it."""
  root = tmp_path_factory.mktemp('written')
  source = root / 'source'
  source.mkdir()
  for name in ('config.json', 'model.safetensors'):
    data = (golden(shared_dir, 'llada') / name).read_bytes()
    (source / name).write_bytes(data)
  (source / 'tokenizer.json').write_text('{"a tokenizer": 1}')
  (source / 'modeling_llada.py').write_text('1 / 0')
  save.convert(source, root / 'model', mesh())
  return root / 'model'


def opened(path, places=None, **how):
  return load.load(load.read(path), places or mesh(), **how)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_round_trip_keeps_every_byte(shared_dir, tmp_path, family):
  source = golden(shared_dir, family)
  _, params = opened(source)
  record = load.read(source).record
  save.save(tmp_path / 'new', params, record, text=source)
  want = load_file(source / 'model.safetensors')
  got = load_file(tmp_path / 'new' / 'model.safetensors')
  assert set(got) == set(want)
  for name, array in want.items():
    assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
    assert got[name].tobytes() == array.tobytes()
  read = lambda d: json.loads((d / 'config.json').read_text())
  assert read(tmp_path / 'new') == read(source)
  # A leaf at a time gives the same files.
  save.convert(source, tmp_path / 'streamed', mesh())
  streamed = load_file(tmp_path / 'streamed' / 'model.safetensors')
  assert {k: v.tobytes() for k, v in streamed.items()} == {
    k: v.tobytes() for k, v in want.items()
  }
  assert sorted(os.listdir(tmp_path)) == ['new', 'streamed']


@pytest.mark.parametrize('family', ['llada', 'qwen2'])
def test_sharded_parameters_are_saved_as_whole_ones(
  shared_dir, tmp_path, monkeypatch, family
):
  monkeypatch.setattr(save, 'MAX_SHARD_BYTES', 50_000)
  source = golden(shared_dir, family)
  record = load.read(source).record
  for name, sizes in (('one', {}), ('parts', {'fsdp': 2, 'tensor': 2})):
    _, params = opened(source, mesh(**sizes))
    kernel = params['layers']['mlp']['up_proj']['kernel']
    assert kernel.sharding.is_fully_replicated == (name == 'one')
    save.save(tmp_path / name, params, record)
  files = sorted(os.listdir(tmp_path / 'one'))
  assert files == sorted(os.listdir(tmp_path / 'parts')) and len(files) > 4
  for file in files:
    one, parts = (tmp_path / name / file for name in ('one', 'parts'))
    assert one.read_bytes() == parts.read_bytes()


def test_two_processes_save_what_lies_on_both(
  shared_dir, tmp_path, monkeypatch
):
  monkeypatch.setattr(save, 'MAX_SHARD_BYTES', 50_000)
  source = golden(shared_dir, 'llada')
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = str(s.getsockname()[1])
  children = [
    subprocess.Popen(
      [sys.executable, '-m', 'tests.hf.save_child', str(rank), port]
      + [source, tmp_path / 'parts'],
      env=os.environ | {'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'},
      cwd=REPO,
      stdout=subprocess.PIPE,
      text=True,
    )
    for rank in range(2)
  ]
  said = [child.communicate(timeout=240)[0] for child in children]
  assert [child.returncode for child in children] == [0, 0]
  assert all('parts already exists' in text for text in said)
  _, params = opened(source)
  record = load.read(source).record
  save.save(tmp_path / 'one', params, record)
  for file in os.listdir(tmp_path / 'one'):
    one, parts = (tmp_path / name / file for name in ('one', 'parts'))
    assert one.read_bytes() == parts.read_bytes()
  assert sorted(os.listdir(tmp_path)) == ['one', 'parts']


def test_text_goes_along_and_code_does_not(written):
  assert sorted(os.listdir(written)) == [
    'config.json',
    'dllm_jax.json',
    'model.safetensors',
    'tokenizer.json',
  ]


def test_dtype_is_cast(shared_dir, tmp_path):
  source = golden(shared_dir, 'llada')
  save.convert(source, tmp_path / 'half', mesh(), dtype='bfloat16')
  config = json.loads((tmp_path / 'half' / 'config.json').read_text())
  assert config['torch_dtype'] == 'bfloat16'
  model, params = opened(tmp_path / 'half')
  cfg = model.cfg
  assert (cfg.param_dtype, cfg.dtype) == ('bfloat16', 'bfloat16')
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)),
    params,
    opened(source)[1],
  )


def test_every_tensor_of_a_native_model_has_its_own_dtype(
  tmp_path, monkeypatch
):
  params = {
    'norm': jnp.arange(3, dtype='float32') / 7,
    'proj': {'kernel': jnp.arange(5, dtype='bfloat16') / 7},
    'scale': jnp.arange(2, dtype='float16') / 7,
  }
  special = hf_config.Special(mask_token=1, eos_tokens=(2,))
  config = hf_config.native({'name': 'table'}, 30, special)
  record = hf_config.Record(
    hf_config.NATIVE, tiny.Table(gen_length=4), special, config
  )
  for name, max_bytes in (('one', 10**9), ('parts', 16)):
    folder = tmp_path / name
    monkeypatch.setattr(save, 'MAX_SHARD_BYTES', max_bytes)
    save.save(folder, params, record)
    tensors = shards.list_tensors(folder)
    assert {key: t.dtype for key, t in tensors.items()} == {
      'norm': 'float32',
      'proj.kernel': 'bfloat16',
      'scale': 'float16',
    }
    got = {key: shards.read(t, (slice(None),)) for key, t in tensors.items()}
    want = (params['norm'], params['proj']['kernel'], params['scale'])
    for key, array in zip(got, want, strict=True):
      assert got[key].tobytes() == np.asarray(array).tobytes()
  assert len(set(t.file for t in tensors.values())) == 2


def test_dtypes_in_memory(written):
  model, half = opened(written, param_dtype='bfloat16')
  cfg = model.cfg
  assert (cfg.param_dtype, cfg.dtype) == ('bfloat16', 'bfloat16')
  model, whole = opened(written, dtype='bfloat16')
  cfg = model.cfg
  assert (cfg.param_dtype, cfg.dtype) == ('float32', 'bfloat16')
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)),
    half,
    whole,
  )


@pytest.fixture(scope='module')
def adapted(shared_dir, tmp_path_factory):
  """A folder of adapters on the recorded LLaDA, and the adapted model."""
  source = golden(shared_dir, 'llada')
  record = load.read(source).record
  cfg = dataclasses.replace(record.model, lora_rank=2, lora_alpha=3.0)
  adapters = lora.split(tiny.params(cfg))[0]
  params = lora.join(opened(source)[1], adapters)
  folder = tmp_path_factory.mktemp('adapted') / 'peft'
  record = record.replace(lora_rank=2, lora_alpha=3.0)
  save.save(folder, params, record, base=str(source))
  return folder, cfg, params


def test_adapters_are_a_folder_that_names_its_base(shared_dir, adapted):
  folder, cfg, params = adapted
  assert sorted(os.listdir(folder)) == [
    'adapter_config.json',
    'adapter_model.safetensors',
    'dllm_jax.json',
  ]
  own, got = opened(folder, mesh(fsdp=2))
  assert own.cfg == cfg
  jax.tree.map(np.testing.assert_array_equal, got, params)
  found = load.read(folder)
  assert found.base == golden(shared_dir, 'llada')
  load.check(found, mesh())


def test_merged_adapters_give_the_logits_of_the_adapted_model(
  shared_dir, tmp_path, adapted
):
  folder, cfg, params = adapted
  source = golden(shared_dir, 'llada')
  save.convert(folder, tmp_path / 'merged', mesh(), merge=True)
  save.convert(source, tmp_path / 'given', mesh(), adapter=folder, merge=True)
  merged_model, merged = opened(tmp_path / 'merged')
  own = merged_model.cfg
  assert own == dataclasses.replace(cfg, lora_rank=0, lora_alpha=own.lora_alpha)
  tokens = tiny.recorded(source, 'golden.npz')['tokens']
  got = forward(merged, tokens, cfg=own)
  want = forward(params, tokens, cfg=cfg)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=0)
  plain = forward(lora.split(params)[1], tokens, cfg=own)
  assert float(jnp.abs(plain - want).max()) > 0.1
  files = [tmp_path / n / 'model.safetensors' for n in ('merged', 'given')]
  assert files[0].read_bytes() == files[1].read_bytes()
  # Not merged, they are written alone.
  save.convert(source, tmp_path / 'apart', mesh(), adapter=folder)
  name = peft.WEIGHTS_FILE
  assert (tmp_path / 'apart' / name).read_bytes() == (
    folder / name
  ).read_bytes()


def test_adapters_that_do_not_fit_are_one_line(shared_dir, tmp_path, adapted):
  folder, source = adapted[0], golden(shared_dir, 'llada')
  convert = functools.partial(save.convert, mesh=mesh())
  target = tmp_path / 'x'
  with pytest.raises(errors.UserError, match='has adapters already'):
    convert(folder, target, adapter=folder)
  with pytest.raises(errors.UserError, match='no adapters to merge'):
    convert(source, target, merge=True)
  with pytest.raises(errors.UserError, match='give --merge_lora to cast'):
    convert(folder, target, dtype='bfloat16')
  for change, line in (
    ({'base_model_name_or_path': None}, 'names no base model'),
    ({'base_model_name_or_path': '/no'}, 'base model /no, which is missing'),
    ({'base_model_name_or_path': str(folder)}, 'has adapters already'),
  ):
    other = copy_of(folder, tmp_path / 'other')
    (other / sidecar.FILE).unlink()
    config = json.loads((other / peft.CONFIG_FILE).read_text()) | change
    (other / peft.CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(errors.UserError, match=line):
      load.read(other)
  (other / peft.WEIGHTS_FILE).rename(other / peft.PICKLE)
  config['base_model_name_or_path'] = str(source)
  (other / peft.CONFIG_FILE).write_text(json.dumps(config))
  with pytest.raises(errors.UserError, match='adapter_model.bin, a pickle'):
    load.check(load.read(other), mesh())
  assert not list(tmp_path.glob('*x*'))


def test_an_existing_target_is_refused(written, tmp_path):
  target = tmp_path / 'target'
  target.mkdir()
  (target / 'mine').write_text('keep')
  with pytest.raises(errors.UserError, match='already exists'):
    save.convert(written, target, mesh())
  assert (target / 'mine').read_text() == 'keep'


@pytest.mark.parametrize('error', [OSError(28, 'No space left'), KeyError('x')])
def test_a_failure_leaves_nothing(written, tmp_path, monkeypatch, error):
  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(shards, 'write_file', fail)
  expected = errors.UserError if isinstance(error, OSError) else KeyError
  with pytest.raises(expected):
    save.convert(written, tmp_path / 'target', mesh())
  assert not list(tmp_path.iterdir())


def test_a_small_disk_is_refused_before_writing(written, tmp_path, monkeypatch):
  full = type('Usage', (), {'free': 1000})
  monkeypatch.setattr('shutil.disk_usage', lambda path: full)
  with pytest.raises(errors.UserError, match='GB are free there'):
    save.convert(written, tmp_path / 'target', mesh())
  assert not list(tmp_path.iterdir())


def copy_of(folder, target):
  shutil.copytree(folder, target, dirs_exist_ok=True)
  return target


def test_a_flipped_byte_of_any_file_is_noticed(written, tmp_path):
  for number, name in enumerate(os.listdir(written)):
    for place in (0.1, 0.5, 0.9):
      folder = copy_of(written, tmp_path / f'{number}_{place}')
      data = bytearray((folder / name).read_bytes())
      data[int(len(data) * place)] ^= 0x10
      (folder / name).write_bytes(data)
      with pytest.raises(errors.UserError) as caught:
        load.check(load.read(folder), mesh())
      assert str(folder) in str(caught.value)
      assert '\n' not in str(caught.value)


def test_damage_says_which_file_and_what_to_do(written, tmp_path):
  folder = copy_of(written, tmp_path / 'copy')
  (folder / 'tokenizer.json').write_text('{"a tokenizer": 2}')
  line = 'tokenizer.json has changed; restore it, or remove dllm_jax.json'
  with pytest.raises(sidecar.Damaged, match=line):
    load.check(load.read(folder), mesh())
  (folder / 'tokenizer.json').unlink()
  with pytest.raises(sidecar.Damaged, match='tokenizer.json is missing'):
    opened(folder)
  (folder / sidecar.FILE).unlink()
  load.check(load.read(folder), mesh())


def test_what_is_kept_beside_the_weights_is_read_back(written, tmp_path):
  _, params = opened(written)
  record = load.read(written).record
  kept = {'progress': {'step': 3, 'seconds': 0.1}}
  save.save(tmp_path / 'new', params, record, kept=kept)
  assert sidecar.read(tmp_path / 'new') == kept
  assert sidecar.read(golden_of(written)) == {}


def golden_of(written):
  return written.parent / 'source'


def test_other_folders_are_refused(tmp_path):
  with pytest.raises(errors.UserError, match='there is no folder'):
    load.read(tmp_path / 'none')
  with pytest.raises(errors.UserError, match='config.json is missing'):
    load.read(tmp_path)
  (tmp_path / 'config.json').write_text('{"seed": 1}')
  with pytest.raises(errors.UserError, match='model_type is missing'):
    load.read(tmp_path)


@pytest.mark.parametrize('old', ['manifest.json', 'params/manifest.json'])
def test_folders_of_older_versions_are_refused(tmp_path, old):
  (tmp_path / old).parent.mkdir(exist_ok=True)
  (tmp_path / old).write_text('{}')
  with pytest.raises(
    errors.UserError, match='older version .*another --workdir'
  ):
    load.read(tmp_path)


@pytest.mark.parametrize('kept', [('final',), ('final', 'base')])
def test_a_workdir_names_its_models(tmp_path, kept):
  for name in kept:
    (tmp_path / name).mkdir()
  (tmp_path / 'config.json').write_text('{"config": {}}')
  names = ' or '.join(str(tmp_path / name) for name in kept)
  with pytest.raises(errors.UserError) as caught:
    save.convert(tmp_path, tmp_path / 'new', mesh())
  want = f'{tmp_path} is the workdir of a run; did you mean {names}?'
  assert str(caught.value) == want


def test_a_file_that_cannot_be_read_is_not_one_to_write(tmp_path):
  with pytest.raises(errors.UserError, match='cannot read .*none: No such'):
    with folder.new(tmp_path / 'target'):
      (tmp_path / 'none').read_bytes()
  old = os.umask(0o027)
  try:
    with folder.new(tmp_path / 'target') as work:
      (work / 'file').write_text('x')
  finally:
    os.umask(old)
  assert (tmp_path / 'target').stat().st_mode & 0o777 == 0o750


def test_a_check_refuses_what_loading_would(shared_dir, tmp_path):
  theirs = golden(shared_dir, 'llada')
  load.check(load.read(theirs), mesh())
  with pytest.raises(errors.UserError, match='mesh.tensor=3 does not divide'):
    load.check(load.read(theirs), mesh(tensor=3))
  other = copy_of(theirs, tmp_path / 'other')
  config = json.loads((other / 'config.json').read_text())
  config['n_layers'] += 1
  (other / 'config.json').write_text(json.dumps(config))
  for read in (load.check, load.load):
    with pytest.raises(errors.UserError, match='is missing'):
      read(load.read(other), mesh())


def test_word_level_tokenizers_are_written_as_files(tmp_path):
  words = tokenizer.Tokenizer.from_words(['a', ' b', '\n'])
  cfg = dataclasses.replace(tiny.MODEL, vocab_size=words.vocab_size)
  special = hf_config.Special(
    mask_token=words.mask_token, eos_tokens=(words.eos_token,)
  )
  record = hf_config.Record('llada', transformer.of_config(cfg), special)
  folder = tmp_path / 'new'
  save.save(folder, tiny.params(cfg), record, text=words)
  assert set(os.listdir(folder)) == {
    'config.json',
    'dllm_jax.json',
    'generation_config.json',
    'model.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
  }
  again = tokenizer.Tokenizer.from_directory(folder)
  assert again.special == words.special
  assert again.encode('a b\n') == words.encode('a b\n')
  theirs = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  assert theirs.encode('a b\n').ids == [0, 1, 2]
  assert chat.from_directory(folder) == chat.PLAIN
