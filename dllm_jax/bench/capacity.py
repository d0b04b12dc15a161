"""Whether a training step fits a mesh, without having the devices.

The programs of a step are compiled from shapes and never run; bytes, operations
and collectives of a device are read from the compiled code. For a TPU, and with
libtpu installed, the TPU's own compiler does this without a TPU, and its bytes
decide whether the step fits. Otherwise the mesh consists of CPU devices, where
operations and collectives are of the right kind. But XLA for CPU widens
bfloat16 to float32 in products and collectives, so the estimate of `memory`
decides, and the compiler's bytes are shown for comparison.
"""

import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from dllm_jax import errors, types
from dllm_jax.bench import hardware, hlo, hlo_counts, memory, programs
from dllm_jax.run import settings
from dllm_jax.runtime import sharding

# Vocabulary sizes, which a run reads from the model's folder.
VOCABULARIES = {'llada_8b': 126464, 'dream_7b': 152064}
# Lets libtpu start on a host without a TPU.
_NO_TPU = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


class Cost(NamedTuple):
  """The cost of one program on one device.

  Attributes:
    program: name of the program.
    arguments: bytes, according to the compiler.
    outputs: likewise.
    temporaries: likewise.
    aliases: bytes of outputs that reuse the memory of arguments, likewise.
    compiled: peak bytes according to the compiler.
    estimate: peak bytes according to `memory`.
    resident: bytes that a run holds besides the arguments.
    flops: operations.
    minimum: operations that the algorithm needs.
    collectives: bytes that a device receives, by kind of collective.
    compile_seconds: wall time of the compilation.
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
  """Parses 'data=8,fsdp=8'; axes that are not named have size 1.

  Raises:
    errors.UsageError: the text has another form.
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
  """Number of devices of a mesh whose sizes are all positive."""
  return cfg.data * cfg.fsdp * cfg.tensor


def make_mesh(cfg: sharding.MeshConfig, device: str) -> tuple[Mesh, str]:
  """The mesh, and the compiler to use on it: 'tpu' or 'cpu'.

  Args:
    cfg: sizes of the mesh.
    device: name in `hardware.ACCELERATORS`.

  Raises:
    errors.UserError: there are too few CPU devices.
  """
  accelerator = hardware.ACCELERATORS[device]
  name = dict(accelerator.topology).get(num_devices(cfg))
  if name is None or importlib.util.find_spec('libtpu') is None:
    return sharding.make_mesh(cfg), 'cpu'
  for variable, value in _NO_TPU.items():
    os.environ.setdefault(variable, value)
  topology = topologies.get_topology_desc(name, platform='tpu')
  return sharding.make_mesh(cfg, topology.devices), 'tpu'


def case_of(
  cfg: settings.Settings,
  mesh: sharding.MeshConfig,
  *,
  name: str,
  vocab_size: int,
  rows_per_device: int,
) -> programs.Case:
  """The training step of a run, with a given number of rows per device.

  Args:
    cfg: settings of the run.
    mesh: sizes of the mesh.
    name: of the case in tables.
    vocab_size: of the model.
    rows_per_device: rows of a batch on each of data * fsdp devices.

  Raises:
    errors.UserError: the rows do not form whole groups, or do not split into
      micro-batches.
  """
  shards = mesh.data * mesh.fsdp
  rows, group = shards * rows_per_device, cfg.rollout.group_size
  micro = cfg.method.policy.num_micro
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
    policy=cfg.method.policy,
    optimizer=cfg.optim,
  )


def cost(
  case: programs.Case, mesh: Mesh, program: str
) -> tuple[jax.stages.Compiled, Cost]:
  """One program of `programs.PROGRAMS`, compiled, and its cost."""
  lowered = programs.PROGRAMS[program](case, mesh)
  begin = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - begin
  parsed, memory_of = hlo.parse(compiled.as_text()), compiled.memory_analysis()
  parts = (
    memory_of.argument_size_in_bytes,
    memory_of.output_size_in_bytes,
    memory_of.temp_size_in_bytes,
    memory_of.alias_size_in_bytes,
  )
  return compiled, Cost(
    program,
    *parts,
    compiled=parts[0] + parts[1] + parts[2] - parts[3],
    estimate=memory.peak(case, mesh, program),
    resident=memory.beside(case, mesh, program),
    flops=hlo_counts.flops(parsed),
    minimum=case.minimum()[program] // mesh.size,
    collectives=hlo_counts.collectives(parsed),
    compile_seconds=seconds,
  )


def needed(costs: Sequence[Cost], compiler: str) -> int:
  """Bytes that a device needs for the whole step."""
  return max(
    (c.compiled if compiler == 'tpu' else c.estimate) + c.resident
    for c in costs
  )


def plan(
  case: programs.Case,
  sizes: sharding.MeshConfig,
  device: str,
  *,
  say: Callable[[str], None],
) -> dict[str, Any]:
  """The costs of a step on one mesh, and whether it fits the device.

  Args:
    case: the step, as `case_of` makes it for the mesh.
    sizes: sizes of the mesh.
    device: name in `hardware.ACCELERATORS`.
    say: called with a line before each compilation; some take minutes.
  """
  mesh, compiler = make_mesh(sizes, device)
  costs = []
  for program in programs.PROGRAMS:
    say(
      f'compiling {programs.TITLES[program]!r} for {mesh.size} devices, by XLA '
      f'for {compiler} ({len(costs) + 1} of {len(programs.PROGRAMS)})'
    )
    costs.append(cost(case, mesh, program)[1])
  total, room = needed(costs, compiler), hardware.ACCELERATORS[device].memory
  return {
    'preset': case.name,
    'device': device,
    'mesh': {'data': sizes.data, 'fsdp': sizes.fsdp, 'tensor': sizes.tensor},
    'devices': num_devices(sizes),
    'rows': case.rows,
    'lora_rank': case.model.lora_rank,
    'compiler': compiler,
    'programs': [c._asdict() for c in costs],
    'needed_bytes': total,
    'device_bytes': int(room),
    'fits': total <= room,
  }
