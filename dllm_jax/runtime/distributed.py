"""How a process joins the others of its run; before JAX touches a device."""

import dataclasses
import re

import jax
import numpy as np
from jax.experimental import multihost_utils

from dllm_jax import errors
from dllm_jax.runtime import processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessConfig:
  """How a process joins the others.

  Attributes:
    coordinator: HOST:PORT of process 0; '' leaves it to the cluster.
    num_processes: in all; None leaves it to the cluster.
    process_id: of this one; None leaves it to the cluster.
    auto: ask the cluster (TPU pod, Slurm, GKE, MPI) for what is not given.
    heartbeat_seconds: after which a silent process counts as dead.
    barrier_seconds: that a process waits for the others, at the start and
      later; under a watchdog not so long that this would end the process.
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
    where = f' at {cfg.coordinator}' if cfg.coordinator else ''
    late = isinstance(e, RuntimeError)
    raise (errors.AbsentError if late else errors.UserError)(
      f'cannot join the other processes{where}: {processes.first_line(e)}; '
      'start all of them, with the same --coordinator and --num_processes'
    ) from e
  processes.Limits.heartbeat_seconds = cfg.heartbeat_seconds
  processes.Limits.barrier_seconds = cfg.barrier_seconds
  if processes.several() and jax.default_backend() == 'cpu':
    _connect()


def _connect() -> None:
  """The CPU's devices meet once, while all processes are at the same place.

  At the first exchange of a group of devices Gloo waits 30 s for the others,
  and on a busy machine one process may compile longer than that. The group of
  all devices alone meets here: those of a mesh with `fsdp` or `tensor` have
  the 30 s when they are first used.
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
      f'there being --num_processes {cfg.num_processes}'
    )
