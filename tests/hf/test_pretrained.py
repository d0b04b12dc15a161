"""Converting there and back, and opening either kind of folder."""

import dataclasses
import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dllm_jax import errors
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import folder, peft, pretrained, shards
from dllm_jax.models import lora, transformer
from dllm_jax.runtime import sharding
from dllm_jax.text import tokenizer
from tests import tiny, tiny_text

FAMILIES = ('llada', 'dream', 'llama', 'qwen2', 'qwen3')


def mesh(**sizes):
  return sharding.make_mesh(sharding.MeshConfig(**{'data': 1, **sizes}))


@functools.partial(jax.jit, static_argnames='cfg')
def forward(params, tokens, *, cfg):
  mask = jnp.ones(tokens.shape, bool)
  return transformer.Transformer(cfg).apply({'params': params}, tokens, mask)


def golden(shared_dir, family):
  return shared_dir / 'golden' / f'{family}_tiny'


@pytest.fixture(scope='module')
def converted(shared_dir, tmp_path_factory):
  """A converted LLaDA with a tokenizer beside it."""
  root = tmp_path_factory.mktemp('converted')
  source = root / 'source'
  source.mkdir()
  for name in ('config.json', 'model.safetensors'):
    data = (golden(shared_dir, 'llada') / name).read_bytes()
    (source / name).write_bytes(data)
  (source / 'tokenizer.json').write_text('{"a tokenizer": 1}')
  (source / 'modeling_llada.py').write_text('1 / 0')
  pretrained.convert(source, root / 'model', mesh())
  return root / 'model'


@pytest.mark.parametrize('family', FAMILIES)
def test_there_and_back_keeps_every_byte(shared_dir, tmp_path, family):
  source = golden(shared_dir, family)
  pretrained.convert(source, tmp_path / 'ours', mesh())
  assert not (tmp_path / 'ours' / 'config.json').exists()
  pretrained.convert(tmp_path / 'ours', tmp_path / 'theirs', mesh())
  want = load_file(source / 'model.safetensors')
  found = load_file(tmp_path / 'theirs' / 'model.safetensors')
  assert set(found) == set(want)
  for name, array in want.items():
    assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
    assert found[name].tobytes() == array.tobytes()
  read = lambda d: json.loads((d / 'config.json').read_text())
  assert read(tmp_path / 'theirs') == read(source)
  assert sorted(os.listdir(tmp_path)) == ['ours', 'theirs']


def test_both_kinds_open_alike(shared_dir, converted):
  places = mesh(fsdp=2, tensor=2)
  theirs = pretrained.open_model(golden(shared_dir, 'llada'), places)
  ours = pretrained.open_model(converted, places)
  assert ours.cfg == theirs.cfg
  assert ours.record._replace(notices=()) == theirs.record._replace(notices=())
  assert ours.record.special.mask_token == 498

  def same(a, b):
    assert a.sharding == b.sharding
    np.testing.assert_array_equal(a, b)

  jax.tree.map(same, ours.params, theirs.params)
  want = tiny.recorded(golden(shared_dir, 'llada'), 'golden.npz')
  logits = forward(ours.params, want['tokens'], cfg=ours.cfg)
  np.testing.assert_allclose(logits, want['logits'], atol=5e-4, rtol=0)


def test_the_tokenizer_goes_along_and_code_does_not(converted, tmp_path):
  assert sorted(os.listdir(converted)) == [
    'params',
    'special_ids.json',
    'tokenizer.json',
  ]
  pretrained.convert(converted, tmp_path / 'theirs', mesh())
  assert sorted(os.listdir(tmp_path / 'theirs')) == [
    'config.json',
    'model.safetensors',
    'tokenizer.json',
  ]


