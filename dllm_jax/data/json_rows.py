"""Reads files of JSON objects: one per line, or one list; gzip allowed.

Sizes are limited after decompression: a file of kilobytes can expand to
gigabytes.
"""

import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

from dllm_jax import errors

MAX_LINE_BYTES = 4 * 2**20
MAX_LIST_BYTES = 2**24  # parsed at once, into objects many times its size
MAX_FILE_BYTES = 2**28
MAX_ROWS = 10**6


def records(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (number, object); numbers count lines, or items of the list.

  Raises:
    errors.UserError: the file is missing, malformed or too large; the message
      has the number.
  """
  open_file = gzip.open if path.suffix == '.gz' else open
  number = num_rows = num_bytes = 0
  try:
    with open_file(path, 'rb') as data:
      if data.peek(1)[:1] == b'[':
        text = data.read(MAX_LIST_BYTES + 1)
        if len(text) > MAX_LIST_BYTES:
          raise ValueError(f'a list of more than {MAX_LIST_BYTES} bytes')
        number = 1
        for number, record in enumerate(_parse(text), 1):
          yield number, _checked(record, number)
        return
      while line := data.readline(MAX_LINE_BYTES + 1):
        number += 1
        num_bytes += len(line)
        if len(line) > MAX_LINE_BYTES:
          raise ValueError(f'a line of more than {MAX_LINE_BYTES} bytes')
        if num_bytes > MAX_FILE_BYTES:
          raise ValueError(f'more than {MAX_FILE_BYTES} bytes')
        if line.strip():
          num_rows += 1
          yield number, _checked(_parse(line), num_rows)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise errors.UserError(
      f'{path}:{number + 1}: damaged gzip file: {error}'
    ) from error
  except OSError as error:
    raise errors.UserError(
      f'cannot read {path}: {error.strerror or error}'
    ) from error
  except ValueError as error:
    raise errors.UserError(f'{path}:{number}: {error}') from error


def _parse(text: bytes) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'not JSON: {error}') from error


def _checked(record: Any, num_rows: int) -> dict[str, Any]:
  if num_rows > MAX_ROWS:
    raise ValueError(f'more than {MAX_ROWS} rows')
  if not isinstance(record, dict):
    raise ValueError('not a JSON object')
  return record
