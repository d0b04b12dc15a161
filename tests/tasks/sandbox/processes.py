"""Processes below others, as /proc lists them."""

import pathlib
import time


def _stat(pid: int) -> list[str]:
  text = pathlib.Path(f'/proc/{pid}/stat').read_text()
  return text.rpartition(')')[2].split()


def descendants(*roots: int) -> dict[int, str]:
  """The pids below `roots`, and these, with when each started."""
  parents, started = {}, {}
  for path in pathlib.Path('/proc').glob('[0-9]*'):
    pid = int(path.name)
    try:
      stat = _stat(pid)
    except OSError:  # it has just ended
      continue
    if stat[0] != 'Z':
      parents[pid], started[pid] = int(stat[1]), stat[19]
  found = {pid for pid in roots if pid in parents}
  while True:
    more = {p for p, parent in parents.items() if parent in found} - found
    if not more:
      return {pid: started[pid] for pid in found}
    found |= more


def cpu_seconds(*roots: int) -> float:
  """What the processes below have used, with children that ended."""
  ticks = 0
  for pid in descendants(*roots):
    try:
      ticks += sum(map(int, _stat(pid)[11:15]))
    except OSError:
      continue
  return ticks / 100


def alive(processes: dict[int, str]) -> list[int]:
  """Those of `descendants` that still run."""
  return [
    pid
    for pid, at in descendants(*processes).items()
    if processes.get(pid) == at
  ]


def survivors(processes: dict[int, str], seconds: float = 2.0) -> list[int]:
  """Those that still run after some time; none at once, if none does."""
  deadline = time.monotonic() + seconds
  while alive(processes) and time.monotonic() < deadline:
    time.sleep(0.05)
  return alive(processes)
