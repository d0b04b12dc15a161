"""Measures speed, or plans what a step costs on devices that one lacks.

  python launch/bench.py --suite decode,update --out bench.json
  python launch/bench.py --suite update --cases 50M --kernels 20
  python launch/bench.py --suite speculative --model SmolLM2-135M-Instruct
  python launch/bench.py --suite caches --cases 50M --rounds 3
  python launch/bench.py --suite caches --model RUN --prompts FILE.jsonl \
    --decode gated --threshold 0.9 --block_length 4
  python launch/bench.py --plan llada_8b --mesh data=8,fsdp=8 --device tpu_v5e

A plan compiles a training step of a preset for a mesh of any size, without
weights and without the devices.
"""

import json
import os
import pathlib
import sys
from typing import Any

import decoding_flags
from absl import flags

import cli
import config_file
from dllm_jax import errors

SUITES = ('decode', 'update', 'end_to_end')
# Not by default, and alone.
SPECULATIVE = 'speculative'
CACHES = 'caches'
WIDTH = 150  # columns of the widest table
ROOT = pathlib.Path(__file__).resolve().parents[1]

SUITE = flags.DEFINE_list('suite', list(SUITES), 'what to measure')
ROUNDS = flags.DEFINE_integer(
  'rounds', 10, 'measured calls, of which the fastest counts', 1
)
THREADS = flags.DEFINE_integer('threads', 2, 'CPU cores to use', 1)
CASES = flags.DEFINE_string(
  'cases',
  '',
  "of decode, update and caches: part of the names, such as 'LLaDA-8B'",
)
LARGEST = flags.DEFINE_float(
  'largest', None, 'skip models of more parameters, such as 1e6'
)
KERNELS = flags.DEFINE_integer(
  'kernels',
  0,
  'of decode and update: profile our program, and show this many operations',
  0,
)
TORCH = flags.DEFINE_bool('torch', True, 'compare with PyTorch, if installed')
PLAN = flags.DEFINE_string(
  'plan', None, 'a preset: llada_8b, dream_7b, or MODEL,TASK'
)
CONFIG = flags.DEFINE_string(
  'config',
  str(ROOT / 'configs' / 'diffu_grpo.py'),
  'FILE of the preset, and of suite end_to_end; --config.a.b=VALUE sets',
)
MESH = flags.DEFINE_multi_string(
  'mesh', ['data=8'], 'of a plan: data=N,fsdp=N,tensor=N; may be repeated'
)
DEVICE = flags.DEFINE_string('device', 'h100', 'of a plan: tpu_v5e, h100, ...')
ROWS = flags.DEFINE_integer(
  'rows', 12, 'of a plan: rows of a batch on each of data * fsdp', 1
)
VOCAB_SIZE = flags.DEFINE_integer(
  'vocab_size', None, "of a plan; default: the model's, else 64", 3
)
MODEL = flags.DEFINE_string(
  'model',
  None,
  'of speculative: a causal model; of caches: a masked diffusion model, for '
  'random weights; a folder, or a run',
)
PROMPTS = flags.DEFINE_string(
  'prompts',
  None,
  'of speculative, and of caches with --model: JSON lines as of '
  'launch/generate.py',
)
COMPARED = flags.DEFINE_list(
  'caches',
  ['prefix', 'dual', 'refresh', 'vicinity'],
  "of caches: what to compare with none; 'refresh' and 'vicinity' are remedies "
  "of 'dual'",
)
OUT = flags.DEFINE_string('out', None, 'JSON file for the results')


def main(overrides: list[str]) -> int:
  _check_flags()
  if PLAN.value is not None:
    results = _plan(overrides)
  elif SUITE.value == [SPECULATIVE]:
    results = _speculative(overrides)
  elif SUITE.value == [CACHES]:
    results = _caches()
  else:
    results = _measure(overrides)
  if OUT.value:
    text = json.dumps(results, indent=1) + '\n'
    pathlib.Path(OUT.value).write_text(text, encoding='utf-8')
  return 0


