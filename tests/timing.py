"""Processor time of short calls, comparable between machines."""

import gc
import re
import time
from collections.abc import Callable

_REFERENCE_SECONDS = 0.022  # that `_reference` takes on an idle core of 2024


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
  """Least time of the calling thread in `call`, as on an idle core of 2024.

  Other threads, other processes and the garbage of earlier tests do not count;
  on a core that is slow just now, time is divided by how much slower it is.
  """
  collects = gc.isenabled()
  gc.disable()
  try:
    pairs = [(_took(call), _took(_reference)) for _ in range(repeats)]
  finally:
    if collects:
      gc.enable()
  took, reference = map(min, zip(*pairs, strict=True))
  return took / max(1.0, reference / _REFERENCE_SECONDS)


def _took(call: Callable[[], object]) -> float:
  start = time.thread_time()
  call()
  return time.thread_time() - start


def _reference() -> int:
  """What parsers do: regular expressions, lists and strings."""
  text = 'ab 12, ' * 32_000
  return len(' '.join(word.strip(', ') for word in re.findall(r'\w+.', text)))
