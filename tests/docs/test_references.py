"""What the pages name is there: functions, tests, files, links, flags."""

import ast
import functools
import pathlib
import re

import pytest

from tests.docs import pages

PAGES = sorted((pages.REPO / 'docs').rglob('*.md')) + [pages.REPO / 'README.md']
# `rl/losses.py: k3, token_mean`, or a file alone
_REFERENCE = re.compile(r'`([\w/]+\.py)(?:: ([\w., ]+))?`')
_LINK = re.compile(r'\]\(([^)#:]+)\)')


@functools.cache
def names(path: pathlib.Path) -> set[str]:
  """Functions, classes, constants of a module, and fields as Class.field."""
  found = set()
  for node in ast.parse(path.read_text('utf-8')).body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      found.add(node.name)
    if isinstance(node, ast.ClassDef):
      for inner in node.body:
        if isinstance(inner, ast.AnnAssign):
          found.add(f'{node.name}.{inner.target.id}')
        if isinstance(inner, ast.FunctionDef):
          found.add(f'{node.name}.{inner.name}')
    if isinstance(node, ast.Assign):
      found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
  return found


def place(path: str) -> pathlib.Path | None:
  """The file that a page means: paths are from dllm_jax/ or from the root."""
  for root in (pages.REPO / 'dllm_jax', pages.REPO):
    if (root / path).is_file():
      return root / path
  return None


def _id(page):
  return str(page.relative_to(pages.REPO))


@pytest.mark.parametrize('page', PAGES, ids=_id)
def test_code_that_is_named_exists(page):
  text = page.read_text('utf-8')
  own = pages.files(page)
  missing = []
  for path, listed in _REFERENCE.findall(text):
    if path in own:
      continue
    file = place(path)
    if file is None:
      missing.append(path)
    elif listed:
      missing += [
        f'{path}: {name}'
        for name in listed.replace(' ', '').split(',')
        if name not in names(file) and name.split('.')[-1] not in names(file)
      ]
  assert not missing


@pytest.mark.parametrize('page', PAGES, ids=_id)
def test_links_lead_somewhere(page):
  targets = _LINK.findall(page.read_text('utf-8'))
  assert not [t for t in targets if not (page.parent / t).exists()]


def test_the_reader_of_names_sees():
  found = names(pages.REPO / 'dllm_jax' / 'rl' / 'losses.py')
  assert 'k3' in found and 'kl' not in found
  assert place('rl/losses.py') and place('rl/nothing.py') is None
