"""Decodes prompts with a language model, of masked diffusion or causal.

  python launch/generate.py --model models/LLaDA-8B-Instruct --watch \
    --prompt 'What is 12 * 7?'
  python launch/generate.py --model models/llada --prompts prompts.jsonl \
    --decode gated --threshold 0.9 --out completions.jsonl
  python launch/generate.py --model models/Qwen3-0.6B --prompt 'Hello' \
    --decode fractal --num_modules 2 --watch
"""

import pathlib
import sys

import decoding_flags
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
WATCH = flags.DEFINE_bool('watch', False, 'show each completion step by step')
CHAT = flags.DEFINE_bool(
  'chat',
  None,
  "the folder's chat template around text; default: where it has one, but for "
  'base models',
)
SEED = flags.DEFINE_integer('seed', 0, 'seed of the draws', 0, 2**32 - 1)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'rows decoded together', 1)
UNROLL = flags.DEFINE_integer(
  'unroll',
  None,
  'models of at most so many layers are compiled layer by layer: slower to '
  'compile, faster to decode few rows; default: 4, or what the run had',
  0,
)


def main() -> int:
  if not MODEL.value:
    raise errors.UsageError('--model DIR is missing; see --help')
  if (PROMPT.value is None) == (PROMPTS.value is None):
    raise errors.UsageError('give one of --prompt TEXT and --prompts FILE')
  cli.setup_jax(1)
  # Late: --help answers at once.
  from dllm_jax.run import generate, prompt_file
  from dllm_jax.runtime import console, sharding

  if PROMPTS.value is not None:
    requests = prompt_file.read(pathlib.Path(PROMPTS.value))
  else:
    row = {'id': 0, 'prompt': PROMPT.value}
    requests = [prompt_file.parse(row, '--prompt')]
  apart = OUT.value is None and not WATCH.value  # rows alone go to stdout
  generate.generate(
    MODEL.value,
    requests,
    overrides=decoding_flags.overrides(),
    mesh=sharding.make_mesh(sharding.MeshConfig()),
    screen=console.Console(file=sys.stderr if apart else None),
    decode=decoding_flags.DECODE.value,
    seed=SEED.value,
    batch_size=BATCH_SIZE.value,
    unroll=UNROLL.value,
    params=PARAMS.value,
    use_chat=CHAT.value,
    out=pathlib.Path(OUT.value) if OUT.value else None,
    watch=WATCH.value,
  )
  return 0


if __name__ == '__main__':
  cli.run(
    main,
    'Decodes prompts with a language model.',
    example="launch/generate.py --model models/llada --prompt 'Hello' --watch",
    takes=None,
  )
