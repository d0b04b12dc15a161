r"""What an answer in LaTeX claims: pairs of expressions that must be equal.

math-verify parses what it can of a text and takes the last or the longest part:
'4 \to 5' is 5 to it, and so is nearly every text of two numbers with a symbol
between them that it does not know. So only what is known to be part of an
expression may stand in an answer, or what the gold answer holds too. It also
reads 5 = 31 as 31, 2516 in base 7 as 2516 in base 8, 10:30 as a third and
'1, \ldots, n' as {1, n}: an equation that does not begin with a name is two
claims, a base and a time must be the gold's, and of a sequence with dots every
item counts. Words after an expression are for `units`.
"""

import re
from collections.abc import Sequence

from dllm_jax.tasks import spelling, units

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
# No product: '4 5' is 9 to it, and '6 ft 3 in' is '3 ft 6 in'.
_BESIDE = re.compile(
  r'[0-9]\s+\.?[0-9]|\\(?:text[a-z]*|mbox|mathrm)\s*\{[^{}]*\}\s*[0-9]'
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
_JOINED = re.compile(
  r'\s*[,;]?\s*(?:(?:\\text|\\mbox)\s*\{\s*,?\s*(?:or|and)\s*\}'
  r'|\{\s*(?:or|and)\s*\}|\b(?:or|and)\b)\s*|\s*;\s*'
)
_DOTS = re.compile(r'\\(?:[lc]?dots[bcim]?)(?![a-zA-Z])|\.{3}')
_TIME = re.compile(r'[0-9]{1,2}(?::[0-9]{2}){1,2}')
_MONEY = re.compile(
  r'\\?\$\s*(?=[0-9.])|(?<=[0-9])\s*\\?\$|[\u20ac\u00a3\u00a2\u00a5]'
)
_CURRENCY = {'\u20ac': 'euro', '\u00a3': 'pound', '\u00a2': 'cent'}
# The last word of an item, with what joins it to the one before.
_LAST_WORD = re.compile(
  r'(?P<join>[\s/]*)(?:(?P<text>\\(?:text[a-z]*|mbox|mathrm)\s*\{[^{}0-9]*\})'
  r'|(?<![a-zA-Z\\_^{])(?P<bare>[a-zA-Z]{1,16})\.?)'
  r'(?:\^\s*\{?\s*-?[123]\s*\}?)?\s*\Z'
)
_PRIME = re.compile(r"(?<=[0-9])\s*(''|\"|')\Z")  # inches and feet
_DEGREE = re.compile(r'\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree)\s*\Z')
_PHRASE = frozenset('of per the in a an square cubic sq'.split())


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
  if text.count('=') > max(gold.count('='), 1) and not _is_list(text):
    return False
  if _RELATION.search(text):
    return False
  bare = _COMMAND.sub(' ', _TEXT.sub(' ', text))
  if _BESIDE.search(text):
    return False
  words = [w for w in _WORD.findall(bare) if w not in _PLAIN_WORDS]
  return len(words) <= 1 and not _STOP.search(bare)


def pairs(answer: str, gold: str) -> tuple[tuple[str, str], ...]:
  """Pairs (gold, claim) that are all equal if an answer is right.

  Returns:
    No pair for what cannot be right: several claims, or other words.
  """
  answer, gold = spelling.plain(answer), spelling.plain(gold)
  if gold and _same_spelling(answer, gold):
    return ((gold, gold),)
  has_letters = bool(
    re.search('[a-zA-Z]', _COMMAND.sub('', _TEXT.sub('', gold)))
  )
  gold_items, gold_words = _without_words(gold, False)
  items, words = _without_words(answer, not has_letters)
  text, gold = ','.join(items), ','.join(gold_items)
  if not units.agree(gold_words, words) or not is_one(text, gold):
    return ()
  if _DOTS.search(text + gold):
    return _sequence(items, gold_items)
  if _TIME.fullmatch(gold.strip()):
    same = re.sub(r'\b0', '', text).strip() == re.sub(r'\b0', '', gold).strip()
    return ((gold, gold),) if same else ()
  if len(gold_items) == len(items) > 1 and '=' in gold:
    return _by_name(items, gold_items)
  if len(items) > 1 and any(len(claims(i, '')) > 1 for i in items):
    return ()
  sides = claims(text, gold) if len(items) == 1 else (text,)
  return tuple((gold, side) for side in sides)


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


def _same_spelling(answer: str, gold: str) -> bool:
  """Whether two texts differ in spaces at most, or in the case of words."""
  sides = []
  for text in (answer, gold):
    text = _DOTS.sub(r'\\ldots ', _joined(text))
    text = spelling.TEXT.sub(lambda m: f' {" ".join(units.words(m[1]))} ', text)
    text = ' '.join(text.split())
    sides.append(re.sub(r'(?<!\w) | (?!\w)', '', text))
  if sides[0] == sides[1]:
    return True
  only_words = not re.search(r'[^a-zA-Z\s{}]', spelling.TEXT.sub(r'\1', gold))
  return only_words and units.words(answer) == units.words(gold)


def _joined(text: str) -> str:
  """A list with commas for 'and', 'or' and semicolons."""
  return _JOINED.sub(', ', text)


def _items(text: str) -> list[str]:
  """What commas outside of brackets part."""
  items, depth = [''], 0
  for character in text:
    depth += (character in '{([') - (character in '})]')
    if character == ',' and depth <= 0:
      items.append('')
    else:
      items[-1] += character
  return items


def _is_list(text: str) -> bool:
  return all(item.count('=') <= 1 for item in _items(text))


def _without_words(
  text: str, permissive: bool
) -> tuple[list[str], tuple[str, ...]]:
  """The items of a list without the words after them, and these words."""
  items, words = [], []
  for item in _items(_joined(text)):
    space = ' ' * item[:1].isspace()  # '1, 200' is no '1,200'
    formula, after = _without_units(spelling.plain(item), permissive)
    items.append(space + formula)
    words.append(after)
  return items, tuple(w for after in dict.fromkeys(words) for w in after)


def _without_units(item: str, permissive: bool) -> tuple[str, tuple[str, ...]]:
  """An expression, and the words after it or the currency of it.

  Args:
    item: one expression.
    permissive: whether any word is taken for a unit; else known ones alone, as
      letters may be variables.
  """
  money = tuple(_CURRENCY.get(m[0], 'dollar') for m in _MONEY.finditer(item))
  formula, after = _MONEY.sub('', item), ''
  if prime := _PRIME.search(formula):
    after = ' ft' if prime[1] == "'" else ' inch'
    formula = formula[: prime.start()]
  while match := _LAST_WORD.search(formula):
    bare, spaced = match['bare'], match['join'] != '' or after != ''
    if bare and not _may_be_unit(bare, permissive and spaced):
      if bare not in 'FC' or not _DEGREE.search(formula[: match.start()]):
        break
    if not bare and re.search(r'\{\s*[^\W FCgmslh]\s*\}', match['text']):
      break  # a letter
    after = formula[match.start() :] + after
    formula = formula[: match.start()]
  if degree := _DEGREE.search(formula):
    after = ' degree ' + after
    formula = formula[: degree.start()]
  words = units.words(after)
  if not re.search(r'[0-9a-zA-Z)}\]]\s*[!%]?\Z', formula):
    return item, ()  # words are all of it
  if words[:1] == ('/',) and len(words[1]) == 1:
    return item, ()  # '5/m' divides
  while words and words[0] in _FACTORS:
    formula += _FACTORS[words[0]]
    words = words[1:]
  return formula, tuple(dict.fromkeys(words + money))


_FACTORS = {
  word: rf'\cdot 10^{{{power}}}' for word, power in units.POWERS_OF_TEN.items()
} | {
  'dozen': r'\cdot 12',
  'squared': '^{2}',
  'cubed': '^{3}',
  'factorial': '!',
}


def _may_be_unit(word: str, permissive: bool) -> bool:
  if word.lower() in ('am', 'pm'):
    return True
  known = bool(units.words(word)) and all(map(units.is_unit, units.words(word)))
  if permissive:
    return known or len(word) > 2 or word in _PHRASE
  return known and (len(word) > 2 or word in ('cm', 'mm', 'km', 'kg', 'ft'))


def _sequence(
  items: Sequence[str], gold_items: Sequence[str]
) -> tuple[tuple[str, str], ...]:
  """Item by item; one with dots must be spelled as the gold's."""
  if len(items) != len(gold_items):
    return ()
  result = []
  for item, gold in zip(items, gold_items, strict=True):
    if not _DOTS.search(item + gold):
      result.append((gold.strip(), item.strip()))
    elif not _same_spelling(item, gold):
      return ()
  return tuple(result)


def _by_name(
  items: Sequence[str], gold_items: Sequence[str]
) -> tuple[tuple[str, str], ...]:
  """Of x = 1, y = 2 each value by its name, or else by its place."""
  named = [
    [''.join(part.split()) for part in item.partition('=')[::2]]
    for item in gold_items
  ]
  names = [name for name, _ in named]
  if len(set(names)) < len(names) or '' in [value for _, value in named]:
    return ((','.join(gold_items), ','.join(items)),)
  values = {
    ''.join(item.partition('=')[0].split()): item.partition('=')[2]
    for item in items
    if '=' in item
  }
  if set(values) == set(names):
    return tuple((value, values[name]) for name, value in named)
  if values:
    return ()
  return tuple(zip([v for _, v in named], items, strict=True))


def _in_base_of(text: str, gold: str) -> bool:
  """Whether a number's base is one of the gold's, where that has any."""
  bases = lambda x: {base.strip('{} ') for base in _BASE.findall(x)}
  return not bases(gold) or bases(text) <= bases(gold)


def _closes(text: str) -> bool:
  depth = 0
  for character in text:
    depth += (character == '{') - (character == '}')
    if depth < 0:
      return False
  return depth == 0
