"""Decodes prompts with a diffusion language model.

  python launch/generate.py --model models/LLaDA-8B-Instruct --watch \
    --prompt 'What is 12 * 7?'
  python launch/generate.py --model models/llada --prompts prompts.jsonl \
    --decode gated --threshold 0.9 --out completions.jsonl
"""

import math
import pathlib
import sys

from absl import flags

import cli
from dllm_jax import errors
from dllm_jax.analysis import policies

MODEL = flags.DEFINE_string(
  'model',
  None,
  'a model folder, ORG/NAME@REVISION, or the workdir of a run',
)
PARAMS = flags.DEFINE_enum(
  'params', None, policies.NAMES, "a run's model; default: final"
)
PROMPT = flags.DEFINE_string('prompt', None, 'one prompt')
PROMPTS = flags.DEFINE_string(
  'prompts', None, 'JSON lines of {"id", "prompt"} or {"id", "prompt_ids"}'
)
OUT = flags.DEFINE_string(
  'out',
  None,
  'a new file of JSON lines, FILE.partial until it is whole; default: the '
  'standard output',
)
WATCH = flags.DEFINE_bool('watch', False, 'show each canvas being unmasked')
CHAT = flags.DEFINE_bool(
  'chat',
  None,
  "the folder's chat template around text; default: where it has one, but for "
  'base models',
)
DECODE = flags.DEFINE_enum(
  'decode', None, ['fixed', 'gated'], "default: the run's, else fixed"
)
GEN_LENGTH = flags.DEFINE_integer(
  'gen_length', None, "completion tokens; default: the run's, else 128", 1
)
BLOCK_LENGTH = flags.DEFINE_integer(
  'block_length', None, "tokens of a block; default: the run's, else 32", 1
)
STEPS = flags.DEFINE_integer(
  'steps',
  None,
  "fixed: denoising steps in all; default: the run's, else one a token",
  1,
)
ORDER = flags.DEFINE_enum(
  'order',
  None,
  ['confidence', 'random', 'entropy', 'margin'],
  "fixed: which tokens come first; default: the run's, else confidence",
)
SCHEDULE = flags.DEFINE_enum(
  'schedule',
  None,
  ['even', 'linear'],
  "fixed: how tokens are shared among steps; default: the run's, else even",
)
GATE = flags.DEFINE_enum(
  'gate', None, ['threshold', 'bernoulli'], 'gated: default: threshold'
)
THRESHOLD = flags.DEFINE_float(
  'threshold',
  None,
  "gated: tokens above it are committed; default: the run's eval.threshold, "
  'else 0.9',
)
TOP_P = flags.DEFINE_float('top_p', None, 'gated: nucleus of the proposals')
TEMPERATURE = flags.DEFINE_float('temperature', None, '0, the default: greedy')
CFG_SCALE = flags.DEFINE_float(
  'cfg_scale',
  None,
  "of classifier-free guidance; default: the run's, else 0, which is off",
)
STOP = flags.DEFINE_bool(
  'stop_at_eos',
  None,
  "leave a row once its text has ended; default: the run's, else yes",
)
SEED = flags.DEFINE_integer('seed', 0, 'of the draws', 0, 2**32 - 1)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'rows decoded together', 1)


def main() -> int:
  if not MODEL.value:
    raise errors.UsageError('--model DIR is missing; see --help')
  if (PROMPT.value is None) == (PROMPTS.value is None):
    raise errors.UsageError('give one of --prompt TEXT and --prompts FILE')
  for flag in (THRESHOLD, TOP_P, TEMPERATURE, CFG_SCALE):
    if flag.value is not None and not math.isfinite(flag.value):
      raise errors.UsageError(f'--{flag.name} {flag.value} is not finite')
  if CFG_SCALE.value is not None and CFG_SCALE.value < 0:
    raise errors.UsageError(f'--cfg_scale {CFG_SCALE.value} is negative')
  changes = {
    field: flag.value
    for field, flag in (
      ('decode', DECODE),
      ('gen_length', GEN_LENGTH),
      ('block_length', BLOCK_LENGTH),
      ('num_steps', STEPS),
      ('order', ORDER),
      ('schedule', SCHEDULE),
      ('gate', GATE),
      ('threshold', THRESHOLD),
      ('top_p', TOP_P),
      ('temperature', TEMPERATURE),
      ('cfg_scale', CFG_SCALE),
      ('stop_at_eos', STOP),
    )
    if flag.value is not None
  }
  cli.setup_jax(1)
  from dllm_jax.run import generate, prompt_file
  from dllm_jax.runtime import (
    console,
    sharding,  # Late: --help answers at once.
  )

  # A text that the terminal's encoding lacks is no reason to stop.
  sys.stdout.reconfigure(errors='backslashreplace')
  if PROMPTS.value is not None:
    requests = prompt_file.read(pathlib.Path(PROMPTS.value))
  else:
    row = {'id': 0, 'prompt': PROMPT.value}
    requests = [prompt_file.parse(row, '--prompt')]
  apart = OUT.value is None and not WATCH.value  # rows alone go to stdout
  generate.generate(
    MODEL.value,
    requests,
    generate.Decoding(
      changes=changes,
      seed=SEED.value,
      batch_size=BATCH_SIZE.value,
    ),
    mesh=sharding.make_mesh(sharding.MeshConfig()),
    screen=console.Console(file=sys.stderr if apart else None),
    params=PARAMS.value,
    use_chat=CHAT.value,
    out=pathlib.Path(OUT.value) if OUT.value else None,
    watch=WATCH.value,
  )
  return 0


if __name__ == '__main__':
  cli.run(
    main,
    'Decodes prompts with a diffusion language model.',
    example="launch/generate.py --model models/llada --prompt 'Hello' --watch",
    takes=(),
  )
