"""Folders that are wrong in one way each, and how the refusal says so.

As a program it opens each in a process whose memory is limited, and prints
how long each refusal took: `malformed.py FOLDER` prints {case: seconds}.
"""

import json
import pathlib
import shutil
import struct
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

LIMIT = 2**30  # bytes on top of what the imports take
WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
NORM = 'model.transformer.ln_f.weight'


def _config(**changes):
  def edit(folder):
    config = json.loads((folder / 'config.json').read_text()) | changes
    (folder / 'config.json').write_text(json.dumps(config))

  return edit


def _text(name, text):
  def edit(folder):
    data = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(data)

  return edit


def _raw(change):
  """Edits (header bytes, data bytes); the length is written anew."""

  def edit(folder):
    raw = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack('<Q', raw[:8])
    header, data = change(raw[8 : 8 + length], raw[8 + length :])
    (folder / WEIGHTS).write_bytes(
      struct.pack('<Q', len(header)) + header + data
    )

  return edit


def _entry(**changes):
  """Edits what the header says of one tensor."""

  def change(header, data):
    parsed = json.loads(header)
    parsed[NORM] |= changes
    return json.dumps(parsed).encode(), data

  return _raw(change)


def _length(value):
  def edit(folder):
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack('<Q', value) + raw[8:])

  return edit


def _tensors(change):
  def edit(folder):
    arrays = dict(load_file(folder / WEIGHTS))
    change(arrays)
    save_file(arrays, folder / WEIGHTS)

  return edit


def _moved(step):
  """Moves one tensor's bytes against what the header says of the next."""

  def change(header, data):
    parsed = json.loads(header)
    last = max(
      (k for k in parsed if k != '__metadata__'),
      key=lambda k: parsed[k]['data_offsets'],
    )
    begin, end = parsed[last]['data_offsets']
    parsed[last]['data_offsets'] = [begin + step, end + step]
    return json.dumps(parsed).encode(), data + bytes(max(step, 0))

  return _raw(change)


def _index(files):
  """An index in place of the one file; `files` maps tensors to files."""

  def edit(folder):
    names = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder / 'part.safetensors')
    text = {'weight_map': dict.fromkeys(names, 'part.safetensors') | files}
    (folder / INDEX).write_text(json.dumps(text))

  return edit


def _pickle(name):
  def edit(folder):
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(b'\x80\x04cos\nsystem\n')

  return edit


def _link(folder):
  outside = folder.parent / f'{folder.name}-outside.safetensors'
  (folder / WEIGHTS).rename(outside)
  (folder / WEIGHTS).symlink_to(outside)


def _twice(header, data):
  entry = json.dumps(json.loads(header)[NORM]).encode()
  return header.rstrip()[:-1] + b',"%b":%b}' % (NORM.encode(), entry), data


def _rename(name):
  def change(arrays):
    arrays[name] = arrays.pop(NORM)

  return _tensors(change)


def _set(name, value):
  return _tensors(lambda arrays: arrays.update({name: value}))


