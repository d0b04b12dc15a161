"""Times of functions, taken in turns so that they share the machine's moods."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Timing(NamedTuple):
  """Seconds of one call.

  Attributes:
    wall: the least of all rounds.
    cpu: the least processor time, of all threads of the process.
    spread: how far the median of `wall` is above its least, as a share.
  """

  wall: float
  cpu: float
  spread: float


def in_turns(
  calls: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, Timing]:
  """Calls each once unmeasured, then all of them in turn, `rounds` times.

  A call returns once its work is done.
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
