"""How a process joins the others of its run; before JAX touches a device."""

import dataclasses
import os
import pathlib
import re
import socket
import sys
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from dllm_jax import errors
from dllm_jax.runtime import processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessConfig:
  """How a process joins the others.

  Attributes:
    coordinator: HOST:PORT of process 0; '' asks the cluster.
    num_processes: number of processes of the run; None asks the cluster.
    process_id: index of this process, from 0; None asks the cluster.
    auto: ask the cluster (TPU pod, Slurm, GKE, MPI) for what is not given.
    heartbeat_seconds: after which a silent process counts as dead.
    barrier_seconds: to wait for the others, at the start and later; less if
      a watchdog would end the process first.
  """

  coordinator: str = ''
  num_processes: int | None = None
  process_id: int | None = None
  auto: bool = False
  heartbeat_seconds: int = processes.Limits.heartbeat_seconds
  barrier_seconds: int = processes.Limits.barrier_seconds

  @property
  def wanted(self) -> bool:
    """Whether there is anything to join."""
    given = (self.num_processes, self.process_id)
    return self.auto or bool(self.coordinator) or given != (None, None)


def start(cfg: ProcessConfig) -> None:
  """Joins the other processes; before JAX touches a device.

  Raises:
    errors.UserError: a part is missing or wrong.
    errors.AbsentError: the others do not come.
  """
  if not cfg.wanted:
    return
  _check(cfg)
  # The service would take SIGTERM for itself; the run has its own handler.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      cfg.coordinator or None,
      cfg.num_processes,
      cfg.process_id,
      cluster_detection_method=None if cfg.auto else 'deactivate',
      initialization_timeout=cfg.barrier_seconds,
      heartbeat_timeout_seconds=cfg.heartbeat_seconds,
      shutdown_timeout_seconds=cfg.barrier_seconds,
    )
  except (RuntimeError, ValueError, TypeError, OSError) as e:
    raise _explain(e, cfg) from e
  processes.Limits.heartbeat_seconds = cfg.heartbeat_seconds
  processes.Limits.barrier_seconds = cfg.barrier_seconds
  if processes.several() and jax.default_backend() == 'cpu':
    _connect()
  _report_idle_gpus()


def _explain(error: Exception, cfg: ProcessConfig) -> errors.UserError:
  if cfg.auto and isinstance(error, ValueError):
    return errors.UserError(
      'cannot join the other processes: JAX found no cluster that knows what '
      f'is not given ({processes.first_line(error)}); with --distributed=auto '
      'start the command by srun, by mpirun or on every host of a TPU pod, or '
      'give --coordinator, --num_processes and --process_id to every process'
    )
  where = f' at {cfg.coordinator}' if cfg.coordinator else ''
  late = isinstance(error, RuntimeError)
  return (errors.AbsentError if late else errors.UserError)(
    f'cannot join the other processes{where}: {processes.first_line(error)}; '
    'start all of them, with the same --coordinator and --num_processes'
  )


def _report_idle_gpus() -> None:
  """Prints a line for each host with GPUs that no process uses.

  Under Slurm and MPI JAX gives each process one GPU, even if it is the only
  process of its host.
  """
  used = jax.local_device_count() if jax.default_backend() == 'gpu' else 0
  own = (socket.gethostname(), used, _num_gpus() if used else 0)
  hosts = processes.exchange('the list of devices', own)
  if processes.is_first():
    for line in idle_gpus(hosts):
      print(line, file=sys.stderr)


def _num_gpus() -> int:
  """NVIDIA GPUs that this process may use, whatever JAX takes of them."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES')
  if visible is not None:
    return len([gpu for gpu in visible.split(',') if gpu.strip()])
  return len(list(pathlib.Path('/dev').glob('nvidia[0-9]*')))


def idle_gpus(hosts: Sequence[tuple[str, int, int]]) -> list[str]:
  """A line for every host with GPUs that no process uses.

  Args:
    hosts: of each process its host, how many GPUs it uses, and how many it
      may use.
  """
  lines = []
  for host in dict.fromkeys(name for name, _, _ in hosts):
    here = [(used, usable) for name, used, usable in hosts if name == host]
    used, usable = sum(u for u, _ in here), max(n for _, n in here)
    if used < usable:
      ids = ','.join(map(str, range(usable)))
      lines.append(
        f'{host}: {usable - used} of {usable} GPUs are idle: start one process '
        f'a GPU, or set JAX_LOCAL_DEVICE_IDS={ids}'
      )
  return lines


def _connect() -> None:
  """Connects the CPU devices of all processes, while all of them wait here.

  At the first exchange of a group of devices Gloo waits 30 s for the others,
  and on a busy machine one process may compile for longer. Only the group of
  all devices is connected: those of a mesh with `fsdp` or `tensor` have 30 s
  when they are first used.
  """
  processes.barrier('the start')
  multihost_utils.process_allgather(np.int32(0))
  every = jax.sharding.Mesh(jax.devices(), ('all',))
  split = jax.sharding.NamedSharding(every, jax.sharding.PartitionSpec('all'))
  ones = jax.make_array_from_callback(
    (every.size,), split, lambda index: np.ones(1, np.int32)
  )
  jax.block_until_ready(jax.jit(jax.numpy.sum)(ones))


def _check(cfg: ProcessConfig) -> None:
  for name in ('heartbeat_seconds', 'barrier_seconds'):
    if getattr(cfg, name) < 1:
      raise errors.UserError(f'--{name} {getattr(cfg, name)} is below 1')
  if cfg.coordinator and not re.fullmatch(r'[^\s/]+:\d{1,5}', cfg.coordinator):
    raise errors.UserError(
      f'--coordinator {cfg.coordinator!r} is not HOST:PORT, the address of '
      'process 0'
    )
  given = {
    '--coordinator': cfg.coordinator or None,
    '--num_processes': cfg.num_processes,
    '--process_id': cfg.process_id,
  }
  missing = [name for name, value in given.items() if value is None]
  if missing and not cfg.auto:
    raise errors.UserError(
      f'{", ".join(missing)} missing: give --coordinator, --num_processes and '
      '--process_id to every process, or --distributed=auto on a cluster that '
      'JAX knows'
    )
  if cfg.num_processes is not None and cfg.num_processes < 1:
    raise errors.UserError(f'--num_processes {cfg.num_processes} is below 1')
  if None not in (cfg.num_processes, cfg.process_id) and not (
    0 <= cfg.process_id < cfg.num_processes
  ):
    raise errors.UserError(
      f'--process_id {cfg.process_id} is not in 0..{cfg.num_processes - 1}, '
      f'since --num_processes is {cfg.num_processes}'
    )
