"""Several processes of one run: waiting for each other, agreeing, leaving.

Every process runs the same program (JAX's multi-controller runtime). They agree
here, through the coordination service of process 0: every wait has a limit, and
the processes that are missing are named. Without `distributed.start` there is
one process, and nothing here costs or waits.

The service itself notices a dead process, within the heartbeat: it ends all
others (SIGABRT), after a line that names the dead one.
"""

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

# Public JAX has barriers on devices only, which wait forever. The client of the
# coordination service has barriers with a limit; orbax uses the same module.
from jax._src import distributed
from jax.experimental import multihost_utils

from dllm_jax import errors
from dllm_jax.runtime import watchdog

T = TypeVar('T')

# Seconds that a process which ends by an error waits for the others to do so.
LEAVING_SECONDS = 5
# To wait for others that build data sets of their own.
WORK_SECONDS = 6 * 3600.0
SLICE_SECONDS = 60  # of a wait without a limit
# Of the watchdog's time: a wait that ends first can name who is missing.
SHARE = 0.8


class Limits:
  """Of waiting, in seconds; `distributed.start` sets those of the process."""

  heartbeat_seconds = 100
  barrier_seconds = 600


# Numbers this module's exchanges: the same everywhere.
_rounds = itertools.count()


def several() -> bool:
  """Whether there are others."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
  """Whether this is the process that writes what all have in common."""
  return not several() or jax.process_index() == 0


def barrier(name: str, *, seconds: float | None = None) -> None:
  """Returns when every process is here.

  Args:
    name: name of the barrier for messages; the same in all processes.
    seconds: maximum wait; None is `Limits.barrier_seconds`. If a watchdog
      would end this process first, `SHARE` of the watchdog's time.

  Raises:
    errors.AbsentError: names the processes that are missing.
  """
  if several():
    _wait(f'{name}/{next(_rounds)}', name, seconds)


def any_of(flag: bool) -> bool:
  """Whether the flag is set in any process: the same answer in all of them.

  It uses no device: work in flight goes on.

  Raises:
    errors.AbsentError: as `barrier`.
  """
  if not several():
    return flag
  key = f'any/{next(_rounds)}'
  client = distributed.global_state.client
  if flag:
    client.key_value_set(key, str(jax.process_index()), allow_overwrite=True)
  _wait('any', 'the end of a step')  # one name: the service keeps every name
  # Whoever sets this round's key did so before coming to its barrier.
  try:
    client.key_value_try_get(key)
  except jax.errors.JaxRuntimeError as e:
    if 'NOT_FOUND' not in str(e):
      raise
    return False
  return True


def from_first(name: str, make: Callable[[], T]) -> T:
  """The value of `make()`, which process 0 alone calls, in all processes.

  `make` may take as long as it needs: the others wait while process 0 lives,
  and under a watchdog as `barrier` does.

  Args:
    name: name of the barrier for messages; the same in all processes.
    make: returns a JSON value; its UserError is raised in all processes.

  Raises:
    errors.UserError: that of `make`.
    errors.AbsentError: process 0 is missing.
  """
  if not several():
    return make()
  key = f'first/{next(_rounds)}'
  client = distributed.global_state.client
  if is_first():
    try:
      value = make()
    except errors.UserError as e:
      client.key_value_set(key, json.dumps({'error': str(e)}))
      raise
    client.key_value_set(key, json.dumps({'value': value}))
    return value
  sent = json.loads(_get(key, name))
  if 'error' in sent:
    raise errors.UserError(sent['error'])
  return sent['value']


def exchange(
  name: str, value: Any, *, seconds: float | None = None
) -> list[Any]:
  """The values of all processes, by process; it uses no device.

  Args:
    name: name of the barrier for messages; the same in all processes.
    value: JSON value of this process.
    seconds: as in `barrier`.

  Raises:
    errors.AbsentError: as `barrier`.
  """
  if not several():
    return [value]
  folder = f'exchange/{next(_rounds)}'
  client = distributed.global_state.client
  client.key_value_set(f'{folder}/{jax.process_index()}', json.dumps(value))
  barrier(name, seconds=seconds)
  stored = {
    int(key.rsplit('/', 1)[1]): json.loads(text)
    for key, text in client.key_value_dir_get(folder)
  }
  return [stored[process] for process in sorted(stored)]


def check_same(
  values: Mapping[str, Any], *, seconds: float | None = None
) -> None:
  """Refuses to go on if the processes were not started alike.

  Args:
    values: JSON values by name, which must be equal in all processes.
    seconds: as in `barrier`.

  Raises:
    errors.UserError: in all processes; names what differs, and where.
    errors.AbsentError: as `barrier`.
  """
  own = {name: json.dumps(v, sort_keys=True) for name, v in values.items()}
  first, *others = exchange('the comparison of configs', own, seconds=seconds)
  for process, other in enumerate(others, 1):
    for name in sorted(first.keys() | other.keys()):
      here, there = first.get(name, 'absent'), other.get(name, 'absent')
      if here != there:
        raise errors.UserError(
          f'the processes differ: {name} is {here} in process 0 and {there} in '
          f'process {process}; start all of them with the same code, config '
          'and data'
        )


def all_gather(rows: np.ndarray) -> list[np.ndarray]:
  """The rows of every process, by process; their numbers may differ.

  Args:
    rows: array with the same width and dtype (at most 32 bits) everywhere.

  Raises:
    errors.AbsentError: as `barrier`.
  """
  if not several():
    return [rows]
  _wait('gather', 'the exchange of results')  # the devices would wait forever
  counts = multihost_utils.process_allgather(np.int32(len(rows)))
  padding = ((0, int(counts.max()) - len(rows)),) + ((0, 0),) * (rows.ndim - 1)
  parts = multihost_utils.process_allgather(np.pad(rows, padding))
  return [part[:count] for part, count in zip(parts, counts, strict=True)]


def suffix() -> str:
  """Distinguishes the files of this process from those of others."""
  return f'.{jax.process_index()}' if several() else ''


def prefix() -> str:
  """What a line on standard error begins with."""
  return f'process {jax.process_index()}: ' if several() else ''


def first_line(error: Exception | str) -> str:
  """The first line of an error; the rest is not for the user."""
  return (str(error).splitlines() or [''])[0]


def leave(code: int, *, find_dead: bool = False) -> None:
  """Called before an exit by an error; does not wait for those that go on.

  Returns if all processes are leaving. Otherwise this one exits here, at once:
  a normal exit would wait for the others, and they for this one.

  Args:
    code: exit code.
    find_dead: whether to wait for the others for a heartbeat more than
      `LEAVING_SECONDS`, so that a dead one is named.
  """
  if not several():
    return
  wait = Limits.heartbeat_seconds if find_dead else 0
  try:
    _wait('leaving', 'the end', wait + LEAVING_SECONDS)
  except errors.AbsentError as e:
    print(f'{prefix()}{e}', file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(key: str, name: str, seconds: float | None = None) -> None:
  limit = Limits.barrier_seconds if seconds is None else seconds
  client = distributed.global_state.client
  try:
    client.wait_at_barrier(key, _milliseconds(limit))
  except jax.errors.JaxRuntimeError as e:
    raise errors.AbsentError(_absent(name, str(e), '')) from e


def _get(key: str, name: str) -> str:
  """The value that process 0 sets; the death of process 0 ends this one too."""
  client = distributed.global_state.client
  deadline = time.monotonic() + SHARE * watchdog.left()
  while True:
    try:
      return client.blocking_key_value_get(key, _milliseconds(SLICE_SECONDS))
    except jax.errors.JaxRuntimeError as e:
      timed_out = 'DEADLINE_EXCEEDED' in str(e)
      if not timed_out or time.monotonic() >= deadline:
        raise errors.AbsentError(_absent(name, str(e), '0')) from e


def _milliseconds(seconds: float) -> int:
  """The time to wait, if the watchdog does not end this process first."""
  return max(1, int(1000 * min(seconds, SHARE * watchdog.left())))


def _absent(name: str, message: str, known: str) -> str:
  """One line from the service's message about a wait that failed."""
  listed = message.partition('timed out task names:')[2]
  missing = re.findall(r'^\D*(\d+)\s*$', listed, re.MULTILINE)
  missing += re.findall(r'Task \D*(\d+) heartbeat', message)
  who = ', '.join(dict.fromkeys(missing)) or known
  if not who:
    return f'waiting for {name} failed: {first_line(message)}'
  return (
    f'timed out waiting for process {who} at {name}: it is dead or stuck; '
    'check its log, and start all processes again'
  )