def test_the_special_tokens_are_those_of_the_source(shared_dir, tmp_path):
  """Of ids that config.json alone names, too: a mask, a second stop id."""
  source = tmp_path / 'source'
  source.mkdir()
  file = golden(shared_dir, 'llada') / 'model.safetensors'
  (source / 'model.safetensors').write_bytes(file.read_bytes())
  config = json.loads((file.parent / 'config.json').read_text())
  config |= {'mask_token_id': 7, 'eos_token_id': [4, 5], 'pad_token_id': 4}
  config['bos_token_id'] = None
  (source / 'config.json').write_text(json.dumps(config))
  document = tiny_text.tiny_json()
  letters = {letter: i + 8 for i, letter in enumerate('abcdefghij')}
  words = ('<w0>', '<w1>', '<w2>', '<w3>', '<x>', '<y>', '<z>', '<n>')
  vocab = letters | {word: i for i, word in enumerate(words)}
  document['model'] = {'type': 'WordLevel', 'vocab': vocab, 'unk_token': 'a'}
  document['added_tokens'] = [
    tiny_text.tiny_json()['added_tokens'][0] | {'id': i, 'content': word}
    for i, word in enumerate(words)
  ]
  tiny_text.write_json(source / 'tokenizer.json', document)
  want = tokenizer.Tokenizer.from_directory(source).special
  assert (want.mask, want.stop) == (7, (4, 5))
  for old, new in (('source', 'ours'), ('ours', 'theirs')):
    pretrained.convert(tmp_path / old, tmp_path / new, mesh())
    got = tokenizer.Tokenizer.from_directory(tmp_path / new).special
    assert got == want, new
  assert not (tmp_path / 'theirs' / 'special_ids.json').exists()


@pytest.mark.parametrize('kind', ['converted', 'theirs'])
def test_dtypes(shared_dir, converted, kind):
  folder = converted if kind == 'converted' else golden(shared_dir, 'llada')
  model = pretrained.open_model(folder, mesh(), param_dtype='bfloat16')
  assert (model.cfg.param_dtype, model.cfg.dtype) == ('bfloat16', 'bfloat16')
  assert {str(x.dtype) for x in jax.tree.leaves(model.params)} == {'bfloat16'}
  whole = pretrained.open_model(folder, mesh(), dtype='bfloat16')
  assert (whole.cfg.param_dtype, whole.cfg.dtype) == ('float32', 'bfloat16')
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)),
    model.params,
    whole.params,
  )


def adapter_folder(folder, record):
  cfg = dataclasses.replace(record.model, lora_rank=2, lora_alpha=3.0)
  adapters = lora.split(tiny.params(cfg))[0]
  peft.save(folder, adapters, record.family, cfg)
  return cfg, adapters


def test_adapters_ride_along_or_are_merged(shared_dir, tmp_path):
  source = golden(shared_dir, 'llada')
  cfg, adapters = adapter_folder(tmp_path / 'peft', hf_config.read(source))
  convert = functools.partial(pretrained.convert, mesh=mesh())
  convert(source, tmp_path / 'adapted', adapter=tmp_path / 'peft')
  adapted = pretrained.open_model(tmp_path / 'adapted', mesh())
  assert adapted.cfg == cfg
  jax.tree.map(
    np.testing.assert_array_equal, lora.split(adapted.params)[0], adapters
  )
  # Not merged, they become a folder of their own again, and the base is as
  # it was.
  convert(tmp_path / 'adapted', tmp_path / 'apart')
  base = load_file(tmp_path / 'apart' / 'model.safetensors')
  want = load_file(source / 'model.safetensors')
  assert all(base[k].tobytes() == v.tobytes() for k, v in want.items())
  _, again = peft.load(
    tmp_path / 'apart' / 'adapter', 'llada', adapted.record.model, mesh()
  )
  jax.tree.map(np.testing.assert_array_equal, again, adapters)
  # Merged, there is one model whose logits are those of the adapted one.
  convert(tmp_path / 'adapted', tmp_path / 'merged', merge=True)
  merged = pretrained.open_model(tmp_path / 'merged', mesh())
  assert merged.cfg.lora_rank == 0
  tokens = tiny.recorded(source, 'golden.npz')['tokens']
  got = forward(merged.params, tokens, cfg=merged.cfg)
  want = forward(adapted.params, tokens, cfg=adapted.cfg)
  np.testing.assert_allclose(got, want, atol=5e-4, rtol=0)
  plain = pretrained.open_model(source, mesh())
  apart = forward(plain.params, tokens, cfg=plain.cfg) - want
  assert float(jnp.abs(apart).max()) > 0.1
  with pytest.raises(errors.UserError, match='has adapters already'):
    convert(
      tmp_path / 'adapted', tmp_path / 'x', adapter=tmp_path / 'apart/adapter'
    )
  with pytest.raises(errors.UserError, match='no adapters to merge'):
    convert(source, tmp_path / 'x', merge=True)
  assert not list(tmp_path.glob('*x*'))


