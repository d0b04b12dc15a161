r"""GSM8K: word problems of school arithmetic, with whole answers.

A row is {'id': str, 'question': str, 'reasoning': str, 'answer': str}; the
answer is the number as the data set writes it, '1,080' with its comma.

The answer block must hold one number and no second one, in no calculation; a
name and '=' before it, words and units beside it, a dollar sign, a percent sign
and a \boxed{} do no harm; of a long block with a \boxed{} only the box is read.
Words that would change the number or deny it do harm: 'minus', 'million',
'half', 'not', 'wrong', and all numbers in words.

Deviations from the public d1 code (which `parity=True` follows): its reward
compares texts, so that 1080 is wrong where the data set has 1,080; its
evaluation takes the first usable \boxed{} of the whole text, or else the last
number of the first answer block. With or without `parity`, the 'd1' prompt asks
for d1's layout in words of our own; without it `integer` takes a minus sign.
"""

import dataclasses
import re
from fractions import Fraction

from dllm_jax.tasks import latex, spelling, styles, tags, task, units

_MAX_ANSWER_CHARS = 256
_MAX_BLOCK_CHARS = 8192  # of a block, its end
_MAX_REASONING_CHARS = 4096
_MAX_D1_CHARS = 8192
_NUMBER = re.compile(
  r'(?<![0-9])(-\s*)?'
  r'((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,32})(?:\.[0-9]{1,32})?|\.[0-9]{1,32})'
  r'(?![0-9])'
)
_MARKUP = re.compile(
  r'\\(?:text(?:bf|it|normal|rm)?|mbox|mathrm)(?![a-zA-Z])|\\[()\[\]{}]'
  r'|(?:\^\s*\{?\s*\\circ|\\degree)(?![a-zA-Z])|\*\*'
)
_LEAD = re.compile(r'\+|[a-zA-Z][a-zA-Z ]*=')
_SLASH = re.compile(r'([a-z]*)\s*/\s*([a-z]+)')
_POWER = re.compile(r'([a-zA-Z]+)\s*\}?\s*\^\s*\{?[23]\}?')
# '5x', '5 - y'; '5g' is a unit.
_GOES_ON = re.compile(r'\s*(?:x|-\s*[a-z]?)(?![a-z])|([a-z])(?![a-z])')
_OPERATOR = frozenset('/^!*=+\\\u221a\u00d7\u00f7\u00b7')
_TOKEN = re.compile(r"[a-z]+(?:['\u2019][a-z]+)?")
# 'five times' is an answer, 'five times x' is not.
_TIMES = re.compile(r'\btimes\b(?!\s*[.!]?\s*(?:\Z|(?:a|an|per|each|every)\b))')
_D1_NUMBER = re.compile(r'-?[0-9]+\.?[0-9]*')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gsm8k(styles.Styled):
  """The GSM8K task.

  Attributes:
    parity: judge as the public d1 code does: the terms are those of its
      reward, correct is the verdict of its evaluation.
  """

  parity: bool = False

  name = 'gsm8k'
  request = (
    'Reason step by step, and put the final number alone inside the answer '
    'tags, without a unit.'
  )

  def demonstration(self, row: task.Row) -> str:
    """The written solution of the data set, then its answer."""
    return tags.completion_text(row['reasoning'], self.gold(row))

  def gold(self, row: task.Row) -> str:
    """The number, without commas."""
    return row['answer'].replace(',', '')

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """Whether the reasoning holds the number, as sound reasoning does too."""
    gold = read_number(row['answer'])
    reasoning = tags.reasoning_text(completion)[:_MAX_REASONING_CHARS]
    return any(_value(m) == gold for m in _NUMBER.finditer(reasoning))

  def score(self, row: task.Row, completion: str) -> task.Score:
    """Judges the number in the last answer block.

    Terms: `correctness` is 2 for the right number; `integer` is 0.5 for an
    answer that is digits and nothing else; then the format terms.
    """
    answer = tags.extract_answer(completion)
    gold = read_number(row['answer'])
    value = read_number(answer or '')
    if self.parity:
      # After the last '<answer>', to the next tag.
      text = completion.split('<answer>')[-1].split('</answer>')[0].strip()
      same, digits = text == row['answer'], text.isdigit()
      parsed = _d1_answer(completion)
      correct = parsed is not None and parsed == gold
    else:
      same = correct = value is not None and value == gold
      digits = re.fullmatch(r'-?[0-9]+', answer or '') is not None
      # Equal numbers are one answer, however they are written.
      parsed = answer if value is None else str(value)
    terms = {'correctness': 2.0 * same, 'integer': 0.5 * digits}
    terms |= tags.terms(completion, parity=self.parity)
    metrics = {
      'has_answer': float(answer is not None),
      'is_number': float(value is not None),
    }
    return task.Score(terms, correct, metrics, parsed)


def read_number(answer: str) -> Fraction | None:
  r"""The one number that an answer holds; None for no number, or several."""
  text = latex.answer_text(answer[-_MAX_BLOCK_CHARS:])
  if text is None or len(text) > _MAX_ANSWER_CHARS:
    return None
  text = _POWER.sub(lambda m: m[1] if _is_unit(m[1]) else m[0], _plain(text))
  numbers = list(_NUMBER.finditer(text))
  if len(numbers) != 1:
    return None
  number = numbers[0]
  before = _MARKUP.sub(' ', text[: number.start()]).strip().lower()
  after = _MARKUP.sub(' ', text[number.end() :]).lower()
  if _LEAD.fullmatch(before):
    before = before[:-1]
  rest = _without_slashes(before) + ' ' + _without_slashes(after.strip())
  if any(character.isnumeric() for character in rest):
    return None  # such as another script's digits, or a power
  if _OPERATOR & set(rest) or units.change(_TOKEN.findall(rest)):
    return None
  goes_on = _GOES_ON.match(after)
  if _TIMES.search(rest) or (goes_on and not _is_unit(goes_on[1] or '')):
    return None
  return _value(number)


def _plain(text: str) -> str:
  return re.sub(r'\\[,!;$% ]', '', spelling.plain(text)).replace('$', '')


def _without_slashes(words: str) -> str:
  """Words without the '/' of a rate, 'km/h' or '/hour', and without '!'."""
  is_word = lambda word: len(word) > 2 or _is_unit(word)

  def spaced(match):
    left, right = match.groups()
    if is_word(right) and (is_word(left) if left else not match.start()):
      return f'{left} {right}'
    return match[0]

  return _SLASH.sub(spaced, re.sub('(?<=[a-z]{2})!', ' ', words))


def _is_unit(word: str) -> bool:
  words = units.words(word)
  return bool(words) and all(map(units.is_unit, words))


def _value(match: re.Match) -> Fraction:
  value = Fraction(match[2].replace(',', ''))
  return -value if match[1] else value


def _d1_answer(completion: str) -> float | None:
  """The number that d1's evaluation reads."""
  text = completion[:_MAX_D1_CHARS]
  for content in re.findall(r'\\boxed{(.*?)}', text):
    content = content.strip()
    if content.strip('.'):
      value = _d1_number(content, first=True)
      if value is not None:
        return value
  _, opened, rest = text.partition('<answer>')
  block, closed, _ = rest.partition('</answer>')
  return _d1_number(block.strip(), first=False) if opened and closed else None


def _d1_number(text: str, *, first: bool) -> float | None:
  try:
    return float(text)
  except ValueError:
    numbers = _D1_NUMBER.findall(text)
    return float(numbers[0 if first else -1]) if numbers else None
