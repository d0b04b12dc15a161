"""Writes a model folder anew: adapters merged, weights cast, files checked.

python launch/convert.py --from runs/lora/final --to exported --merge_lora
python launch/convert.py --from models/llada --to models/half --dtype bfloat16
python launch/convert.py --from models/gpt2 --to gpt2_moe --upcycle 8
"""

import pathlib

from absl import flags

import cli
from dllm_jax import errors

FROM = flags.DEFINE_string('from', None, 'a model folder or ORG/NAME@REVISION')
TO = flags.DEFINE_string('to', None, 'the new folder')
LORA = flags.DEFINE_string(
  'lora', None, "adapters in PEFT's layout to put on the model"
)
MERGE = flags.DEFINE_bool('merge_lora', False, 'add adapters to the kernels')
DTYPE = flags.DEFINE_enum(
  'dtype', None, ['float32', 'bfloat16', 'float16'], 'default: as it is stored'
)
UPCYCLE = flags.DEFINE_integer(
  'upcycle', None, 'make so many experts of the MLP of a dense model', 2
)
SPARSE_EVERY = flags.DEFINE_integer(
  'sparse_every', 1, 'of --upcycle: the last of every so many layers', 1
)
SEED = flags.DEFINE_integer('seed', 0, 'of the routers of --upcycle')


def main() -> int:
  if not FROM.value or not TO.value:
    raise errors.UsageError('--from DIR and --to DIR are needed; see --help')
  if UPCYCLE.value and (LORA.value or MERGE.value):
    raise errors.UsageError(
      '--upcycle takes a model without adapters: merge them first, into a '
      'folder of their own'
    )
  for flag in (SPARSE_EVERY, SEED):
    if flag.present and not UPCYCLE.value:
      raise errors.UsageError(f'--{flag.name} is read with --upcycle alone')
  cli.setup_jax(1)
  from dllm_jax import model as model_lib  # Late: --help answers at once.
  from dllm_jax.hf import hub, save, upcycled
  from dllm_jax.runtime import console, sharding

  screen = console.Console()
  source = hub.locate(FROM.value)
  mesh = sharding.make_mesh(sharding.MeshConfig())
  shared = {'dtype': DTYPE.value, 'screen': screen}
  if UPCYCLE.value:
    upcycled.convert(
      source,
      pathlib.Path(TO.value),
      mesh,
      num_experts=UPCYCLE.value,
      sparse_every=SPARSE_EVERY.value,
      seed=SEED.value,
      **shared,
    )
  else:
    save.convert(
      source,
      pathlib.Path(TO.value),
      mesh,
      adapter=pathlib.Path(LORA.value) if LORA.value else None,
      merge=MERGE.value,
      **shared,
    )
  screen.line(f'written: {TO.value}')
  if model_lib.resolve(source)[1]:
    screen.line(
      'the decoding settings and the chat template of the run are not part of '
      'the folder: give --gen_length, --steps, --chat, ... to generate.py'
    )
  return 0


if __name__ == '__main__':
  cli.run(
    main,
    'Writes a model folder anew: merged, cast, checked.',
    example='launch/convert.py --from runs/lora/final --to out --merge_lora',
    takes=None,
  )
