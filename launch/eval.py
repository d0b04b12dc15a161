"""Evaluates a model on a task's held-out problems.

  python launch/eval.py --config configs/ag_grpo.py --model runs/ag_grpo \
    --steps 6 --out results.json
  python launch/eval.py --config configs/ta_grpo_d.py --model runs/ta --sweep \
    --out frontier.json
  python launch/eval.py --config configs/cpc_grpo.py:gsm8k --model runs/cpc \
    --config.task.name=openbookqa --config.data_dir=DATA --likelihood
  python launch/eval.py --config configs/ag_grpo.py:llada_8b,countdown \
    --model LLaDA-8B-Instruct --profile d1 --out results.json
"""

import pathlib

import decoding_flags
from absl import flags

import cli
import process_flags
from dllm_jax import errors
from dllm_jax.analysis import policies
from dllm_jax.eval import profiles

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
PROFILE = flags.DEFINE_enum(
  'profile', None, tuple(profiles.PROFILES), 'a published protocol to follow'
)
SWEEP = flags.DEFINE_bool(
  'sweep', False, 'all models under eval.num_steps and eval.thresholds'
)
LIKELIHOOD = flags.DEFINE_bool(
  'likelihood', False, 'multiple choice by the likelihood of the options'
)
NUM_CANVASES = flags.DEFINE_integer(
  'num_canvases',
  None,
  '--likelihood of a masked diffusion model: masked canvases of an option; '
  'default: 128',
  lower_bound=1,
)
NUM_FEWSHOT = flags.DEFINE_integer(
  'num_fewshot',
  None,
  'examples of the training split before every question',
  lower_bound=0,
)
FEWSHOT_SEED = flags.DEFINE_integer(
  'fewshot_seed',
  None,
  'of their choice; default: the first of the split',
  lower_bound=0,
)
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
  overrides = decoding_flags.overrides()
  if SWEEP.value:
    given = decoding_flags.given() + ['--params'] * PARAMS.present
    if given:
      raise errors.UsageError(
        f'{given[0]} is not read with --sweep: all models are decoded, greedily'
      )
  if LIKELIHOOD.value:
    given = decoding_flags.given() + ['--sweep'] * SWEEP.value
    if given:
      raise errors.UsageError(
        f'{given[0]} is not read with --likelihood: nothing is decoded'
      )
  elif NUM_CANVASES.value is not None:
    raise errors.UsageError('--num_canvases is read with --likelihood alone')
  if PROFILE.value:
    values['eval']['profile'] = PROFILE.value
  if BATCH_SIZE.value is not None:
    values['eval']['batch_size'] = BATCH_SIZE.value
  if SEED.value is not None:
    values['seed'] = SEED.value
  if FEWSHOT_SEED.value is not None and not NUM_FEWSHOT.value:
    raise errors.UsageError('--fewshot_seed is read with --num_fewshot alone')
  cli.setup_jax(values['mesh']['cpu_devices'])
  process_flags.start()
  from dllm_jax.eval import few_shot
  from dllm_jax.hf import hub
  from dllm_jax.run import evaluate, evaluate_choices  # Late, as --help.
  from dllm_jax.runtime import console, processes

  directory = hub.locate(MODEL.value)
  shots = None
  if NUM_FEWSHOT.value is not None:
    shots = few_shot.FewShot(num=NUM_FEWSHOT.value, seed=FEWSHOT_SEED.value)
  common = {
    'shots': shots,
    'out': pathlib.Path(OUT.value) if OUT.value else None,
    'screen': console.Console(quiet=not processes.is_first()),
  }
  name = PARAMS.value if PARAMS.present else None
  if SWEEP.value:
    evaluate.sweep_models(values, directory, **common)
  elif LIKELIHOOD.value:
    evaluate_choices.evaluate_choices(
      values,
      directory,
      name,
      num_canvases=NUM_CANVASES.value,
      **common,
    )
  else:
    evaluate.evaluate_model(
      values,
      directory,
      name,
      decode=decoding_flags.DECODE.value,
      overrides=overrides,
      **common,
    )
  return 0


if __name__ == '__main__':
  cli.run(
    main,
    "Evaluates a model on a task's held-out problems.",
    example='launch/eval.py --config configs/ag_grpo.py --model runs/ag_grpo',
  )
