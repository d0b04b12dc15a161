"""Reads the pages of docs/: code that names its file, edits, commands."""

import pathlib
import re

REPO = pathlib.Path(__file__).resolve().parents[2]

_FILE = re.compile(r'^`([\w/.]+)`:\n\n```python\n(.*?)^```$', re.S | re.M)
_EDIT = re.compile(r'^`([\w/.]+)`,[^\n]*:\n\n```diff\n(.*?)^```$', re.S | re.M)


def files(page: str) -> dict[str, str]:
  """The text of every file that a page writes, by its path."""
  return dict(_FILE.findall((REPO / 'docs' / page).read_text('utf-8')))


def edits(page: str) -> list[tuple[str, str]]:
  """(path, diff) of every file that a page changes."""
  return _EDIT.findall((REPO / 'docs' / page).read_text('utf-8'))


def apply(diff: str, text: str) -> str:
  """Puts the added lines of a diff after the context line before them.

  Raises:
    ValueError: a context line is not in the text.
  """
  lines, place = text.splitlines(), -1
  for line in diff.splitlines():
    kind, body = line[:1], line[1:]
    if kind == '+':
      place += 1
      lines.insert(place, body)
    elif body.strip() != '...':
      place = lines.index(body, place + 1)
  return '\n'.join(lines) + '\n'
