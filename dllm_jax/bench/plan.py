"""What a step costs on a mesh that is not there: compiled, never run.

The programs of a step are compiled from shapes for every device of a mesh, and
read: bytes a device, operations, collectives. Where the accelerator is a TPU
and libtpu is installed, its own compiler does that, without a TPU, and its
bytes decide whether the step fits. Elsewhere the mesh is made of CPU devices.
Operations and collectives are then of the right kind, but XLA for CPU widens
bfloat16 to float32 in products and in what is sent, so an estimate decides
(`memory`), and its own bytes are shown beside it.
"""

import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from dllm_jax import errors, types
from dllm_jax.bench import hardware, hlo, hlo_counts, memory, programs
from dllm_jax.run import settings
from dllm_jax.runtime import sharding

# Rows of the models' tables, which a run reads from their folders.
VOCABULARIES = {'llada_8b': 126464, 'dream_7b': 152064}
# What libtpu asks of a host that has no TPU.
_NO_TPU = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


class Cost(NamedTuple):
  """One program on one device; bytes but for operations and seconds.

  Attributes:
    program: its name.
    arguments, outputs, temporaries, aliases: as the compiler says; aliases are
      outputs that lie where arguments did.
    compiled: its peak by the compiler.
    estimate: its peak by `memory`.
    resident: what a run holds beside its arguments.
    flops: operations.
    minimum: those that are needed.
    collectives: bytes that a device gets, by kind.
    compile_seconds: of compilation.
  """

  program: str
  arguments: int
  outputs: int
  temporaries: int
  aliases: int
  compiled: int
  estimate: int
  resident: int
  flops: int
  minimum: int
  collectives: dict[str, int]
  compile_seconds: float


def parse_mesh(text: str) -> sharding.MeshConfig:
  """'data=8,fsdp=8' as a record; an axis that is not named is 1.

  Raises:
    errors.UsageError: anything else.
  """
  sizes = {'data': 1, 'fsdp': 1, 'tensor': 1}
  for part in text.split(','):
    axis, _, size = part.partition('=')
    if axis not in sizes or not size.isdigit() or int(size) < 1:
      raise errors.UsageError(
        f'--mesh {text!r}: {part!r} is not data=N, fsdp=N or tensor=N with N '
        'above 0; write --mesh data=8,fsdp=8'
      )
    sizes[axis] = int(size)
  return sharding.MeshConfig(**sizes)


def num_devices(cfg: sharding.MeshConfig) -> int:
  """Of a mesh whose sizes are all given."""
  return cfg.data * cfg.fsdp * cfg.tensor


def make_mesh(cfg: sharding.MeshConfig, device: str) -> tuple[Mesh, str]:
  """The mesh, and the compiler that it has: 'tpu' or 'cpu'.

  Raises:
    errors.UserError: too few CPU devices.
  """
  accelerator = hardware.ACCELERATORS[device]
  name = dict(accelerator.topology).get(num_devices(cfg))
  if name is None or importlib.util.find_spec('libtpu') is None:
    return sharding.make_mesh(cfg), 'cpu'
  for variable, value in _NO_TPU.items():
    os.environ.setdefault(variable, value)
  topology = topologies.get_topology_desc(name, platform='tpu')
  mesh = jax.make_mesh(
    (cfg.data, cfg.fsdp, cfg.tensor),
    ('data', 'fsdp', 'tensor'),
    axis_types=(AxisType.Auto,) * 3,
    devices=topology.devices,
  )
  return mesh, 'tpu'


def case_of(
  cfg: settings.Settings,
  mesh: sharding.MeshConfig,
  *,
  name: str,
  vocab_size: int,
  rows_per_device: int,
) -> programs.Case:
  """A run's step, with as many rows as keep the devices equally busy.

  Raises:
    errors.UserError: the rows are not whole groups, or do not split into
      micro-batches.
  """
  shards = mesh.data * mesh.fsdp
  rows, group = shards * rows_per_device, cfg.rollout.group_size
  micro = cfg.policy.num_micro
  if rows % group or rows_per_device % micro:
    raise errors.UserError(
      f'--rows {rows_per_device} on {shards} shards: {rows} rows are not whole '
      f'groups of rollout.group_size={group}, or do not split into '
      f'method.policy.num_micro={micro}; change one of them'
    )
  vocab = types.Vocabulary(
    size=vocab_size, mask_token=vocab_size - 1, eos_token=vocab_size - 2
  )
  return programs.Case(
    name=name,
    model=programs.model_of(cfg.denoiser(vocab)),
    rollout=dataclasses.replace(cfg.rollout, num_prompts=rows // group),
    policy=cfg.policy,
    optimizer=cfg.optim,
  )


def cost(case: programs.Case, mesh: Mesh, program: str) -> Cost:
  """Compiles one program of `programs.PROGRAMS`, and reads it."""
  lowered = programs.PROGRAMS[program](case, mesh)
  begin = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - begin
  read, found = hlo.parse(compiled.as_text()), compiled.memory_analysis()
  parts = (
    found.argument_size_in_bytes,
    found.output_size_in_bytes,
    found.temp_size_in_bytes,
    found.alias_size_in_bytes,
  )
  return Cost(
    program,
    *parts,
    compiled=parts[0] + parts[1] + parts[2] - parts[3],
    estimate=memory.peak(case, mesh, program),
    resident=memory.beside(case, mesh, program),
    flops=hlo_counts.flops(read),
    minimum=case.minimum()[program] // mesh.size,
    collectives=hlo_counts.collectives(read),
    compile_seconds=seconds,
  )


def needed(costs: Sequence[Cost], compiler: str) -> int:
  """Bytes that a device must have for the whole step."""
  return max(
    (c.compiled if compiler == 'tpu' else c.estimate) + c.resident
    for c in costs
  )


def plan(
  cfg: settings.Settings,
  sizes: sharding.MeshConfig,
  device: str,
  *,
  name: str,
  vocab_size: int,
  rows_per_device: int,
  say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
  """All programs of a step on one mesh, and whether they fit the device.

  Args:
    cfg: of the run.
    sizes: of the mesh.
    device: a name of `hardware.ACCELERATORS`.
    name: of the preset.
    vocab_size: of the model.
    rows_per_device: of a batch, on each of data * fsdp.
    say: is told what is compiled; some take minutes.
  """
  case = case_of(
    cfg,
    sizes,
    name=name,
    vocab_size=vocab_size,
    rows_per_device=rows_per_device,
  )
  mesh, compiler = make_mesh(sizes, device)
  costs = []
  for program in programs.PROGRAMS:
    say(
      f'compiling {programs.TITLES[program]!r} for {mesh.size} devices, by XLA '
      f'for {compiler} ({len(costs) + 1} of {len(programs.PROGRAMS)})'
    )
    costs.append(cost(case, mesh, program))
  total, have = needed(costs, compiler), hardware.ACCELERATORS[device].memory
  return {
    'preset': name,
    'device': device,
    'mesh': {'data': sizes.data, 'fsdp': sizes.fsdp, 'tensor': sizes.tensor},
    'devices': num_devices(sizes),
    'rows': case.rows,
    'lora_rank': case.model.lora_rank,
    'compiler': compiler,
    'programs': [c._asdict() for c in costs],
    'needed_bytes': total,
    'device_bytes': int(have),
    'fits': total <= have,
  }
