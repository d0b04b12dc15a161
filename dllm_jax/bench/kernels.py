"""Where the time of a compiled program goes, as JAX's profiler records it."""

import collections
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from dllm_jax.bench import hlo, hlo_counts


class Kernel(NamedTuple):
  """One operation of a program in one call.

  Attributes:
    name: of the instruction in the compiled program.
    kind: see `hlo_counts.kind`; 'unknown' for an instruction that the program
      does not have.
    seconds: time of a call without that of operations inside it, summed over
      the threads or streams that ran it.
    runs: how often it ran.
    source: what it was traced from, such as 'mlp/up_proj/dot_general'.
  """

  name: str
  kind: str
  seconds: float
  runs: float
  source: str


def profile(
  call: Callable[[], object], compiled: jax.stages.Compiled, *, calls: int = 5
) -> list[Kernel]:
  """The operations of one call, the costliest first.

  Args:
    call: runs the program once, and returns when it is done; compiled already.
    compiled: the program.
    calls: number of calls that are recorded; the result is their mean.
  """
  with tempfile.TemporaryDirectory() as place:
    with jax.profiler.trace(place):
      for _ in range(calls):
        call()
    (path,) = pathlib.Path(place).rglob('*.xplane.pb')
    data = jax.profiler.ProfileData.from_file(str(path))
  text = compiled.as_text()
  module = text.split(',', 1)[0].split()[-1]
  seconds, runs = collections.Counter(), collections.Counter()
  for events in _lines(data, module):
    for name, own in _own_times(events):
      seconds[name] += own / calls
      runs[name] += 1
  program = hlo.parse(text)
  known = {
    name: (hlo_counts.kind(op, scope, program), hlo.op_name(op))
    for scope in program.computations.values()
    for name, op in scope.items()
    if name in seconds
  }
  kernels = []
  for name, time in seconds.most_common():
    kind, path = known.get(name, ('unknown', ''))
    source = '/'.join(path.split('/')[-3:])
    kernels.append(Kernel(name, kind, time, runs[name] / calls, source))
  return kernels


def _lines(data: Any, module: str) -> Iterable[list[tuple[str, float, float]]]:
  """(operation, start, end) in seconds of each thread or stream.

  On an accelerator the host's threads only start what the device runs.
  """
  planes = list(data.planes)
  on_device = [plane for plane in planes if plane.name.startswith('/device:')]
  for plane in on_device or planes:
    for line in plane.lines:
      events = []
      for event in line.events:
        stats = dict(event.stats)
        if 'hlo_op' in stats and stats.get('hlo_module') == module:
          start = event.start_ns / 1e9
          end = start + event.duration_ns / 1e9
          events.append((stats['hlo_op'], start, end))
      yield events


def _own_times(
  events: list[tuple[str, float, float]],
) -> Iterable[tuple[str, float]]:
  """Each event's time without that of the events inside it.

  A loop has its body's operations inside it.
  """
  open_events = []  # [name, end, own time]
  for name, start, end in sorted(events, key=lambda e: (e[1], -e[2])):
    while open_events and open_events[-1][1] <= start:
      yield open_events[-1][0], open_events.pop()[2]
    if open_events:
      open_events[-1][2] -= end - start
    open_events.append([name, end, end - start])
  for name, _, own in open_events:
    yield name, own


def by_kind(kernels: Iterable[Kernel]) -> dict[str, float]:
  """Seconds of each kind, the largest first."""
  total = collections.Counter()
  for kernel in kernels:
    total[kernel.kind] += kernel.seconds
  return dict(total.most_common())
