"""Signals that ask a run to stop: it ends at a step boundary, not in a step."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class StopRequest:
  """Turns SIGTERM, SIGUSR1 and SIGINT into a flag for the loop to look at.

  Inside the `with` block a signal only sets `requested`, so that the loop can
  end its step and save. A second SIGINT raises KeyboardInterrupt, but for the
  time of a `shield`. The former handlers come back when the block ends. For
  the main thread alone.
  """

  SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

  def __init__(self):
    self.requested = False
    self._interrupted = self._shielded = False
    self._former = {}

  def __enter__(self) -> 'StopRequest':
    for number in self.SIGNALS:
      self._former[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc_info) -> None:
    for number, handler in self._former.items():
      signal.signal(number, handler)

  @contextlib.contextmanager
  def shield(self) -> Iterator[None]:
    """No signal but SIGKILL breaks into the block, which is a save."""
    self._shielded = True
    try:
      yield
    finally:
      self._shielded = False

  def _handle(self, number: int, frame: Any) -> None:
    del frame
    self.requested = True
    if number != signal.SIGINT:
      return
    if self._interrupted and not self._shielded:
      raise KeyboardInterrupt
    self._interrupted = True
