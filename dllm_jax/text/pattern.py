"""Refuses regular expressions that a backtracking engine may never finish.

A `tokenizer.json` brings its own patterns, in Oniguruma's syntax, and they run
over every prompt. What real tokenizers use is flat: alternatives of a few
repeated character classes. So a repeated group may neither repeat anything
itself nor hold alternatives (both take exponential time), and an alternative
has few unbounded repetitions (k of them take time n^k) and few ways through
its optional parts and groups (k parts with two each have 2^k).

What passes takes quadratic time at worst, for each way through. On a long text
that can be more than the engine's own limit of steps, at which it panics:
whoever encodes catches that.
"""

import dataclasses
import re

MAX_LENGTH = 2**16
MAX_REPEATS = 2  # unbounded repetitions of one alternative
MAX_WAYS = 256  # through the bounded parts of one alternative

_COUNT = re.compile(r'\{(\d*)(,?)(\d*)\}')
# No x among the options: it would hide a repetition behind a space.
_LOOK = re.compile(r'\(\?(?:<?[=!]|[im-]*:|>|<\w+>)|\((?!\?)')
_BRACED = re.compile(r'\\[pPxo]\{[^}]*\}')


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
  stack, at = [_Group()], 0
  closed: _Group | None = None  # set right after a group
  while at < len(pattern):
    group, char, last = stack[-1], pattern[at], closed
    closed = None
    if char == '\\':
      if pattern[at + 1 : at + 2] in tuple('123456789kg'):
        raise ValueError(f'a back-reference in {_show(pattern)}')
      braced = _BRACED.match(pattern, at)
      at = braced.end() if braced else at + 2
    elif char == '[':
      at = _class_end(pattern, at)
    elif char == '(':
      opening = _LOOK.match(pattern, at)
      if not opening:
        raise ValueError(f'an unknown kind of group in {_show(pattern)}')
      stack.append(_Group())
      at = opening.end()
    elif char == ')' and len(stack) > 1:
      closed = stack.pop()
      closed.end_alternative()
      outer = stack[-1]
      outer.repeats |= closed.repeats
      outer.unbounded += closed.most
      outer.ways *= closed.all_ways
      at += 1
    elif char == '|':
      group.choices = True
      group.end_alternative()
      at += 1
    elif size := _repetition(pattern, at):
      length, least, most = size
      if most > 1 and last and (last.repeats or last.choices):
        raise ValueError(f'a repetition inside another in {_show(pattern)}')
      group.repeats = True
      group.unbounded += most == _INFINITE
      if last and most == 1 and not least:  # the ways through it, or none
        group.ways += group.ways // last.all_ways
      elif most != _INFINITE:
        group.ways *= max(1, most - least + 1)
      at += length
    else:
      at += 1
    if max(stack[-1].unbounded, stack[-1].most) > MAX_REPEATS:
      raise ValueError(
        f'more than {MAX_REPEATS} repetitions after one another in '
        f'{_show(pattern)}'
      )
    if stack[-1].ways > MAX_WAYS:
      raise ValueError(
        f'more than {MAX_WAYS} ways through optional parts in {_show(pattern)}'
      )


_INFINITE = 2**31


def _repetition(pattern: str, at: int) -> tuple[int, int, int] | None:
  """(characters, least, most times) of the quantifier at `at`, if one is there.

  Raises:
    ValueError: if another one follows, which would repeat the repetition.
  """
  counted = _COUNT.match(pattern, at)
  if pattern[at] in '*+?':
    length, suffixes = 1, ('?', '+')  # lazy, possessive
    least = int(pattern[at] == '+')
    most = 1 if pattern[at] == '?' else _INFINITE
  elif counted and any(counted.group(1, 3)):
    # A + behind it would repeat it: this syntax has no possessive counts.
    length, suffixes = counted.end() - at, ('?',)
    low, comma, high = counted.groups()
    least = int((low or '0')[:9])
    most = int((high or '0')[:9]) if comma else least
    most = _INFINITE if comma and not high else most
    least, most = min(least, most), max(least, most)  # {9,2} is {2,9}
    if not comma and pattern[counted.end() : counted.end() + 1] == '?':
      least = 0  # not lazy but optional, so
  else:
    return None
  end = at + length
  length += pattern[end : end + 1] in suffixes
  after = pattern[at + length : at + length + 1]
  if after and (after in '*+?' or _COUNT.match(pattern, at + length)):
    raise ValueError(f'a repetition of a repetition in {_show(pattern)}')
  return length, least, most


def _class_end(pattern: str, at: int) -> int:
  """Where the character class that opens at `at` has ended; they nest."""
  depth, first = 0, at
  while at < len(pattern):
    char = pattern[at]
    if char == '\\':
      at += 1
    elif char == '[':
      depth += 1
    elif char == ']' and at > first + 1:
      depth -= 1
    at += 1
    if not depth:
      return at
  raise ValueError(f'a character class without an end in {_show(pattern)}')


def _show(pattern: str) -> str:
  return repr(pattern if len(pattern) <= 60 else pattern[:57] + '...')
