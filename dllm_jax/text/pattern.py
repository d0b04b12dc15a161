"""Refuses regular expressions that a backtracking engine may never finish.

A `tokenizer.json` brings its own patterns, in Oniguruma's syntax, and they run
over every prompt; nothing in Python can interrupt one. What real tokenizers use
is flat: alternatives of a few repeated character classes. So a repeated group
may neither repeat anything itself nor hold alternatives (both take exponential
time), and an alternative has few unbounded repetitions (k of them take time
n^k) and few ways through its optional parts and groups (k parts with two each
have 2^k).

What passes takes quadratic time at worst, for each way through. On a long text
that can be more than the engine's own limit of steps, at which it panics:
whoever encodes catches that.
"""

import dataclasses
import re

MAX_LENGTH = 2**16
MAX_REPEATS = 2  # unbounded repetitions of one alternative
MAX_WAYS = 256  # through the bounded parts of one alternative
_INFINITE = 2**31

# No x among a group's options: it would hide a repetition behind a space. A +
# after a count repeats it: this syntax has no possessive counts.
_PARTS = re.compile(
  r'(?P<reference>\\[1-9kg])'
  r'|(?P<atom>\\[pPxo]\{[^}]*\}|\\.?'
  r'|\[\]?(?:\\.|[^][\\]|\[(?:\\.|[^][\\])*\])*\])'
  r'|(?P<open>\(\?(?:<?[=!]|[im-]*:|>|<\w+>)|\((?!\?))'
  r'|(?P<close>\))'
  r'|(?P<bar>\|)'
  r'|(?P<repeat>[*+?][?+]?|\{(?=\d|,\d)\d*,?\d*\}\??)'
  r'|(?P<unclosed>\[)'
  r'|(?P<unknown>\()'
  r'|(?P<letter>.)',
  re.DOTALL,
)
_REFUSED = {
  'reference': 'a back-reference',
  'unclosed': 'a character class without an end',
  'unknown': 'an unknown kind of group',
}


@dataclasses.dataclass
class _Group:
  """What the group that is being read holds."""

  repeats: bool = False
  choices: bool = False
  unbounded: int = 0  # in the alternative that is being read
  most: int = 0  # in any alternative
  ways: int = 1  # through the alternative that is being read
  all_ways: int = 0  # through those before it

  def end_alternative(self) -> None:
    self.most = max(self.most, self.unbounded)
    self.all_ways += self.ways
    self.unbounded, self.ways = 0, 1


def check(pattern: str) -> None:
  """Passes patterns that take polynomial time at worst.

  Raises:
    ValueError: saying what in the pattern is refused.
  """
  if len(pattern) > MAX_LENGTH:
    raise ValueError(f'a pattern of {len(pattern)} characters')
  if fault := _fault(pattern):
    shown = pattern if len(pattern) <= 60 else pattern[:57] + '...'
    raise ValueError(f'{fault} in {shown!r}')


def _fault(pattern: str) -> str | None:
  stack = [_Group()]
  closed = None  # the group that the part before closed
  kind = None
  for part in _PARTS.finditer(pattern):
    before, kind = kind, part.lastgroup
    last, closed = closed, None
    group = stack[-1]
    if kind in _REFUSED:
      return _REFUSED[kind]
    if kind == 'open':
      stack.append(_Group())
    elif kind == 'close' and len(stack) > 1:
      closed = stack.pop()
      closed.end_alternative()
      group = stack[-1]
      group.repeats |= closed.repeats
      group.unbounded += closed.most
      group.ways *= closed.all_ways
    elif kind == 'bar':
      group.choices = True
      group.end_alternative()
    elif kind == 'repeat':
      if before == 'repeat':
        return 'a repetition of a repetition'
      least, most = _times(part[0])
      if most > 1 and last and (last.repeats or last.choices):
        return 'a repetition inside another'
      group.repeats = True
      group.unbounded += most == _INFINITE
      if last and most == 1 and not least:  # the ways through it, or none
        group.ways += group.ways // last.all_ways
      elif most != _INFINITE:
        group.ways *= max(1, most - least + 1)
    if max(stack[-1].unbounded, stack[-1].most) > MAX_REPEATS:
      return f'more than {MAX_REPEATS} repetitions after one another'
    if stack[-1].ways > MAX_WAYS:
      return f'more than {MAX_WAYS} ways through optional parts'
  return None


def _times(repeat: str) -> tuple[int, int]:
  """How often at least and at most a quantifier repeats what it follows."""
  if repeat[0] != '{':
    return int(repeat[0] == '+'), 1 if repeat[0] == '?' else _INFINITE
  low, comma, high = repeat.strip('{}?').partition(',')
  least = int(low[:9] or 0)
  if not comma:  # a ? behind it makes it optional, not lazy
    return 0 if repeat.endswith('?') else least, least
  most = int(high[:9]) if high else _INFINITE
  return min(least, most), max(least, most)  # {9,2} is {2,9}
