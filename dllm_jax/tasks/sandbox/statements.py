"""Which statements at the top of a test test something."""

import ast

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def asserting(body: list[ast.stmt]) -> frozenset[str]:
  """Names of the functions and classes of a test that assert something."""
  return frozenset(
    part.name
    for part in body
    if isinstance(part, _DEFINITIONS)
    if any(asserts(inner, frozenset()) for inner in part.body)
  )


def asserts(statement: ast.stmt, asserting: frozenset[str]) -> bool:
  """Whether a statement tests something when it is run.

  It holds an `assert`, a `with` such as `pytest.raises`, or a call of what
  asserts, as unittest's methods do by their names.
  """
  if isinstance(statement, _DEFINITIONS):
    return False
  for node in ast.walk(statement):
    match node:
      case ast.Assert() | ast.With():
        return True
      case ast.Call(func=ast.Name(id=name)) if name in asserting:
        return True
      case ast.Call(func=ast.Attribute(attr=name)) if name[:6] == 'assert':
        return True
  return False
