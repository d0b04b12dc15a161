r"""Words beside a number: units, which may go, and words that change it.

Verifiers of numbers drop words, and a model that is rewarded finds out which:
5 million is not 5, 10:30 p.m. is not 10:30 a.m., 5 feet are not 5 inches. So
only the names of things and units are dropped, and two answers that both name
one must name the same.
"""

import re
from collections.abc import Sequence

# Spellings of a unit, in the singular.
_UNITS = {
  'mm': 'millimeter millimetre',
  'cm': 'centimeter centimetre',
  'dm': 'decimeter decimetre',
  'm': 'meter metre mtr',
  'km': 'kilometer kilometre',
  'inch': 'inche',
  'ft': 'foot feet',
  'yd': 'yard',
  'mi': 'mile',
  'mg': 'milligram',
  'g': 'gram gm gramme',
  'kg': 'kilogram kilo',
  'oz': 'ounce',
  'lb': 'pound',
  'ton': 'tonne',
  'ml': 'milliliter millilitre cc',
  'l': 'liter litre',
  'gal': 'gallon',
  'qt': 'quart',
  'cup': '',
  'acre': '',
  'ha': 'hectare',
  'ms': 'millisecond',
  's': 'sec second',
  'min': 'minute',
  'h': 'hr hour',
  'day': '',
  'wk': 'week',
  'month': '',
  'yr': 'year',
  'deg': 'degree',
  'rad': 'radian',
  'dollar': 'usd buck',
  'cent': '',
  'euro': 'eur',
  'pence': 'penny',
  'hz': 'hertz',
  'newton': '',
  'joule': '',
  'watt': '',
  'volt': '',
}
_UNIT_OF = {
  spelling: unit
  for unit, others in _UNITS.items()
  for spelling in (unit, *others.split())
}
_COMPOUND = {
  'mph': 'mi / h',
  'kmh': 'km / h',
  'kph': 'km / h',
  'kmph': 'km / h',
  'per': '/',
}
# They agree with a word of any other kind.
_ANYTHING = frozenset('unit way time total of in the a an all'.split())
POWERS_OF_TEN = {
  'hundred': 2,
  'thousand': 3,
  'million': 6,
  'billion': 9,
  'trillion': 12,
  'quadrillion': 15,
  'lakh': 5,
  'crore': 7,
}
# What makes another number of a number, or denies it, even in a sentence.
_CHANGES = frozenset(
  'minus negative not wrong incorrect false never or k half halve third '
  'quarter twice double triple dozen squared cubed factorial zero one two '
  'three four five six seven eight nine ten eleven twelve thirteen fourteen '
  'fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty '
  'sixty seventy eighty ninety'.split()
) | set(POWERS_OF_TEN)
# What says something else of it, where it stands as a unit would.
_QUALIFIES = _CHANGES | set(
  'am pm noon midnight bc ad bce ce and nor no none neither to than least '
  'most less more fewer greater doubled tripled halved repeating recurring '
  'above below under about approximately almost nearly between plus over '
  'divided root power raised exponent base mod modulo remainder choose log '
  'inverse reciprocal opposite quadruple fourth fifth sixth seventh eighth '
  'ninth tenth hundredth thousandth millionth billionth score gross couple '
  'mil bn mn north south east west northeast northwest southeast southwest '
  'left right'.split()
)
_POWERS = {
  **dict.fromkeys(('square', 'sq'), '^2'),
  **dict.fromkeys(('cubic', 'cu'), '^3'),
}
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019.][^\W\d_]+)*|/|\^\s*\{?\s*-?[0-9]")
_MARKUP = re.compile(r'\\(?:text|circ|mathrm|cdot|frac|[^a-zA-Z])')


def words(text: str) -> tuple[str, ...]:
  r"""The words of a text in one spelling: 'sq. feet' is ('ft^2',).

  Args:
    text: plain words, \text{...}, '/', and powers of units.
  """
  tokens: list[str] = []
  power = ''
  for token in _WORD.findall(_MARKUP.sub(' ', text)):
    token = token if len(token) == 1 else token.lower()
    if token in _POWERS:
      power = _POWERS[token]
      continue
    if token[0] == '^' or (token in ('squared', 'cubed') and tokens):
      exponent = {'squared': '2', 'cubed': '3'}.get(token, token[-1])
      if tokens:
        tokens[-1] += f'^{exponent}'
      continue
    for part in _COMPOUND.get(token, token).split():
      tokens.append(_singular(part) + power)
    power = ''
  if tokens and tokens[-1].partition('^')[0] == 'in':  # else a preposition
    tokens[-1] = tokens[-1].replace('in', 'inch', 1)
  return (*tokens, *(['unit' + power] if power else []))


def is_unit(word: str) -> bool:
  """Whether a word of `words` is a unit, perhaps with a power."""
  return word == '/' or word.partition('^')[0] in _UNITS


def change(tokens: Sequence[str]) -> bool:
  """Whether words of a sentence make another number of its number."""
  return any(
    token in _CHANGES
    or _singular(token) in _CHANGES
    or token.endswith(("n't", 'n\u2019t'))
    for token in tokens
  )


def agree(gold: Sequence[str], answer: Sequence[str]) -> bool:
  """Whether words after a number may stand for those of the gold answer."""
  if tuple(gold) == tuple(answer):
    return True
  if any(word in _QUALIFIES for word in (*gold, *answer)):
    return False
  if change((*gold, *answer)):
    return False
  gold, answer = (
    [word for word in side if word.partition('^')[0] not in _ANYTHING]
    for side in (gold, answer)
  )
  if not gold or not answer:
    return True
  units = [sorted(filter(is_unit, side)) for side in (gold, answer)]
  nouns = [set(side) - set(filter(is_unit, side)) for side in (gold, answer)]
  return units[0] == units[1] and (
    not nouns[0] or not nouns[1] or bool(nouns[0] & nouns[1])
  )


def _singular(word: str) -> str:
  if word == 'quarters':  # coins; a quarter is a share
    return word
  for spelling in (word, word.removesuffix('s')):
    if spelling in _UNIT_OF:
      return _UNIT_OF[spelling]
    if spelling in _QUALIFIES:
      return spelling
  return word.removesuffix('s') if len(word) > 3 else word
