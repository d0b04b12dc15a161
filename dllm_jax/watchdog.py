"""A run that hangs says where, and ends.

A peer that is stuck, a file system that does not answer or a dead device stop
a run without an error. The loop calls `beat` as it goes; when it has been
quiet for too long, the stacks of all threads are written down and the process
ends with `EXIT_CODE`, so that what started it can start it again.
"""

import collections
import faulthandler
import os
import pathlib
import statistics
import sys
import threading
import time
from collections.abc import Sequence

EXIT_CODE = 4
STEPS = 10  # times the median step that a silence may last
FIRST = 6  # times longer, the first time: it compiles
# The interpreter itself may hang, and no thread of ours run: then the C library
# ends the process, with exit code 1.
GRACE_SECONDS = 30.0
TELL_SECONDS = 10.0


class Watchdog:
  """Watches from the first beat to the end of the `with` block.

  See `limit` for how long it waits.
  """

  def __init__(self, path: str | os.PathLike, *, seconds: float):
    """`path` is where stacks are written; `seconds` 0 watches nothing."""
    self._path, self._seconds = pathlib.Path(path), seconds
    self._steps = collections.deque(maxlen=101)
    self._seen = set()
    self._now = ('', None, 0.0)  # what goes on, since when, for how long
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._file = None

  def __enter__(self) -> 'Watchdog':
    if self._seconds:
      self._file = self._path.open('a')
      self._thread.start()
    return self

  def __exit__(self, *exc_info) -> None:
    if self._seconds:
      self._ended.set()
      self._thread.join()
      faulthandler.cancel_dump_traceback_later()
      self._file.close()
      if not self._path.stat().st_size:
        self._path.unlink()

  def beat(self, what: str, step: int | None = None) -> None:
    """Says that the run goes on, and what it does next."""
    if not self._seconds:
      return
    longest = limit(
      self._seconds, list(self._steps), first=what not in self._seen
    )
    self._seen.add(what)
    at = '' if step is None else f' of step {step}'
    self._now = (f'{what}{at}', time.monotonic(), longest)
    faulthandler.dump_traceback_later(
      1.1 * longest + GRACE_SECONDS, exit=True, file=self._file
    )

  def step_took(self, seconds: float) -> None:
    """Tells how long a step was, by the same clock."""
    self._steps.append(seconds)

  def _watch(self) -> None:
    while not self._ended.wait(min(1.0, self._seconds / 10)):
      what, last, longest = self._now
      if last is not None and time.monotonic() - last > longest:
        self._end(what, time.monotonic() - last)

  def _end(self, what: str, quiet: float) -> None:
    """Ends the process, even where nothing can be written any more."""

    def tell():
      line = f'stuck: nothing for {quiet:.0f} s in {what}; stacks are in '
      line += f'{self._path}; the same command continues from the last save'
      faulthandler.dump_traceback(file=sys.stderr)
      print(line, file=sys.stderr, flush=True)
      print(line, file=self._file, flush=True)
      faulthandler.dump_traceback(file=self._file)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    teller.join(TELL_SECONDS)
    os._exit(EXIT_CODE)


def limit(seconds: float, steps: Sequence[float], *, first: bool) -> float:
  """How long a silence may last.

  Args:
    seconds: at least.
    steps: how long steps took; `STEPS` times their median is let pass.
    first: what goes on is done for the first time, `FIRST` times as slowly.
  """
  longest = max(seconds, STEPS * statistics.median(steps or [0.0]))
  return FIRST * longest if first else longest
