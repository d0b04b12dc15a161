"""A run that hangs says where, and exits.

A stuck peer, a file system that does not answer or a dead device stop a run
without an error. The loop calls `beat` as it goes; after too long a silence the
stacks of all threads are dumped and the process exits with `EXIT_CODE`, so that
its launcher can restart it.
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
MEDIANS = 10  # an activity may take so many times its median
FIRST = 6  # times the limit, the first time: it compiles
# If the interpreter itself hangs, none of our threads runs: then faulthandler's
# C thread ends the process, with exit code 1.
GRACE_SECONDS = 30.0
TELL_SECONDS = 10.0  # to write the stacks


class Watchdog:
  """Watches from the first beat to the end of the `with` block.

  See `limit` for how long it waits. A process may run one at a time.
  """

  def __init__(self, path: str | os.PathLike, *, seconds: float):
    """`path` is where stacks are written; `seconds` 0 watches nothing."""
    self._path, self._seconds = pathlib.Path(path), seconds
    self._took = collections.defaultdict(_History)
    self._what = None
    self._now = ('', None, 0.0)  # activity, its start, its limit in seconds
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
    """Says that the run makes progress, and what it does next.

    Args:
      what: the next activity; earlier durations of the same activity set its
        limit.
      step: of the run; for the message only.
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
    """Says that the activity has ended; nothing is watched until a beat."""
    if self._what is not None:
      self._took[self._what].append(time.monotonic() - self._now[1])
    self._what, self._now = None, ('', None, 0.0)
    faulthandler.cancel_dump_traceback_later()

  def left(self) -> float:
    """Seconds until the process is ended; infinite while not watching."""
    _, last, longest = self._now
    return math.inf if last is None else last + longest - time.monotonic()

  def _watch(self) -> None:
    while not self._ended.wait(min(1.0, self._seconds / 10)):
      what, last, longest = self._now
      if last is not None and time.monotonic() - last > longest:
        self._end(what, time.monotonic() - last)

  def _end(self, what: str, quiet: float) -> None:
    """Ends the process, even if nothing can be written any more."""

    def tell():
      line = f'stuck: no progress for {quiet:.0f} s in {what}; stacks are in '
      line += f'{self._path}; rerun to resume from the last checkpoint'
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
  """`Watchdog.left` of the running watchdog; infinite without one."""
  return math.inf if _running is None else _running.left()


def limit(seconds: float, took: Sequence[float]) -> float:
  """How long an activity may take, in seconds.

  Args:
    seconds: the least limit; `FIRST` times that the first time.
    took: its earlier durations in seconds; the limit is at least `MEDIANS`
      times their median.
  """
  if not took:
    return FIRST * seconds
  return max(seconds, MEDIANS * statistics.median(took))
