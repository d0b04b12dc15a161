r"""The tagged layout of a completion, and the rewards for keeping to it.

The layout is '<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>'.

Deviations from the public d1 code (all switched off by `parity=True`): its
patterns lack DOTALL, so they hardly ever match text of several lines; its
strict pattern wants a newline after the last tag; and its tag count takes a
completion without that newline for stray text as a whole.
"""

import re

REASONING_OPEN = '<reasoning>\n'
REASONING_CLOSE = '\n</reasoning>\n'
ANSWER_OPEN = '<answer>\n'
ANSWER_CLOSE = '\n</answer>'

XML_DIRECTIVE = (
  'Write your reply in this layout and add nothing outside of it:\n'
  '<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n'
)

_BETWEEN = re.compile(r'</reasoning>\s*<answer>')
TAGS = ('<reasoning>', '</reasoning>', '<answer>', '</answer>')
_D1_SOFT = re.compile(r'<reasoning>.*?</reasoning>\s*<answer>.*?</answer>')
_D1_STRICT = re.compile(
  r'^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$'
)
# Puzzles are judged by so much of a completion, its end: no model that is
# trained here writes more, and a reward must cost no time.
MAX_CHARS = 2**16
_MAX_D1_CHARS = 8192  # the lazy patterns take quadratic time


def words() -> tuple[str, ...]:
  """The four tags, each with its newlines, as words of a lexicon."""
  return (REASONING_OPEN, REASONING_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)


def check_style(style: str) -> None:
  """Raises a ValueError unless there are prompts of that style."""
  if style not in ('terse', 'd1'):
    raise ValueError(f'prompt_style must be terse or d1: {style}')


def text_words(text: str) -> tuple[str, ...]:
  """Distinct words of a prompt, each with the space before it.

  Runs of digits are left out: a task lists its numbers by itself.
  """
  return tuple(dict.fromkeys(re.findall(r'[^\S\n]*[^\s\d]+|\n', text)))


def extract_answer(text: str) -> str | None:
  """Text between the last '<answer>' and the next '</answer>', stripped.

  Returns:
    None where the last '<answer>' is not closed, or there is none.
  """
  _, opened, rest = text.rpartition('<answer>')
  answer, closed, _ = rest.partition('</answer>')
  return answer.strip() if opened and closed else None


def lexicon(*texts: str) -> tuple[str, ...]:
  """Words for a task in plain English: tags, words of `texts`, characters.

  With them a word-level tokenizer spells any ASCII text, character by character
  where it has no word for it. Other text needs a real tokenizer.
  """
  lexemes = [*words(), '\n', *(chr(code) for code in range(32, 127))]
  for text in texts:
    lexemes += text_words(text)
  return tuple(dict.fromkeys(lexemes))


def reasoning_text(text: str) -> str:
  """Text of the reasoning block, stripped.

  The block runs from the first '<reasoning>' to the next '</reasoning>', or,
  where it is not closed, to the next '<answer>' or the end. Without
  '<reasoning>' it is empty.
  """
  _, _, rest = text.partition('<reasoning>')
  block, closed, _ = rest.partition('</reasoning>')
  return (block if closed else rest.partition('<answer>')[0]).strip()


def completion_text(reasoning: str, answer: str) -> str:
  """The layout, filled in."""
  return (
    f'{REASONING_OPEN}{reasoning}{REASONING_CLOSE}'
    f'{ANSWER_OPEN}{answer}{ANSWER_CLOSE}'
  )


def xmlcount(text: str, *, parity: bool = False) -> float:
  """0.125 for each tag that occurs exactly once, less 0.001 a stray character.

  Stray characters are those after the closing answer tag; they are charged
  twice, by the opening and by the closing answer tag. The value can be
  negative.

  Args:
    text: the completion.
    parity: d1's count of stray characters: without a newline after the last
      tag the opening tag charges the whole text, and the closing tag gives
      0.001 more.
  """
  tail = len(text.rpartition('\n</answer>')[2].removeprefix('\n'))
  opening = closing = tail
  if parity:
    opening = len(text.rpartition('\n</answer>\n')[2])
    closing = len(text.rpartition('\n</answer>')[2]) - 1
  reward = 0.125 * (text.count('<reasoning>\n') == 1)
  reward += 0.125 * (text.count('\n</reasoning>\n') == 1)
  if text.count('\n<answer>\n') == 1:
    reward += 0.125 - 0.001 * opening
  if text.count('\n</answer>') == 1:
    reward += 0.125 - 0.001 * closing
  return reward


def soft_format(text: str, *, parity: bool = False) -> float:
  """0.5 if the text opens with a reasoning and an answer block, else 0."""
  if parity:
    return 0.5 * (_D1_SOFT.match(text[:_MAX_D1_CHARS]) is not None)
  between = _BETWEEN.search(text)
  return 0.5 * (
    text.startswith('<reasoning>')
    and between is not None
    and text.find('</answer>', between.end()) >= 0
  )


def strict_format(text: str, *, parity: bool = False) -> float:
  """0.5 if the whole text is the layout, each tag used once, else 0."""
  if parity:
    return 0.5 * (_D1_STRICT.match(text[:_MAX_D1_CHARS]) is not None)
  text = text.removesuffix('\n')
  body = text.removeprefix(REASONING_OPEN).removesuffix(ANSWER_CLOSE)
  return 0.5 * (
    len(body) == len(text) - len(REASONING_OPEN) - len(ANSWER_CLOSE)
    and REASONING_CLOSE + ANSWER_OPEN in body
    and all(text.count(tag) == 1 for tag in TAGS)
  )


def terms(text: str, *, parity: bool = False) -> dict[str, float]:
  """The three format rewards by name."""
  return {
    'xmlcount': xmlcount(text, parity=parity),
    'soft_format': soft_format(text, parity=parity),
    'strict_format': strict_format(text, parity=parity),
  }