ZEROS = np.zeros(64, np.float32)
CASES = {
  'pickle': (_pickle('pytorch_model.bin'), "'pytorch_model.bin', a pickle"),
  'torch': (_pickle('consolidated.00.pth'), 'a pickle; .*safetensors'),
  'numpy': (_pickle('weights.npy'), 'a pickle'),
  'no weights': (lambda d: (d / WEIGHTS).unlink(), 'has neither model.safete'),
  'length 2^62': (
    _length(2**62),
    'its header of 4611686018427387904 bytes is too long',
  ),
  'length past the end': (
    _length(10**7),
    'header of 10000000 bytes is too long',
  ),
  'length 0': (_length(0), 'invalid JSON in header'),
  'empty file': (_text(WEIGHTS, b''), 'header too small'),
  'truncated': (_raw(lambda h, d: (h, d[:-5])), 'file not fully covered'),
  'trailing': (_raw(lambda h, d: (h, d + b'x')), 'file not fully covered'),
  'gap': (_moved(4), 'invalid offset for tensor'),
  'overlap': (_moved(-4), 'invalid offset for tensor'),
  'shape overflow': (
    _entry(shape=[2**62, 2**62]),
    'overflow computing',
  ),
  'shape beyond 64 bits': (_entry(shape=[2**70]), 'invalid type'),
  'negative shape': (_entry(shape=[-8, -8]), 'invalid value'),
  'boolean shape': (_entry(shape=[True, 64]), 'invalid type'),
  'odd dtype': (_entry(dtype='I8'), 'invalid shape, data type'),
  'header that is a list': (
    _raw(lambda h, d: (b'[1]', d)),
    'invalid type: sequence',
  ),
  'header not UTF-8': (_raw(lambda h, d: (b'\xff{}', d)), 'invalid UTF-8'),
  'header nested deep': (
    _raw(lambda h, d: (b'[' * 10**6, d)),
    'invalid type: sequence',
  ),
  'header of 4 MB of lists': (
    _raw(lambda h, d: (b'{"a":[' + b'[],' * 1_300_000 + b'[]]}', d)),
    'invalid type: sequence',
  ),
  'header of 60 MB': (
    _raw(lambda h, d: (b' ' * 60_000_000, d)),
    'header of 60000000 bytes is too long',
  ),
  'key twice': (_raw(_twice), 'ln_f.weight. appears twice'),
  'evil name': (_rename('../../evil'), 'ln_f.weight. is missing'),
  'evil left-over': (
    _set('../../evil', ZEROS),
    "tensor '../../evil'",
  ),
  'left over': (_set('model.extra', ZEROS), "unexpected .*'model.extra'"),
  'a layer too many': (
    _set('model.transformer.blocks.2.attn_norm.weight', ZEROS),
    'unexpected tensor .*blocks.2',
  ),
  'wrong shape': (
    _set(NORM, ZEROS[:32]),
    r'shape \[32\], expected \[64\]',
  ),
  'wrong rank': (_set(NORM, ZEROS[None]), r'shape \[1, 64\], expected \[64\]'),
  'wrong dtype': (_set(NORM, ZEROS.astype(np.int8)), 'has dtype I8'),
  'git-lfs pointer': (
    _text(WEIGHTS, 'version https://git-lfs.github.com/spec/v1\noid sha256:0'),
    'is a git-lfs pointer, .*git lfs pull',
  ),
  'unreadable': (
    lambda d: ((d / WEIGHTS).unlink(), (d / WEIGHTS).mkdir()),
    'is not a regular file',
  ),
  'link outside': (_link, 'link out of its folder'),
  'index outside': (
    _index({NORM: '../outside.safetensors'}),
    'not a plain file name',
  ),
  'index absolute': (_index({NORM: '/etc/x.safetensors'}), 'not a plain file'),
  'index of a pickle': (
    _index({NORM: 'x.bin'}),
    "'x.bin', which is not a",
  ),
  'index of a number': (_index({NORM: 7}), "a file '7'"),
  'index of no file': (_index({NORM: 'no.safetensors'}), 'is missing; is the'),
  'index of no tensor': (
    _index({'model.ghost': 'part.safetensors'}),
    "'model.ghost' is in .*index.json and not in part.safetensors",
  ),
  'index without a map': (
    lambda d: ((d / WEIGHTS).unlink(), (d / INDEX).write_text('{}')),
    'no object weight_map',
  ),
  'no config': (lambda d: (d / 'config.json').unlink(), 'config.json is miss'),
  'config not JSON': (_text('config.json', 'import os'), 'not valid JSON'),
  'config with NaN': (
    _text('config.json', '{"a": NaN}'),
    'NaN is not a JSON number',
  ),
  'config nested deep': (_text('config.json', '{"a":' * 10**5), 'too deep'),
  'config of 9 MB': (_text('config.json', b' ' * 9 * 2**20), 'is larger than'),
  'config key twice': (
    _text('config.json', '{"model_type": "llada", "model_type": "llama"}'),
    "'model_type' appears twice",
  ),
  'absurd size': (_config(embedding_size=2**60), 'embedding_size is'),
  'a billion layers': (_config(n_layers=10**9), 'n_layers is 1000000000'),
  'layers that are not there': (_config(n_layers=900), 'blocks.2.* is missing'),
  'a large table': (
    _config(embedding_size=2**22),
    r'expected \[4194304, 64\]',
  ),
  'digits without end': (
    _text('config.json', '{"n_layers": 1%s}' % ('0' * 10**6)),
    'not valid JSON',
  ),
  'not an integer': (_config(n_layers=2.5), 'n_layers is 2.5'),
  'mask beyond the table': (_config(mask_token_id=500), 'mask_token_id is 500'),
  'small table': (
    _config(embedding_size=400, vocab_size=400),
    'eos_token_id is 497',
  ),
  'another architecture': (
    _config(model_type='mamba'),
    "is 'mamba'; expected one of",
  ),
}


def build(case: str, source: pathlib.Path, folder: pathlib.Path) -> None:
  """Copies a sound folder and spoils it."""
  folder.mkdir()
  for name in ('config.json', WEIGHTS):
    shutil.copyfile(source / name, folder / name)
  CASES[case][0](folder)


def main(folder: pathlib.Path) -> None:
  import resource
  import time

  from dllm_jax import errors
  from dllm_jax.hf import load
  from dllm_jax.runtime import sharding

  mesh = sharding.make_mesh(sharding.MeshConfig())
  used = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  limit = used * resource.getpagesize() + LIMIT
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  seconds = {}
  for number, case in enumerate(CASES):
    began = time.process_time()
    try:
      load.load(load.read(folder / str(number)), mesh)
    except errors.UserError:
      seconds[case] = time.process_time() - began
  print(json.dumps(seconds))


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
