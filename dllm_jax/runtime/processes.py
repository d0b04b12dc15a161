"""Several processes of one run: waiting for each other, agreeing, leaving.

Every process runs the same program (JAX's multi-controller runtime). What they
must have in common is settled here, through the coordination service that
process 0 keeps: a wait has a limit, and whoever did not come is named. Without
`joining.start` there is one process, and nothing here costs or waits.

A dead process is noticed by the service itself, within the heartbeat: it ends
all others (SIGABRT), after a line that names the dead one.
"""

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np

# Public JAX has barriers on devices alone, which wait for ever. The client of
# the coordination service has them with a limit; orbax uses the same module.
from jax._src import distributed
from jax.experimental import multihost_utils

from dllm_jax import errors
from dllm_jax.runtime import watchdog

T = TypeVar('T')

# Seconds that a process which ends by an error waits for the others to do so.
LEAVING_SECONDS = 5
# For others that work meanwhile, such as building a data set of their own.
WORK_SECONDS = 6 * 3600.0
SLICE_SECONDS = 60  # of a wait without a limit
# Of what the watchdog has left: a wait that ends first names who is missing.
SHARE = 0.8


class Limits:
  """Of waiting, in seconds; of the one runtime that there is in a process.

  See `joining.ProcessConfig`, whose start sets them.
  """

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
    name: what is waited for; the same everywhere.
    seconds: to wait at most; None is what `joining.start` was told. Where a
      watchdog would end this process first, it is `SHARE` of what it has left.

  Raises:
    errors.AbsentError: names the processes that did not come.
  """
  if several():
    _wait(f'{name}/{next(_rounds)}', name, seconds)


def any_of(flag: bool) -> bool:
  """Whether the flag is set in any process: the same answer in all of them.

  It takes no device: work in flight goes on.

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
  """What `make` gives in process 0, which alone calls it.

  `make` may take as long as it wants: the others wait while process 0 lives,
  and under a watchdog as `barrier` does.

  Args:
    name: what is waited for; the same everywhere.
    make: gives a JSON value; a UserError of its is raised everywhere.

  Raises:
    errors.UserError: that of `make`.
    errors.AbsentError: process 0 did not come.
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


def check_same(
  values: Mapping[str, Any], *, seconds: float | None = None
) -> None:
  """Refuses to go on where the processes were not started alike.

  Args:
    values: by name, JSON values that must be the same everywhere.
    seconds: as in `barrier`.

  Raises:
    errors.UserError: in all processes; names what differs, and where.
    errors.AbsentError: as `barrier`.
  """
  if not several():
    return
  own = {name: json.dumps(v, sort_keys=True) for name, v in values.items()}
  folder = f'same/{next(_rounds)}'
  client = distributed.global_state.client
  client.key_value_set(f'{folder}/{jax.process_index()}', json.dumps(own))
  barrier('the comparison of configs', seconds=seconds)
  stored = {
    int(key.rsplit('/', 1)[1]): json.loads(text)
    for key, text in client.key_value_dir_get(folder)
  }
  first = stored[0]
  for process in sorted(stored):
    other = stored[process]
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
    rows: of the same width and dtype everywhere, of 32 bits at most.

  Raises:
    errors.AbsentError: as `barrier`.
  """
  if not several():
    return [rows]
  _wait('gather', 'the exchange of results')  # the devices would wait for ever
  counts = multihost_utils.process_allgather(np.int32(len(rows)))
  padding = ((0, int(counts.max()) - len(rows)),) + ((0, 0),) * (rows.ndim - 1)
  found = multihost_utils.process_allgather(np.pad(rows, padding))
  return [part[:count] for part, count in zip(found, counts, strict=True)]


def suffix() -> str:
  """What tells the files of this process from those of others."""
  return f'.{jax.process_index()}' if several() else ''


def prefix() -> str:
  """What stands before a line on the standard error."""
  return f'process {jax.process_index()}: ' if several() else ''


def first_line(error: Exception | str) -> str:
  """Of an error; the rest is not for the user."""
  return (str(error).splitlines() or [''])[0]


def leave(code: int, *, find_dead: bool = False) -> None:
  """Before the end by an error: does not wait for processes that go on.

  Returns where all processes end so. Otherwise this one ends here and at once:
  the usual way out would wait for the others, and they for this one.

  Args:
    code: to exit with.
    find_dead: waits for the others for a heartbeat, so that one that has died
      is named; else but for `LEAVING_SECONDS`.
  """
  if not several():
    return
  wait = Limits.heartbeat_seconds if find_dead else 0
  try:
    _wait('leaving', 'the end', wait + LEAVING_SECONDS)
  except errors.AbsentError as e:
    print(f'{prefix()}{e}', file=sys.stderr)
    _end(code)


def _end(code: int) -> NoReturn:
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
  """What process 0 sets; its death ends this process, whatever it waits for."""
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
  """Of a wait that ends before the watchdog would end this process."""
  return max(1, int(1000 * min(seconds, SHARE * watchdog.left())))


def _absent(name: str, message: str, known: str) -> str:
  """One line from what the service says of a wait that failed."""
  listed = message.partition('timed out task names:')[2]
  found = re.findall(r'^\D*(\d+)\s*$', listed, re.MULTILINE)
  found += re.findall(r'Task \D*(\d+) heartbeat', message)
  who = ', '.join(dict.fromkeys(found)) or known
  if not who:
    return f'waiting for {name} failed: {first_line(message)}'
  return (
    f'process {who} did not come to {name}: it is dead or stuck; look at its '
    'log, and start all processes again'
  )
