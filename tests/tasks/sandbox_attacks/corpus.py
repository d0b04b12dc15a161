"""The attacks as submissions, in both ways of testing, and what is around them.

`value` tests are plain assertions on literals, `judge` tests are a `check` that
computes; each attack is submitted with both.
"""

from collections.abc import Mapping
from typing import NamedTuple

from dllm_jax.tasks import coding
from tests.tasks.sandbox_attacks import escape, exhaust, forge, hostile, planted

FAMILIES = ('forge', 'leak', 'act', 'exhaust', 'hostile', 'canary')

RIGHT = """
def f(x):
  return 2 * x
"""
WRONG = """
def f(x):
  return 2 * x + 1
"""
DOUBLE = {
  'value': """
assert f(2) == 4
assert f(5) == 10
""",
  'judge': """
def check(candidate):
  for x in (2, 5, 11):
    assert candidate(x) == 2 * x
""",
}
RETURNS = {
  'value': 'assert f() == {0!r}\n',
  'judge': 'def check(candidate):\n  assert [candidate()] == [{0!r}]\n',
}


class Sample(NamedTuple):
  """An attack, and whether a pass of it is a failure of the sandbox."""

  name: str
  submission: coding.Submission
  may_pass: bool = False


def samples(family: str, places: Mapping[str, str]) -> list[Sample]:
  """The attacks of a family; `places` are the words between '@' signs."""
  if family == 'forge':
    tests = {
      name: DOUBLE | ({'judge': own} if (own := forge.JUDGED.get(name)) else {})
      for name in forge.PROGRAMS
    }
    return _both(family, forge.PROGRAMS, tests, places)
  if family == 'leak':
    secret = _returns(places['SECRET'])
    tests = dict.fromkeys(escape.LEAKS, secret)
    return _both(family, escape.LEAKS, tests, places)
  if family == 'act':
    tests = dict.fromkeys(escape.ACTS, _returns('done'))
    return _both(family, escape.ACTS, tests, places)
  if family == 'exhaust':
    tests = dict.fromkeys(exhaust.PROGRAMS, DOUBLE)
    return _both(family, exhaust.PROGRAMS, tests, places)
  texts = {'hostile': hostile.TESTS, 'canary': hostile.CANARIES}[family]
  return [
    Sample(
      f'{family}/{name}',
      coding.Submission(hostile.SOLUTION, _fill(text, places), 'f'),
      may_pass=family == 'hostile',
    )
    for name, text in texts.items()
  ]


def pairs(
  places: Mapping[str, str],
) -> dict[str, tuple[coding.Submission, ...]]:
  """What leaves a trace, and what looks for it, in one way of testing."""
  return {
    f'planted/{name}/{mode}': tuple(
      coding.Submission(_fill(code, places), test, 'f') for code in programs
    )
    for name, programs in planted.PAIRS.items()
    for mode, test in _returns('done').items()
  }


def honest(mode: str, *, right: bool, number: int) -> coding.Submission:
  """A good program, or one that is wrong and means no harm.

  `number` makes it another text: equal submissions may be judged once.
  """
  code = f'{RIGHT if right else WRONG}# {number}\n'
  return coding.Submission(code, DOUBLE[mode], 'f')


def _returns(value: str) -> dict[str, str]:
  return {mode: text.format(value) for mode, text in RETURNS.items()}


def _both(family, programs, tests, places) -> list[Sample]:
  return [
    Sample(
      f'{family}/{name}/{mode}',
      coding.Submission(_fill(code, places), test, 'f'),
    )
    for name, code in programs.items()
    for mode, test in tests[name].items()
  ]


def _fill(text: str, places: Mapping[str, str]) -> str:
  for name, value in places.items():
    text = text.replace(f'@{name}@', value)
  return text
