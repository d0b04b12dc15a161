"""Whether a LaTeX text is one expression, and not several claims.

math-verify parses what it can of a text and takes the last or the longest part:
'4 \\to 5' is 5 to it, and so is nearly every text of two numbers with a symbol
between them that it does not know. So only what is known to be part of an
expression may stand in an answer, or what the gold answer holds too. It also
reads 5 = 31 as 31, and 2516 in base 7 as 2516 in base 8: an equation that does
not begin with a name is two claims, and a base must be the gold's.
"""

import re

_TEXT = re.compile(
  r'\\(?:text(?:bf|it|normal|rm)?|mbox|mathrm|begin|end)\s*\{[^{}]*\}'
)
_COMMAND = re.compile(r'\\(?:[a-zA-Z]+|.|$)', re.DOTALL)
_HARMLESS = re.compile(
  r'\A\s*[a-zA-Z]\s*\\in(?![a-zA-Z])'  # 'x \in'
  r'|\^\s*\{?\s*\\circ(?![a-zA-Z])|(?:\\degree|\u00b0)\s*\Z'
  r'|\\[bB]igg?[lr]?\s*(?=[()\[\]|/]|\\[{}])'
  r'|~\s*(?=\\text|\\mbox|\\mathrm|\Z)'
)
_STOP = re.compile(r'\.(?![0-9])\s*\S|\s\.\s*[0-9]')
_RELATION = re.compile(
  r'==|=/=|[-=<]>|:=|//'
  r'|[0-9)}]\s*\\(?:text|mbox|mathrm)[a-z]*\s*\{[^{}]*\}[^=]*='  # '4 so x = 5'
)
_WORD = re.compile(r'[a-zA-Z]{3,}')
_NAME = re.compile(
  r'[a-zA-Z]|\\(?!pi)(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|'
  r'(?:var)?theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|(?:var)?phi|chi|'
  r'psi|omega)(?![a-zA-Z])'
)
_BASE = re.compile(r'[0-9]\s*_\s*(\{[^{}]*\}?|\S)')
_DENIAL = re.compile(
  r'(?i)\b(?:not|wrong|incorrect|false|never)\b|n[\'\u2019]t\b'
)
# Of functions written without a backslash, and of units.
_PLAIN_WORDS = frozenset(
  'sin cos tan cot sec csc arcsin arccos arctan log exp sqrt frac pi inf '
  'square cubic'.split()
)
_COMMANDS = frozenset(
  rf'\{name}'
  for name in (
    'frac dfrac tfrac cfrac sqrt binom dbinom tbinom '
    'left right lfloor rfloor lceil rceil lvert rvert '
    'text textbf textit textnormal textrm mbox mathrm displaystyle '
    'overline underline boxed fbox '
    'sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp '
    'cdot times div pm mp le ge leq geq leqslant geqslant lt gt '
    'prime infty pi '
    'alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota '
    'kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega '
    'Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega '
    '{ } $ % ! , ; :'
  ).split()
) | {'\\ ', '\\\n'}
# Characters that math-verify reads, or that end an expression to it.
_CHARACTERS = frozenset(
  'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'
  "+-*/^_=<>!%,.;:'()[]{} \n\t\u2212\u03c0"
)


def is_balanced(text: str) -> bool:
  r"""Whether its braces close, with and without the escaped ones.

  A text that is not would end the \boxed{} that it is put into, or leave it
  open.
  """
  if len(text) - len(text.rstrip('\\')) & 1:
    return False
  return _closes(text) and _closes(_COMMAND.sub('', text))


def is_one(text: str, gold: str) -> bool:
  """Whether a text is one expression, of a kind that may equal `gold`.

  Args:
    text: of an answer.
    gold: what is in it may be in `text` too, whatever it means.
  """
  if not is_balanced(text):
    return False
  if not _in_base_of(text, gold):
    return False
  if _DENIAL.search(text) and not _DENIAL.search(gold):
    return False
  text = _HARMLESS.sub(' ', text)
  if not set(_COMMAND.findall(text)) <= _COMMANDS | set(_COMMAND.findall(gold)):
    return False
  if not set(_COMMAND.sub('', text)) <= _CHARACTERS | set(gold) - {'$'}:
    return False
  if text.count('=') > max(gold.count('='), 1) or _RELATION.search(text):
    return False
  bare = _COMMAND.sub(' ', _TEXT.sub(' ', text))
  words = [w for w in _WORD.findall(bare) if w not in _PLAIN_WORDS]
  return len(words) <= 1 and not _STOP.search(bare)


def _in_base_of(text: str, gold: str) -> bool:
  """Whether a number's base is one of the gold's, where that has any."""
  bases = lambda x: {base.strip('{} ') for base in _BASE.findall(x)}
  return not bases(gold) or bases(text) <= bases(gold)


def claims(text: str, gold: str) -> tuple[str, ...]:
  """The expressions of an answer that must all equal `gold`.

  Both sides of an equation that names nothing, 2 + 3 = 5; else the text: what
  stands before the '=' of x = 5 is a name.
  """
  before, equals, after = text.partition('=')
  bare = _COMMAND.sub(lambda m: m[0] if _NAME.fullmatch(m[0]) else ' ', before)
  if not equals or '=' in gold or _NAME.search(bare):
    return (text,)
  return before, after


def _closes(text: str) -> bool:
  depth = 0
  for character in text:
    depth += (character == '{') - (character == '}')
    if depth < 0:
      return False
  return depth == 0
