"""Reads text and JSON that may be damaged, huge or hostile."""

import json
import pathlib
from typing import Any

from dllm_jax import errors

# Containers and values of a document: what a parser's memory grows with.
MAX_VALUES = 2 * 2**20
MAX_BYTES = 32 * 2**20  # of the largest text file that is read
MAX_CONFIG_BYTES = 4 * 2**20


def leads_out(path: pathlib.Path) -> bool:
  """Whether a file is a link out of its folder.

  A link may lead to another file of the folder, or, from a snapshot of a hub's
  cache (`snapshots/REVISION/`), to the cache's own `blobs/`.

  Raises:
    OSError, RuntimeError: the link is broken or circular.
  """
  root = path.parent.resolve()
  file = (root / path.name).resolve(strict=True)
  blobs = root.parent.parent / 'blobs'
  in_cache = root.parent.name == 'snapshots' and file.parent == blobs
  return not (file.is_relative_to(root) or in_cache)


def read_text(path: pathlib.Path, max_bytes: int = MAX_BYTES) -> str:
  """The text of a regular file of at most `max_bytes`.

  Raises:
    errors.UserError: it is missing, larger, not UTF-8, or a link out of its
      folder.
  """
  if not path.is_file():
    raise errors.UserError(f'{path} is not a file')
  if leads_out(path):
    raise errors.UserError(
      f'{path} is a link out of its folder; put the file itself there'
    )
  try:
    with path.open('rb') as file:
      data = file.read(max_bytes + 1)
  except OSError as e:
    raise errors.UserError(f'cannot read {path}: {e.strerror}') from e
  if len(data) > max_bytes:
    raise errors.UserError(f'{path} is larger than {max_bytes} bytes')
  try:
    return data.decode('utf-8')
  except UnicodeDecodeError as e:
    raise errors.UserError(f'{path} is not UTF-8: {e}') from e


def parse_object(
  text: str | bytes, where: str | pathlib.Path
) -> dict[str, Any]:
  """The JSON object that `text` spells.

  Args:
    text: the document; bytes are UTF-8.
    where: the file that it is from, for messages.

  Raises:
    errors.UserError: it is not one JSON object, is too deep or too large,
      repeats a key (readers disagree on which counts), or has NaN or infinity.
  """

  def unique(pairs):
    document = dict(pairs)
    if len(document) < len(pairs):
      seen = set()
      twice = next(k for k, _ in pairs if k in seen or seen.add(k))
      raise ValueError(f'the key {twice!r:.80} appears twice')
    return document

  def refuse(constant):
    raise ValueError(f'{constant} is not a JSON number')

  try:
    text = text.decode('utf-8') if isinstance(text, bytes) else text
    if sum(map(text.count, '[{,')) > MAX_VALUES:
      raise ValueError(f'it holds more than {MAX_VALUES} JSON values')
    document = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
  except RecursionError:
    raise errors.UserError(f'{where} is nested too deeply') from None
  except ValueError as e:
    raise errors.UserError(
      f'{where} is not valid JSON: {e}; is the file complete?'
    ) from e
  if not isinstance(document, dict):
    raise errors.UserError(f'{where} is not a JSON object')
  return document


def read_object(
  path: pathlib.Path, max_bytes: int = MAX_CONFIG_BYTES
) -> dict[str, Any]:
  """The JSON object in a file; see `read_text` and `parse_object`."""
  return parse_object(read_text(path, max_bytes), path)


def read_optional(path: pathlib.Path) -> dict[str, Any]:
  """The JSON object in a file; {} where the file does not exist."""
  return read_object(path) if path.exists() else {}
