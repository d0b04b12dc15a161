"""Times functions in turns, so that load on the machine affects all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Timing(NamedTuple):
  """Seconds of one call.

  Attributes:
    wall: least wall time of all rounds.
    cpu: least processor time, over all threads of the process.
    spread: median wall time over the least, minus 1.
  """

  wall: float
  cpu: float
  spread: float


def in_turns(
  calls: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, Timing]:
  """Calls each function once as a warm-up, then all in turn, `rounds` times.

  Args:
    calls: functions by name, which return when their work is done.
    rounds: number of measured calls of each.
  """
  walls = {name: [] for name in calls}
  cpus = {name: [] for name in calls}
  for call in calls.values():
    call()
  for _ in range(rounds):
    for name, call in calls.items():
      wall, cpu = time.perf_counter(), time.process_time()
      call()
      cpus[name].append(time.process_time() - cpu)
      walls[name].append(time.perf_counter() - wall)
  return {
    name: Timing(
      wall=min(walls[name]),
      cpu=min(cpus[name]),
      spread=statistics.median(walls[name]) / min(walls[name]) - 1,
    )
    for name in calls
  }