def test_an_existing_target_is_refused(converted, tmp_path):
  target = tmp_path / 'target'
  target.mkdir()
  (target / 'mine').write_text('keep')
  with pytest.raises(errors.UserError, match='is there already'):
    pretrained.convert(converted, target, mesh())
  assert (target / 'mine').read_text() == 'keep'


@pytest.mark.parametrize('error', [OSError(28, 'No space left'), KeyError('x')])
def test_a_failure_leaves_nothing(converted, tmp_path, monkeypatch, error):
  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(shards, 'write_file', fail)
  expected = errors.UserError if isinstance(error, OSError) else KeyError
  with pytest.raises(expected):
    pretrained.convert(converted, tmp_path / 'target', mesh())
  assert not list(tmp_path.iterdir())


def test_a_small_disk_is_refused_before_writing(
  converted, tmp_path, monkeypatch
):
  full = type('Usage', (), {'free': 1000})
  monkeypatch.setattr('shutil.disk_usage', lambda path: full)
  with pytest.raises(errors.UserError, match='GB are free there'):
    pretrained.convert(converted, tmp_path / 'target', mesh())
  assert not list(tmp_path.iterdir())


def copy_of(folder, target):
  for path in folder.rglob('*'):
    if path.is_file():
      new = target / path.relative_to(folder)
      new.parent.mkdir(parents=True, exist_ok=True)
      new.write_bytes(path.read_bytes())
  return target


def test_a_flipped_byte_of_any_file_is_noticed(converted, tmp_path):
  files = [p.relative_to(converted) for p in converted.rglob('*')]
  files = [f for f in files if (converted / f).is_file()]
  for number, name in enumerate(files):
    folder = copy_of(converted, tmp_path / str(number))
    data = bytearray((folder / name).read_bytes())
    if not data:
      continue
    data[len(data) // 2] ^= 0x10
    (folder / name).write_bytes(data)
    with pytest.raises(errors.UserError):
      pretrained.open_model(folder, mesh())
  assert len(files) > 5


@pytest.mark.parametrize(
  'edit, line',
  [
    ({'format': 1}, 'has format 1, and'),
    ({'family': None}, 'record is malformed'),
    ({'family': 'gpt'}, 'record is malformed'),
    ({'model': {}}, 'record is malformed'),
    ({'special': None}, 'record is malformed'),
    ({'files': {'../x': ''}}, 'not a plain file name'),
    ({'files': None}, 'names no files'),
  ],
)
def test_a_record_that_is_not_ours_is_refused(
  converted, tmp_path, monkeypatch, edit, line
):
  read = pretrained.checkpoint.read_meta
  monkeypatch.setattr(
    pretrained.checkpoint, 'read_meta', lambda path: read(path) | edit
  )
  with pytest.raises(errors.UserError, match=line):
    pretrained.read_record(converted)


def test_other_folders_are_refused(tmp_path):
  with pytest.raises(errors.UserError, match='there is no folder'):
    pretrained.open_model(tmp_path / 'none', mesh())
  with pytest.raises(errors.UserError, match='config.json is missing'):
    pretrained.open_model(tmp_path, mesh())
  (tmp_path / 'config.json').write_text('{"config": {"seed": 1}}')
  with pytest.raises(errors.UserError, match='model_type is missing'):
    pretrained.open_model(pathlib.Path(tmp_path), mesh())


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


def test_a_check_refuses_what_opening_would(shared_dir, converted, tmp_path):
  theirs = golden(shared_dir, 'llada')
  for sound in (theirs, converted):
    pretrained.check(sound, mesh())
    with pytest.raises(errors.UserError, match='mesh.tensor=3 does not divide'):
      pretrained.check(sound, mesh(tensor=3))
  damaged = copy_of(converted, tmp_path / 'damaged')
  (damaged / 'params' / 'meta.json').write_text('{}')
  other = copy_of(theirs, tmp_path / 'other')
  config = json.loads((other / 'config.json').read_text())
  config['n_layers'] += 1
  (other / 'config.json').write_text(json.dumps(config))
  for spoiled, line in ((damaged, 'is damaged'), (other, 'is missing')):
    for read in (pretrained.check, pretrained.open_model):
      with pytest.raises(errors.UserError, match=line):
        read(spoiled, mesh())
