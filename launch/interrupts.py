"""Ctrl-C is one line and exit code 130, from the first import on.

Python's own handler raises KeyboardInterrupt wherever the program is: in an
import, which gives a traceback, or in a callback (jax has one in the garbage
collector), where the interpreter reports it and goes on as if nothing had
happened. Importing this module, before anything slow, sees to both; `cli.run`
does the rest.
"""

import contextlib
import os
import signal
import sys
from typing import NoReturn

CODE = 130


_arrived: list[int] = []


def arrived() -> bool:
  """Whether Ctrl-C was pressed, however the exception for it fared."""
  return bool(_arrived)


def leave() -> NoReturn:
  """Ends the process with the line; nothing that waits can hold it up."""
  with contextlib.suppress(OSError):
    sys.stdout.flush()
  print('interrupted', file=sys.stderr, flush=True)
  os._exit(CODE)


def _handle(number: int, frame) -> NoReturn:
  del frame
  _arrived.append(number)
  raise KeyboardInterrupt


def _uncaught(kind: type[BaseException], error, trace) -> None:
  """Before `cli.run` there is nobody to catch it."""
  if issubclass(kind, KeyboardInterrupt):
    leave()
  sys.__excepthook__(kind, error, trace)


def _swallowed(report) -> None:
  """A callback cannot be left by an exception, so the process is."""
  if issubclass(report.exc_type, KeyboardInterrupt):
    leave()
  sys.__unraisablehook__(report)


# A job in the background of a script starts with SIGINT ignored: it stays so.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
  signal.signal(signal.SIGINT, _handle)
  sys.excepthook = _uncaught
  sys.unraisablehook = _swallowed
