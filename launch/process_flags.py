"""Flags of the commands that run as several processes; see docs/clusters.md.

`start` must precede the first use of a device.
"""

import os

from absl import flags

from dllm_jax import errors

COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'HOST:PORT of process 0, if there are several; default: '
  '$JAX_COORDINATOR_ADDRESS',
)
NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'in the whole run; default: $JAX_NUM_PROCESSES'
)
PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'this process, from 0; default: $JAX_PROCESS_ID'
)
DISTRIBUTED = flags.DEFINE_enum(
  'distributed',
  None,
  ['auto'],
  'auto: ask the cluster (TPU pod, Slurm, GKE, MPI) for what is not given',
)
HEARTBEAT = flags.DEFINE_integer(
  'heartbeat_seconds', 100, 'after which a silent process counts as dead'
)
BARRIER = flags.DEFINE_integer(
  'barrier_seconds', 600, 'for which processes wait for each other at most'
)


def start() -> None:
  """Joins the other processes, if flags or the environment name any.

  Raises:
    errors.UserError: as `distributed.start`.
  """
  from dllm_jax.runtime import distributed  # Late: --help answers at once.

  coordinator = COORDINATOR.value or os.environ.get('JAX_COORDINATOR_ADDRESS')
  distributed.start(
    distributed.ProcessConfig(
      coordinator=coordinator or '',
      num_processes=_number(NUM_PROCESSES, 'JAX_NUM_PROCESSES'),
      process_id=_number(PROCESS_ID, 'JAX_PROCESS_ID'),
      auto=DISTRIBUTED.value == 'auto',
      heartbeat_seconds=HEARTBEAT.value,
      barrier_seconds=BARRIER.value,
    )
  )


def _number(flag: flags.FlagHolder, variable: str) -> int | None:
  text = os.environ.get(variable)
  if flag.value is not None or not text:
    return flag.value
  if not text.isdecimal():
    raise errors.UserError(
      f'environment variable {variable} is {text!r}, not a number'
    )
  return int(text)
