"""A file of JSON lines that appears under its name only when it is complete.

Rows go to FILE.partial as they come, each a whole line, and the file gets its
name when the last one is written. Who is stopped on the way keeps the rows that
were finished, and a reader of FILE never sees a part.
"""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dllm_jax import errors

PARTIAL = '.partial'


@contextlib.contextmanager
def new(path: pathlib.Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
  """A function that writes a row of the file; parent folders are made.

  Raises:
    errors.UserError: the file or a part of it already exists, or it cannot be
      written.
  """
  partial = path.with_name(path.name + PARTIAL)
  if os.path.lexists(path):
    raise errors.UserError(f'{path} already exists; name another --out')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = partial.open('ab', buffering=0)
  except OSError as e:
    raise errors.UserError(
      f'cannot write to {path}: {e.strerror}; name another --out'
    ) from e
  with file:
    _claim(file, partial)
    try:
      yield lambda row: _write(file, row, path)
      try:
        os.fsync(file.fileno())
        partial.rename(path)
      except OSError as e:
        raise _cannot(path, e) from e
    finally:
      if partial.exists() and not partial.stat().st_size:
        partial.unlink()


def _claim(file, partial: pathlib.Path) -> None:
  """Refuses a part that another command writes, or wrote."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise errors.UserError(
      f'{partial} is being written by another command; name another --out'
    ) from None
  if os.fstat(file.fileno()).st_size:
    raise errors.UserError(
      f'{partial} holds the rows of a command that was stopped; move it away, '
      'or name another --out'
    )


def _write(file, row: Mapping[str, Any], path: pathlib.Path) -> None:
  left, end = f'{json.dumps(row)}\n'.encode(), file.tell()
  try:
    while left:
      left = left[file.write(left) :]
  except OSError as e:
    with contextlib.suppress(OSError):
      file.truncate(end)  # no half line stays
    raise _cannot(path, e) from e


def _cannot(path: pathlib.Path, e: OSError) -> errors.UserError:
  return errors.UserError(
    f'cannot write {path}: {e.strerror}; the rows so far are in '
    f'{path.name}{PARTIAL}'
  )
