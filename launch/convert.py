"""Converts weights: a Hugging Face folder to one of ours, or back.

python launch/convert.py --from models/LLaDA-8B-Instruct --to models/llada_8b
python launch/convert.py --from models/llada_8b --to exported --merge_lora
"""

import pathlib

from absl import flags

import cli
from dllm_jax import errors

FROM = flags.DEFINE_string(
  'from', None, 'a Hugging Face folder, ORG/NAME@REVISION, or one of ours'
)
TO = flags.DEFINE_string('to', None, 'the new folder')
LORA = flags.DEFINE_string(
  'lora', None, "adapters in PEFT's layout to put on the model"
)
MERGE = flags.DEFINE_bool('merge_lora', False, 'add adapters to the kernels')
DTYPE = flags.DEFINE_enum(
  'dtype', None, ['float32', 'bfloat16', 'float16'], 'default: as it is stored'
)


def main() -> int:
  if not FROM.value or not TO.value:
    raise errors.UsageError('--from DIR and --to DIR are needed; see --help')
  cli.setup_jax(1)
  from dllm_jax.hf import hub, pretrained
  from dllm_jax.runtime import (
    console,
    sharding,  # Late: --help answers at once.
  )

  screen = console.Console()
  pretrained.convert(
    hub.locate(FROM.value),
    pathlib.Path(TO.value),
    sharding.make_mesh(sharding.MeshConfig()),
    dtype=DTYPE.value,
    adapter=pathlib.Path(LORA.value) if LORA.value else None,
    merge=MERGE.value,
    screen=screen,
  )
  screen.line(f'written: {TO.value}')
  return 0


if __name__ == '__main__':
  cli.run(
    main,
    'Converts weights between Hugging Face folders and ours.',
    example='launch/convert.py --from LLaDA-8B-Instruct --to models/llada',
    takes=(),
  )
