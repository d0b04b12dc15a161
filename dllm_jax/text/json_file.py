"""Reading text and JSON that may be damaged, huge or hostile."""

import json
import pathlib
from typing import Any

# Containers and values of a document: what a parser's memory grows with.
MAX_MARKS = 2 * 2**20
MAX_BYTES = 32 * 2**20  # of a text file


def leads_out(path: pathlib.Path) -> bool:
  """Whether a file is a link out of its folder.

  A link may lead to another file of the folder, or, from a snapshot of a hub's
  cache (`snapshots/REVISION/`), to the cache's own `blobs/`.

  Raises:
    OSError, RuntimeError: there is no file at the end of it.
  """
  root = path.parent.resolve()
  file = (root / path.name).resolve(strict=True)
  blobs = root.parent.parent / 'blobs'
  in_cache = root.parent.name == 'snapshots' and file.parent == blobs
  return not (file.is_relative_to(root) or in_cache)


def read_text(path: pathlib.Path, max_bytes: int) -> str:
  """The text of a regular file of at most `max_bytes`.

  Raises:
    ValueError: in one line, if it is missing, larger, not UTF-8, or a link out
      of its folder.
  """
  if not path.is_file():
    raise ValueError(f'{path} is no file; give a directory that holds one')
  if leads_out(path):
    raise ValueError(
      f'{path} is a link out of its folder; put the file itself there'
    )
  with path.open('rb') as file:
    data = file.read(max_bytes + 1)
  if len(data) > max_bytes:
    raise ValueError(f'{path} is larger than {max_bytes} bytes')
  try:
    return data.decode('utf-8')
  except UnicodeDecodeError as e:
    raise ValueError(f'{path} is not UTF-8: {e}') from e


def parse_object(text: str, path: str | pathlib.Path) -> dict[str, Any]:
  """The JSON object that `text`, read from `path`, spells.

  Raises:
    ValueError: in one line, if it is no JSON object, too deep or too large, or
      has a key twice: which of the two counts, readers do not agree on.
  """

  def unique(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
      seen = set()
      twice = next(k for k, _ in pairs if k in seen or seen.add(k))
      raise ValueError(f'the key {twice!r:.80} is there twice')
    return found

  if sum(map(text.count, '[{,')) > MAX_MARKS:
    raise ValueError(f'{path} holds more than {MAX_MARKS} JSON values')
  try:
    value = json.loads(text, object_pairs_hook=unique)
  except RecursionError:
    raise ValueError(f'{path} is nested too deeply') from None
  except ValueError as e:
    raise ValueError(
      f'{path} is not valid JSON: {e}; is the file whole?'
    ) from e
  if not isinstance(value, dict):
    raise ValueError(f'{path} holds no JSON object')
  return value


def read_object(path: pathlib.Path, max_bytes: int) -> dict[str, Any]:
  """The JSON object in a file of at most `max_bytes`; see `parse_object`."""
  return parse_object(read_text(path, max_bytes), path)
