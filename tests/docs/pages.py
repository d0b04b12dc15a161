"""Reads the pages of docs/: code that names its file, edits, commands."""

import pathlib
import re

REPO = pathlib.Path(__file__).resolve().parents[2]

_FILE = re.compile(r'^`([\w/.]+)`:\n\n```python\n(.*?)^```$', re.S | re.M)
_EDIT = re.compile(r'^`([\w/.]+)`,[^\n]*:\n\n```diff\n(.*?)^```$', re.S | re.M)


def files(page: str | pathlib.Path) -> dict[str, str]:
  """The text of every file that a page of docs/ writes, by its path."""
  return dict(_FILE.findall((REPO / 'docs' / page).read_text('utf-8')))


def edits(page: str) -> list[tuple[str, str]]:
  """(path, diff) of every file that a page changes."""
  return _EDIT.findall((REPO / 'docs' / page).read_text('utf-8'))


def apply(diff: str, text: str) -> str:
  """The text with a diff of lines applied; '...' skips some.

  Raises:
    ValueError: a line that should be there is not.
  """
  lines, place = text.splitlines(), 0
  for line in diff.splitlines():
    kind, body = line[:1], line[1:]
    if kind == '+':
      lines.insert(place, body)
      place += 1
    elif body.strip() != '...':
      place = lines.index(body, place)
      if kind == '-':
        del lines[place]
      else:
        place += 1
  return '\n'.join(lines) + '\n'


_FENCE = re.compile(r'^```bash\n(.*?)^```$', re.S | re.M)


def commands(page: pathlib.Path) -> list[str]:
  """The commands of a page's bash blocks that run something of ours.

  Lines that go on are joined, loops are run once, comments are left out.
  """
  found = []
  for block in _FENCE.findall(page.read_text('utf-8')):
    variables = {}
    for line in block.replace('\\\n', ' ').splitlines():
      line = line.strip()
      loop = re.match(r'for (\w+) in (\S+)', line)
      assign = re.match(r'(\w+)=["\']?(.*?)["\']?$', line)
      if loop:
        variables[loop[1]] = loop[2].rstrip(';')
      elif assign:
        variables[assign[1]] = _fill(assign[2], variables)
      elif re.match(r'(\.venv/bin/)?python (launch/|-m dllm_jax)', line):
        line = re.sub(r'\s+#\s.*', '', line).removeprefix('.venv/bin/')
        found.append(_fill(line, variables))
  return found


def _fill(text: str, variables: dict[str, str]) -> str:
  for name, value in variables.items():
    text = re.sub(rf'\$\{{?{name}\}}?', value, text)
  return text
