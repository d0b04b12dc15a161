"""A run that hangs says where, and ends.

A peer that is stuck, a file system that does not answer or a dead device stop
a run without an error. The loop calls `beat` as it goes; when it has been
quiet for too long, the stacks of all threads are written down and the process
ends with `EXIT_CODE`, so that what started it can start it again.
"""

import collections
import faulthandler
import functools
import math
import os
import pathlib
import statistics
import sys
import threading
import time
from collections.abc import Sequence

EXIT_CODE = 4
MEDIANS = 10  # of what goes on that it may last
FIRST = 6  # times longer, the first time: it compiles
# The interpreter itself may hang, and no thread of ours run: then the C library
# ends the process, with exit code 1.
GRACE_SECONDS = 30.0
TELL_SECONDS = 10.0


class Watchdog:
  """Watches from the first beat to the end of the `with` block.

  See `limit` for how long it waits. One at a time in a process.
  """

  def __init__(self, path: str | os.PathLike, *, seconds: float):
    """`path` is where stacks are written; `seconds` 0 watches nothing."""
    self._path, self._seconds = pathlib.Path(path), seconds
    self._took = collections.defaultdict(_History)
    self._what = None
    self._now = ('', None, 0.0)  # what goes on, since when, for how long
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._file = None

  def __enter__(self) -> 'Watchdog':
    global _running
    if self._seconds:
      _running = self
      self._file = self._path.open('a')
      self._thread.start()
    return self

  def __exit__(self, *exc_info) -> None:
    global _running
    if self._seconds:
      _running = None
      self._ended.set()
      self._thread.join()
      faulthandler.cancel_dump_traceback_later()
      self._file.close()
      if not self._path.stat().st_size:
        self._path.unlink()

  def beat(self, what: str, step: int | None = None) -> None:
    """Says that the run goes on, and what it does next.

    Args:
      what: is compared with itself: how long it took before says how long it
        may take.
      step: in which; for the reader.
    """
    if not self._seconds:
      return
    self.pause()
    self._what = what
    longest = limit(self._seconds, self._took[what])
    at = '' if step is None else f' of step {step}'
    self._now = (f'{what}{at}', time.monotonic(), longest)
    faulthandler.dump_traceback_later(
      1.1 * longest + GRACE_SECONDS, exit=True, file=self._file
    )

  def pause(self) -> None:
    """Says that what went on has ended; looks away until the next beat."""
    if self._what is not None:
      self._took[self._what].append(time.monotonic() - self._now[1])
    self._what, self._now = None, ('', None, 0.0)
    faulthandler.cancel_dump_traceback_later()

  def left(self) -> float:
    """Seconds that the silence may still last; infinite while not watching."""
    _, last, longest = self._now
    return math.inf if last is None else last + longest - time.monotonic()

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


_History = functools.partial(collections.deque, maxlen=101)
_running: Watchdog | None = None


def left() -> float:
  """`Watchdog.left` of the one that is running; infinite without one."""
  return math.inf if _running is None else _running.left()


def limit(seconds: float, took: Sequence[float]) -> float:
  """How long a silence may last.

  Args:
    seconds: at least; `FIRST` times as long for what is done the first time.
    took: how long it took before; `MEDIANS` times the median is let pass.
  """
  if not took:
    return FIRST * seconds
  return max(seconds, MEDIANS * statistics.median(took))
