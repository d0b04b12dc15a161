"""Prompts from a JSON-lines file, one object a line.

  {"id": "a", "prompt": "text"}   or   {"id": "b", "prompt_ids": [5, 7]}

Other keys are ignored, so that the rows of a data set can be used as they are.
Errors name the file and the line.
"""

import codecs
import pathlib
from typing import Any, NamedTuple

from dllm_jax import errors
from dllm_jax.hf import folder
from dllm_jax.text import json_file

MAX_LINE = 16 * 2**20  # bytes


class Request(NamedTuple):
  """A prompt to complete: text, or ids.

  Attributes:
    id: id of the row, written beside the completion.
    where: FILE:LINE, for messages.
    text: None where the prompt is ids.
    ids: None where the prompt is text.
  """

  id: str | int
  where: str
  text: str | None
  ids: tuple[int, ...] | None


def read(path: pathlib.Path) -> list[Request]:
  """The prompts of a file, in its order; empty lines are skipped.

  The byte order mark that some editors put first is skipped too.

  Raises:
    errors.UserError: no such file, or a line that is no prompt.
  """
  requests, lines = [], {}
  try:
    with path.open('rb') as file:
      number = 0
      while data := file.readline(MAX_LINE + 1):
        number += 1
        if number == 1:
          data = data.removeprefix(codecs.BOM_UTF8)
        where = f'{path}:{number}'
        if len(data) > MAX_LINE:
          raise errors.UserError(f'{where} is longer than {MAX_LINE} bytes')
        if not data.strip():
          continue
        request = parse(json_file.parse_object(data, where), where)
        first = lines.setdefault(request.id, number)
        if first != number:
          raise errors.UserError(
            f'{where}: the id {folder.short(request.id)} is that of line '
            f'{first}; give every row its own'
          )
        requests.append(request)
  except OSError as e:
    raise errors.UserError(
      f'cannot read prompts from {path}: {e.strerror}; check --prompts'
    ) from e
  if not requests:
    raise errors.UserError(f'{path} has no rows; one JSON object a line')
  return requests


def parse(row: dict[str, Any], where: str) -> Request:
  """The prompt of a row.

  Raises:
    errors.UserError: names `where`.
  """

  def wrong(what):
    return errors.UserError(
      f'{where}: {what}; a row is {{"id": ..., "prompt": "text"}} or '
      '{"id": ..., "prompt_ids": [ints]}'
    )

  if type(row.get('id')) not in (str, int):
    raise wrong('id is missing, or neither a text nor an integer')
  if ('prompt' in row) == ('prompt_ids' in row):
    raise wrong('it must have one of prompt and prompt_ids')
  text, ids = row.get('prompt'), row.get('prompt_ids')
  if 'prompt' in row:
    if not isinstance(text, str) or not text:
      raise wrong('prompt is no text, or empty')
    return Request(row['id'], where, text, None)
  if not isinstance(ids, list) or not ids:
    raise wrong('prompt_ids is no list, or empty')
  for value in ids:
    if type(value) is not int or value < 0:
      raise wrong(f'prompt_ids has {folder.short(value)}, which is no id')
  return Request(row['id'], where, None, tuple(ids))
