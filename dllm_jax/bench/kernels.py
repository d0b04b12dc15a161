"""Where the time of a compiled program goes, as JAX's profiler records it."""

import collections
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from dllm_jax import errors
from dllm_jax.bench import hlo, hlo_counts

# Times are whole picoseconds, so that events that touch do not overlap.
_PS = 1e-12

# (operation, start, end)
Event = tuple[str, int, int]


class Kernel(NamedTuple):
  """One operation of a program in one call.

  Attributes:
    name: of the instruction in the compiled program.
    kind: see `hlo_counts.kind`; 'unknown' for an instruction that the program
      does not have.
    seconds: time without that of the operations inside it, summed over threads,
      streams and devices: the sum of all operations may exceed the wall time.
    runs: recorded events; on a GPU an operation may be several.
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

  A GPU runs a profiled program without CUDA graphs, so that the sum may exceed
  what an unprofiled call takes.

  Args:
    call: runs the program once, and returns when it is done; compiled already.
    compiled: the program.
    calls: number of calls that are recorded; the result is their mean.

  Raises:
    errors.UserError: the profiler recorded no operation of the program.
  """
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  with tempfile.TemporaryDirectory() as place:
    with jax.profiler.trace(place, profiler_options=options):
      for _ in range(calls):
        call()
    (path,) = pathlib.Path(place).rglob('*.xplane.pb')
    data = jax.profiler.ProfileData.from_file(str(path))
  text = compiled.as_text()
  module = text.split(',', 1)[0].split()[-1]
  time, runs = collections.Counter(), collections.Counter()
  for events in _lines(data, module):
    for name, own in _own_times(events):
      time[name] += own
      runs[name] += 1
  if not time:
    raise errors.UserError(
      f"JAX's profiler recorded no operation of {module} on "
      f'{jax.devices()[0].device_kind}: run without --kernels'
    )
  program = hlo.parse(text)
  known = {
    name: (hlo_counts.kind(op, scope, program), hlo.op_name(op))
    for scope in program.computations.values()
    for name, op in scope.items()
    if name in time
  }
  kernels = []
  for name, own in time.most_common():
    kind, path = known.get(name, ('unknown', ''))
    source = '/'.join(path.split('/')[-3:])
    seconds = own * _PS / calls
    kernels.append(Kernel(name, kind, seconds, runs[name] / calls, source))
  return kernels


def _lines(data: Any, module: str) -> list[list[Event]]:
  """The program's events of each thread or stream.

  On an accelerator those of the host are left out: its threads only start what
  the device runs. A TPU has its operations in one line and names them by their
  text; what runs while it is profiled is taken for the program.

  Args:
    data: a `jax.profiler.ProfileData`.
    module: name of the program.
  """
  on_host, on_device = [], []
  for plane in data.planes:
    is_device = plane.name.startswith('/device:')
    lines = list(plane.lines)
    of_tpu = [line for line in lines if line.name == 'XLA Ops']
    for line in of_tpu or lines:
      events = []
      for event in line.events:
        stats = dict(event.stats)
        name = stats.get('hlo_op')
        if of_tpu:
          name = event.name.partition(' = ')[0].lstrip('%')
        if name and stats.get('hlo_module', module) == module:
          start = round(1000 * event.start_ns)
          end = start + round(1000 * event.duration_ns)
          events.append((name, start, end))
      if events:
        (on_device if is_device else on_host).append(events)
  return on_device or on_host


def _own_times(events: list[Event]) -> Iterable[tuple[str, int]]:
  """Each event's time without that of the events inside it.

  A loop has its body's operations inside it.
  """
  inside = []  # [name, end, own time] of events that are not over
  for name, start, end in sorted(events, key=lambda e: (e[1], -e[2])):
    while inside and inside[-1][1] <= start:
      yield inside[-1][0], inside.pop()[2]
    if inside:
      inside[-1][2] -= min(end, inside[-1][1]) - start
    inside.append([name, end, end - start])
  for name, _, own in inside:
    yield name, own


def by_kind(kernels: Iterable[Kernel]) -> dict[str, float]:
  """Seconds of each kind, the largest first."""
  total = collections.Counter()
  for kernel in kernels:
    total[kernel.kind] += kernel.seconds
  return dict(total.most_common())
