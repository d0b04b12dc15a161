"""Ctrl-C is one line and exit code 130, from the first import on.

Python's own handler raises KeyboardInterrupt wherever the program is: in an
import, which gives a traceback, or in a callback (jax has one in the garbage
collector), where the interpreter reports it and goes on as if nothing had
happened. Importing this module, before anything slow, takes care of both;
`cli.run` and the loops that ask `signals.check_interrupt` do the rest.
"""

import contextlib
import os
import signal
import sys
from typing import NoReturn

from dllm_jax.runtime import signals

CODE = 130


def leave() -> NoReturn:
  """Ends the process with one line, at once: it waits for no thread."""
  with contextlib.suppress(OSError, ValueError, AttributeError):
    sys.stdout.flush()
  with contextlib.suppress(OSError, ValueError):
    print('interrupted', file=sys.stderr, flush=True)
  os._exit(CODE)


def _uncaught(kind: type[BaseException], error, trace) -> None:
  """Before `cli.run` nothing catches it."""
  if issubclass(kind, KeyboardInterrupt):
    leave()
  sys.__excepthook__(kind, error, trace)


def _swallowed(report) -> None:
  """An exception cannot leave a callback, so the process ends here."""
  if issubclass(report.exc_type, KeyboardInterrupt):
    leave()
  sys.__unraisablehook__(report)


# A background job of a script starts with SIGINT ignored: it stays so.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
  signal.signal(signal.SIGINT, signals.interrupt)
  sys.excepthook = _uncaught
  sys.unraisablehook = _swallowed
