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


def places(path: str) -> list[pathlib.Path]:
  """The files that a page may mean.

  Paths are from dllm_jax/ or from the root; a name alone may lie anywhere.
  """
  roots = (pages.REPO / 'dllm_jax', pages.REPO)
  found = [root / path for root in roots if (root / path).is_file()]
  if '/' in path:
    return found
  folders = ('dllm_jax', 'launch', 'tests', 'configs')
  return found + [f for d in folders for f in (pages.REPO / d).rglob(path)]


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
    known = set().union(*map(names, files := places(path)))
    if not files:
      missing.append(path)
    missing += [
      f'{path}: {name}'
      for name in filter(None, listed.replace(' ', '').split(','))
      if name not in known and name.split('.')[-1] not in known
    ]
  assert not missing


@pytest.mark.parametrize('page', PAGES, ids=_id)
def test_links_lead_somewhere(page):
  targets = _LINK.findall(page.read_text('utf-8'))
  assert not [t for t in targets if not (page.parent / t).exists()]


def test_the_reader_of_names_sees():
  found = names(pages.REPO / 'dllm_jax' / 'rl' / 'losses.py')
  assert 'k3' in found and 'kl' not in found
  assert places('rl/losses.py') and not places('rl/nothing.py')
  assert len(places('generate.py')) > 1
