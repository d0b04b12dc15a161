"""Evaluates a model on a task's held-out problems.

  python launch/eval.py --config configs/ag_grpo.py --model runs/ag_grpo \
    --steps 6 --out results.json
"""

import pathlib

from absl import flags

import cli
from dllm_jax import errors

MODEL = flags.DEFINE_string('model', None, 'workdir of a run')
PARAMS = flags.DEFINE_enum(
  'params', 'final', ['base', 'control', 'final'], 'which of its models'
)
TASK = flags.DEFINE_string('task', None, "the task; default: the config's")
OUT = flags.DEFINE_string('out', None, 'results JSON; generations beside it')
DECODE = flags.DEFINE_enum('decode', 'fixed', ['fixed'], 'the decoder')
GEN_LENGTH = flags.DEFINE_integer('gen_length', None, 'completion tokens')
BLOCK_LENGTH = flags.DEFINE_integer('block_length', None, 'tokens of a block')
STEPS = flags.DEFINE_integer('steps', None, 'denoising steps in all')
TEMPERATURE = flags.DEFINE_float('temperature', 0.0, '0 is greedy')
SEED = flags.DEFINE_integer('seed', None, 'of the draws')
BATCH_SIZE = flags.DEFINE_integer('batch_size', None, 'rows decoded together')


def main(config) -> int:
  if not MODEL.value:
    raise errors.UsageError('--model DIR is missing; see --help')
  values = config.to_dict()
  if TASK.value and TASK.value != values['task']['name']:
    raise errors.UsageError(
      f'--task {TASK.value} is not the task {values["task"]["name"]!r} of the '
      'config that the model was trained with; give a config of that task'
    )
  for flag, group, name in (
    (GEN_LENGTH, 'rollout', 'gen_length'),
    (BLOCK_LENGTH, 'rollout', 'block_length'),
    (STEPS, 'rollout', 'num_steps'),
    (TEMPERATURE, 'rollout', 'temperature'),
    (BATCH_SIZE, 'eval', 'batch_size'),
  ):
    if flag.value is not None:
      values[group][name] = flag.value
  if SEED.value is not None:
    values['seed'] = SEED.value
  cli.setup_jax(values['mesh']['cpu_devices'])
  from dllm_jax import settings  # Late: --help answers at once.
  from dllm_jax.experiment import results
  from dllm_jax.io import console

  results.evaluate_model(
    settings.from_config(values),
    pathlib.Path(MODEL.value),
    PARAMS.value,
    out=pathlib.Path(OUT.value) if OUT.value else None,
    screen=console.Console(),
  )
  return 0


if __name__ == '__main__':
  cli.run(
    main,
    "Evaluates a model on a task's held-out problems.",
    example='launch/eval.py --config configs/ag_grpo.py --model runs/ag_grpo',
    takes=('config',),
  )