def _check_flags() -> None:
  known = (*SUITES, SPECULATIVE, CACHES)
  wrong = [name for name in SUITE.value if name not in known]
  if wrong:
    raise errors.UsageError(
      f'unknown --suite {wrong[0]!r}, expected one of {", ".join(known)}'
    )
  alone = [name for name in (SPECULATIVE, CACHES) if name in SUITE.value]
  if SUITE.value == [SPECULATIVE] and not MODEL.value:
    raise errors.UsageError('--suite speculative needs --model DIR')
  if alone and len(SUITE.value) > 1:
    raise errors.UsageError(f'--suite {alone[0]} is measured alone')
  if OUT.value and not pathlib.Path(OUT.value).absolute().parent.is_dir():
    raise errors.UserError(f'--out {OUT.value}: its folder does not exist')
  if (MODEL.value or PROMPTS.value) and not alone:
    raise errors.UsageError(
      '--model and --prompts are read by --suite speculative and caches alone'
    )
  has_model = SUITE.value == [CACHES] and MODEL.value
  if SUITE.value == [CACHES] and bool(MODEL.value) != bool(PROMPTS.value):
    raise errors.UsageError(
      '--suite caches takes both --model DIR and --prompts FILE, or neither'
    )
  if KERNELS.value and PLAN.value is not None:
    raise errors.UsageError('--kernels is not read by --plan')
  if KERNELS.value and not {'decode', 'update'} & set(SUITE.value):
    raise errors.UsageError(
      '--kernels is read by --suite decode and update alone'
    )
  given = decoding_flags.given()
  if given and not has_model:
    raise errors.UsageError(
      f'{given[0]} is read by --suite caches with --model DIR alone'
    )
  compared = [f'--{name}' for name in ('cache', 'refresh_every', 'vicinity')]
  if own := [flag for flag in given if flag in compared]:
    raise errors.UsageError(
      f'{own[0]} is what --suite caches compares: choose by --caches'
    )
  if wrong := set(COMPARED.value) - set(COMPARED.default):
    raise errors.UsageError(
      f'unknown --caches {min(wrong)!r}, expected some of '
      f'{", ".join(COMPARED.default)}'
    )


def _plan(overrides: list[str]) -> list[dict[str, Any]]:
  os.environ['JAX_PLATFORMS'] = 'cpu'  # Compiles without the devices.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # XLA's advice
  preset = PLAN.value
  if preset in ('llada_8b', 'dream_7b'):
    preset += ',gsm8k'
  config = config_file.load_config(f'{CONFIG.value}:{preset}', overrides)
  from dllm_jax.bench import capacity, hardware, tables
  from dllm_jax.run import settings  # Late: --help answers at once.

  if DEVICE.value not in hardware.ACCELERATORS:
    raise errors.UsageError(
      f'unknown --device {DEVICE.value!r}, expected one of '
      f'{", ".join(hardware.ACCELERATORS)}'
    )
  meshes = [capacity.parse_mesh(text) for text in MESH.value]
  cli.setup_jax(max(map(capacity.num_devices, meshes)))
  screen, results = _start(), []
  model = preset.partition(',')[0]
  for mesh in meshes:
    case = capacity.case_of(
      settings.from_config(config.to_dict()),
      mesh,
      name=preset,
      vocab_size=VOCAB_SIZE.value or capacity.VOCABULARIES.get(model, 64),
      rows_per_device=ROWS.value,
    )
    results.append(capacity.plan(case, mesh, DEVICE.value, say=screen.print))
    screen.print(tables.planned(results[-1]))
  return results


def _measure(overrides: list[str]) -> dict[str, list[dict[str, Any]]]:
  cores = _take_cores()
  config = config_file.load_config(CONFIG.value, overrides)
  # Leaves memory of the GPU to PyTorch.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  cli.setup_jax(1)
  from dllm_jax.bench import end_to_end, suites, tables
  from dllm_jax.run import settings
  from dllm_jax.runtime import sharding

  reference = _reference()
  screen, results = _start(), {}
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  shared = {'reference': reference, 'rounds': ROUNDS.value}
  for suite in SUITE.value:
    if suite == 'end_to_end':
      cfg = settings.from_config(config.to_dict())
      results[suite] = [end_to_end.end_to_end(cfg, **shared)]
    else:
      chosen = _cases(suite)
      profiled = KERNELS.value > 0
      results[suite] = [
        suites.SUITES[suite](case, mesh, **shared, profiled=profiled)
        for case in chosen
      ]
    screen.print(
      tables.measured(results[suite], f'{suite}, {len(cores)} cores')
    )
    for row in results[suite]:
      if 'kernels' in row:
        screen.print(tables.profiled(row, KERNELS.value))
        row['kernels'] = [kernel._asdict() for kernel in row['kernels']]
  return results


