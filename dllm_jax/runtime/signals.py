"""Signals that ask a run to stop: it ends at a step boundary, not in a step.

An exception that a signal handler raises can get lost: in a finalizer or a
callback the interpreter reports it and goes on, and C++ code may clear it or
turn it into another. So `interrupt` records the Ctrl-C before it raises, and
loops ask `check_interrupt` at every step.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any, NoReturn

_interrupts: list[int] = []

_NOTICE = '\n{}: stopping once all is saved (Ctrl-C {}: at once, unsaved)\n'


def interrupt(number: int, frame: Any) -> NoReturn:
  """The handler of SIGINT: records it and raises KeyboardInterrupt."""
  del frame
  _interrupts.append(number)
  raise KeyboardInterrupt


def interrupted() -> bool:
  """Whether `interrupt` was called, whatever became of its exception."""
  return bool(_interrupts)


def check_interrupt() -> None:
  """Raises KeyboardInterrupt if `interrupt` was called and that got lost."""
  if _interrupts:
    raise KeyboardInterrupt


class StopRequest:
  """Turns SIGTERM, SIGUSR1 and SIGINT into a flag for the loop to check.

  Inside the `with` block a signal only sets `requested` and says so on standard
  error, so that the loop can finish its step and save. A second SIGINT raises
  KeyboardInterrupt, except within a `shield`. The former handlers come back
  when the block ends. For the main thread only.
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
    """Only SIGKILL can stop the block, which is a save."""
    self._shielded = True
    try:
      yield
    finally:
      self._shielded = False

  def _handle(self, number: int, frame: Any) -> None:
    first, self.requested = not self.requested, True
    again = number == signal.SIGINT and self._interrupted
    self._interrupted |= number == signal.SIGINT
    if first:
      name = signal.Signals(number).name
      more = 'again' if number == signal.SIGINT else 'twice'
      # Not `print`: the signal may have come while it holds the stream.
      with contextlib.suppress(OSError):
        os.write(2, _NOTICE.format(name, more).encode())
    if again and not self._shielded:
      interrupt(number, frame)
