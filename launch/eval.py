"""Evaluates a model on a task's held-out problems.

  python launch/eval.py --config configs/ag_grpo.py --model runs/ag_grpo \
    --steps 6 --out results.json
  python launch/eval.py --config configs/ta_grpo_d.py --model runs/ta --sweep \
    --out frontier.json
  python launch/eval.py --config configs/ag_grpo.py:llada_8b,countdown \
    --model LLaDA-8B-Instruct --out results.json
"""

import pathlib

from absl import flags

import cli
import process_flags
from dllm_jax import errors
from dllm_jax.analysis import policies

MODEL = flags.DEFINE_string(
  'model',
  None,
  'a model folder, ORG/NAME@REVISION, or the workdir of a run',
)
PARAMS = flags.DEFINE_enum(
  'params',
  'final',
  policies.NAMES,
  'which of its models; of a workdir alone',
)
TASK = flags.DEFINE_string('task', None, "the task; default: the config's")
OUT = flags.DEFINE_string('out', None, 'results JSON; generations beside it')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'write over the --out file')
SWEEP = flags.DEFINE_bool(
  'sweep', False, 'all models under eval.num_steps and eval.thresholds'
)
DECODE = flags.DEFINE_enum(
  'decode', None, ['fixed', 'gated'], "the decoder; default: the config's"
)
GEN_LENGTH = flags.DEFINE_integer('gen_length', None, 'completion tokens')
BLOCK_LENGTH = flags.DEFINE_integer('block_length', None, 'tokens of a block')
STEPS = flags.DEFINE_integer('steps', None, 'fixed: denoising steps in all')
ORDER = flags.DEFINE_enum(
  'order',
  None,
  ['confidence', 'random', 'entropy', 'margin'],
  "fixed: which tokens come first; default: the config's",
)
SCHEDULE = flags.DEFINE_enum(
  'schedule',
  None,
  ['even', 'linear'],
  "fixed: how tokens are shared among steps; default: the config's",
)
THRESHOLD = flags.DEFINE_float(
  'threshold',
  None,
  "gated: tokens above it are committed; default: the config's eval.threshold",
)
GATE = flags.DEFINE_enum(
  'gate', 'threshold', ['threshold', 'bernoulli'], 'gated: the gate'
)
TOP_P = flags.DEFINE_float('top_p', None, 'gated: nucleus of the proposals')
CFG_SCALE = flags.DEFINE_float(
  'cfg_scale', None, 'of classifier-free guidance; 0 is off'
)
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
  if OUT.value:
    cli.check_new(pathlib.Path(OUT.value), OVERWRITE.value)
  _refuse_idle_flags(DECODE.value or values['rollout']['decode'])
  # The test gate is not that of training.
  values['rollout']['threshold'] = values['eval']['threshold']
  values['rollout']['min_commits'] = 1
  for flag, group, name in (
    (GEN_LENGTH, 'rollout', 'gen_length'),
    (BLOCK_LENGTH, 'rollout', 'block_length'),
    (DECODE, 'rollout', 'decode'),
    (STEPS, 'rollout', 'num_steps'),
    (ORDER, 'rollout', 'order'),
    (SCHEDULE, 'rollout', 'schedule'),
    (THRESHOLD, 'rollout', 'threshold'),
    (GATE, 'rollout', 'gate'),
    (TOP_P, 'rollout', 'top_p'),
    (TEMPERATURE, 'rollout', 'temperature'),
    (CFG_SCALE, 'rollout', 'cfg_scale'),
    (BATCH_SIZE, 'eval', 'batch_size'),
  ):
    if flag.value is not None:
      values[group][name] = flag.value
  if SEED.value is not None:
    values['seed'] = SEED.value
  length = values['rollout']['gen_length']
  if STEPS.value is not None and STEPS.value > length:
    raise errors.UsageError(
      f'--steps {STEPS.value} is more than the {length} tokens of a '
      'completion; each step commits one at least'
    )
  cli.setup_jax(values['mesh']['cpu_devices'])
  process_flags.start()
  from dllm_jax.hf import hub
  from dllm_jax.run import evaluate  # Late: --help answers at once.
  from dllm_jax.runtime import console, processes

  directory = hub.locate(MODEL.value)
  outlets = {
    'out': pathlib.Path(OUT.value) if OUT.value else None,
    'screen': console.Console(quiet=not processes.is_first()),
  }
  if SWEEP.value:
    evaluate.sweep_models(values, directory, **outlets)
  else:
    name = PARAMS.value if PARAMS.present else None
    evaluate.evaluate_model(values, directory, name, **outlets)
  return 0


def _refuse_idle_flags(decode: str) -> None:
  """Refuses flags that the sweep, or the decoder, would not read."""
  if SWEEP.value:
    idle = (PARAMS, DECODE, STEPS, THRESHOLD, GATE, TOP_P, TEMPERATURE)
    why = 'is not read with --sweep: all models are decoded, greedily'
  elif decode == 'fixed':
    idle = (THRESHOLD, GATE, TOP_P)
    why = 'is of the gated decoder; give --decode gated'
  else:
    idle = (STEPS, ORDER, SCHEDULE)
    why = 'is of the fixed schedule; give --decode fixed'
  for flag in idle:
    if flag.present:
      raise errors.UsageError(f'--{flag.name} {why}')


if __name__ == '__main__':
  cli.run(
    main,
    "Evaluates a model on a task's held-out problems.",
    example='launch/eval.py --config configs/ag_grpo.py --model runs/ag_grpo',
    takes=('config',),
  )