def _take_cores() -> list[int]:
  cores = sorted(os.sched_getaffinity(0))[: THREADS.value]
  os.sched_setaffinity(0, cores)  # Before JAX and PyTorch count them.
  return cores


def _cases(suite: str) -> list[Any]:
  """The chosen cases of a suite."""
  from dllm_jax.bench import cases, flops

  chosen = [
    case
    for case in cases.of_suite(suite)
    if flops.num_params(case.model) <= (LARGEST.value or float('inf'))
    and CASES.value in case.name
  ]
  if not chosen:
    names = ', '.join(repr(case.name) for case in cases.of_suite(suite))
    raise errors.UsageError(
      f'--cases {CASES.value!r} --largest {LARGEST.value} match no case of '
      f'suite {suite!r}, expected some of {names}'
    )
  return chosen


def _caches() -> dict[str, list[dict[str, Any]]]:
  cores = _take_cores()
  cli.setup_jax(1)
  from dllm_jax import model as model_lib  # Late: --help answers at once.
  from dllm_jax.bench import caches, tables
  from dllm_jax.run import prompt_file
  from dllm_jax.runtime import sharding

  screen, rows = _start(), []
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  shared = {'rounds': ROUNDS.value, 'names': COMPARED.value}
  if MODEL.value:
    requests = prompt_file.read(pathlib.Path(PROMPTS.value))
    model = model_lib.Model.open(MODEL.value, mesh=mesh)
    decoder = model.decoder(
      decoding_flags.DECODE.value, decoding_flags.overrides()
    )
    found = [caches.of_model(model, requests, decoder, **shared)]
  else:
    reference = _reference()
    found = (
      caches.of_case(case, mesh, reference=reference, **shared)
      for case in _cases(CACHES)
    )
  for part in found:
    rows += part
    title = f'{part[0]["case"]}, {part[0]["weights"]} weights'
    screen.print(tables.cached(part, f'{title}, {len(cores)} cores'))
  return {CACHES: rows}


def _speculative(overrides: list[str]) -> dict[str, Any]:
  config = config_file.load_config(
    str(ROOT / 'configs' / 'fractal.py'), overrides
  )
  cli.setup_jax(1)
  from dllm_jax import model as model_lib  # Late: --help answers at once.
  from dllm_jax.bench import speculative
  from dllm_jax.run import prompt_file, settings, speculation
  from dllm_jax.runtime import console

  cfg = settings.from_config(config.to_dict()).speculation
  requests = None
  if PROMPTS.value is not None:
    requests = prompt_file.read(pathlib.Path(PROMPTS.value))
  screen = console.Console()
  dtypes = {name: config.model[name] for name in ('dtype', 'param_dtype')}
  model = model_lib.Model.open(MODEL.value, console=screen, **dtypes)
  result = speculative.speculative(model, requests, cfg, screen)
  speculation.show_result(result, screen)
  return result


def _start():
  """The console. The cache is disabled, since compilations are measured."""
  import jax
  import rich.console

  from dllm_jax.runtime import console

  jax.config.update('jax_enable_compilation_cache', False)
  screen = rich.console.Console(file=console.Output(sys.stdout))
  screen.width = max(screen.width, WIDTH)  # A table in a pipe is not cut.
  return screen


def _reference():
  """The PyTorch loops; None if PyTorch is not installed."""
  if not TORCH.value:
    return None
  try:
    from dllm_jax.bench import torch_reference
  except ModuleNotFoundError as e:
    if e.name != 'torch':
      raise
    return None
  torch_reference.torch.set_num_threads(THREADS.value)
  # JAX does this by default.
  torch_reference.torch.backends.cuda.matmul.allow_tf32 = True
  return torch_reference


if __name__ == '__main__':
  cli.run(
    main,
    'Measures speed, or plans what a step costs on a mesh.',
    example='launch/bench.py --plan llada_8b --mesh data=8,fsdp=8 '
    '--device tpu_v5e',
    takes='overrides',
  )
