"""Converting never holds the whole model: peak memory of the command.

  python -m pytest -m slow -s tests/launch/test_convert_memory.py

`DLLM_JAX_THIRD=1` also takes a third of LLaDA-8B: 17 GB of disk, 6 GB of memory
and some minutes.
"""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

from dllm_jax.hf import config as hf_config
from dllm_jax.hf import peft, shards, table
from dllm_jax.models import config, lora, transformer
from dllm_jax.runtime import sharding
from tests import tiny

REPO = pathlib.Path(__file__).resolve().parents[2]
# LLaDA-8B with half the width and depth: 0.87 GB in bfloat16.
MODEL = config.ModelConfig(
  vocab_size=16_384,
  hidden_size=2048,
  num_layers=7,
  num_heads=16,
  num_kv_heads=16,
  head_dim=128,
  mlp_size=6144,
  rope_theta=500_000.0,
  param_dtype='bfloat16',
)
SHARD_BYTES = 200_000_000
# LLaDA-8B with eight layers of its 32: 5.6 GB.
THIRD = dataclasses.replace(
  MODEL,
  vocab_size=126_464,
  hidden_size=4096,
  num_layers=8,
  num_heads=32,
  num_kv_heads=32,
  mlp_size=12_288,
)


def write_model(folder, cfg, max_bytes=SHARD_BYTES):
  """Random finite bits in LLaDA's layout; (model, layer) in bytes."""
  special = hf_config.Special(mask_token=1, eos_tokens=(2,))
  denoiser = transformer.of_config(cfg)
  record = hf_config.Record('llada', denoiser, special)
  places = sharding.make_mesh(sharding.MeshConfig(data=1))
  wanted = table.tensors('llada', table.targets(denoiser, places))
  rng = np.random.default_rng(0)

  def tensors():
    for name, (slot,) in wanted.items():
      bits = rng.integers(0, 2**16, slot.shape, np.uint16) & 0xBFFF
      yield name, bits.view(ml_dtypes.bfloat16)

  folder.mkdir()
  like = {
    name: jax.ShapeDtypeStruct(slot.shape, 'bfloat16')
    for name, (slot,) in wanted.items()
  }
  shards.write(folder, like, tensors(), max_bytes=max_bytes)
  text = json.dumps(hf_config.render(record, 'bfloat16'))
  (folder / 'config.json').write_text(text)
  adapted = dataclasses.replace(cfg, lora_rank=8)
  adapters = {
    path: rng.normal(size=leaf.shape).astype(np.float32)
    for path, leaf in table.targets(
      transformer.of_config(adapted), places
    ).items()
    if lora.is_adapter(path)
  }
  (folder / 'adapter').mkdir()
  arrays = dict(peft.tensors('llada', adapters))
  peft.save(folder / 'adapter', arrays, 'llada', adapted)
  size = lambda names: sum(2 * math.prod(wanted[n][0].shape) for n in names)
  return size(wanted), size(n for n in wanted if '.blocks.0.' in n)


# ru_maxrss counts what the parent had when it forked; this does not.
PROGRAM = """
import runpy, sys
try:
  runpy.run_path(sys.argv[0], run_name='__main__')
finally:
  for line in open('/proc/self/status'):
    if line.startswith('VmHWM'):
      print('peak', line.split()[1])
"""


def peak(source, target, *flags) -> int:
  """The most memory that the command had, in bytes."""
  command = str(REPO / 'launch' / 'convert.py')
  done = subprocess.run(
    [sys.executable, '-c', f'import sys; del sys.argv[0]\n{PROGRAM}', command]
    + ['--from', source, '--to', target, *flags],
    env=os.environ
    | {
      'PYTHONPATH': f'{REPO}:{REPO / "launch"}',
      'XLA_FLAGS': '',
      'JAX_PLATFORMS': 'cpu',
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return int(done.stdout.split('peak ')[-1]) * 1024


SIZES = [(MODEL, SHARD_BYTES)]
if os.environ.get('DLLM_JAX_THIRD'):
  SIZES.append((THIRD, 10**9))


@pytest.mark.slow
@pytest.mark.parametrize(('cfg', 'shard_bytes'), SIZES)
def test_the_model_is_never_whole_in_memory(tmp_path, cfg, shard_bytes):
  small = dataclasses.replace(tiny.LLADA, param_dtype='bfloat16')
  write_model(tmp_path / 'small', small)
  model, layer = write_model(tmp_path / 'large', cfg, shard_bytes)
  files = list((tmp_path / 'large').glob('*.safetensors'))
  shard = max(f.stat().st_size for f in files)
  assert model > 7e8 and shard < model / 3
  # A leaf at a time is held, never the model. Merging adds the adapters, and
  # one layer's float32 sums.
  for way in ('plain', 'merged'):
    used = {}
    for name in ('small', 'large'):
      source = tmp_path / name
      flags = ['--lora', source / 'adapter', '--merge_lora']
      flags = flags if way == 'merged' else []
      used[name] = peak(source, tmp_path / f'{name}_{way}', *flags)
    net = used['large'] - used['small']
    sizes = {'used': net, 'empty run': used['small'], 'model': model}
    sizes |= {'layer': layer, 'shard': shard}
    print(f'\n{way}, MB:', {k: round(v / 1e6) for k, v in sizes.items()})
    assert net < model, way
    shutil.rmtree(tmp_path / f'large_{way}')
