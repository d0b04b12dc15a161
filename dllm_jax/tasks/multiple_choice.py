"""Questions with lettered options: AQuA and OpenBookQA.

A row is {'id': str, 'question': str, 'options': list[str], 'answer': str,
'reasoning': str}; the answer is a letter, `reasoning` may be empty.

The answer block must name one letter: 'B', '(b)', 'B.', '**B)**', 'Answer: B',
boxed or not; or a letter and then the text of that very option, in any case.

The public d1 code has no such task: the 'd1' prompt asks for its layout, in
words of our own.
"""

import dataclasses
import re

from dllm_jax.tasks import latex, spelling, styles, tags, task

LETTERS = 'ABCDEFGHIJ'
_MAX_ANSWER_CHARS = 512
_MAX_BLOCK_CHARS = 8192  # of a block, its end
_MAX_REASONING_CHARS = 4096
_LEAD = re.compile(
  r'(?:so |thus |therefore )?(?:the )?(?:final |correct |right |best )?'
  r'(?:answer|ans|option|choice)(?: is)?:? ?(?:option |choice )?'
)
_LETTER = re.compile(
  r'(?:[(\[{<] ?([a-j]) ?[)\]}>]|([a-j])(?![a-z0-9]))'
  r'(?:[.):,]| [-\u2013\u2014=] |\s)*(.*)'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultipleChoice(styles.Styled):
  """One of the multiple-choice tasks.

  Attributes:
    name: the key in `tasks.TASKS`.
  """

  name: str

  request = (
    'Reason step by step, and put the letter of the right option alone inside '
    'the answer tags.'
  )

  def question(self, row: task.Row) -> str:
    """The question and its options, one a line."""
    options = ''.join(
      f'{letter}) {option}\n'
      for letter, option in zip(LETTERS, row['options'], strict=False)
    )
    return f'{row["question"]}\n{options}'

  def cloze(self, row: task.Row) -> task.Cloze:
    """The question, to be continued by the text of an option."""
    return task.Cloze(
      f'Question: {row["question"]}\nAnswer:',
      [f' {option}' for option in row['options']],
      LETTERS.index(row['answer']),
    )

  def demonstration(self, row: task.Row) -> str:
    """The reasoning of the data set, if it has any, and the letter."""
    return tags.completion_text(row['reasoning'], self.gold(row))

  def gold(self, row: task.Row) -> str:
    """The letter."""
    return row['answer']

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """Whether the last letter that the reasoning names is the gold one."""
    reasoning = tags.reasoning_text(completion)[:_MAX_REASONING_CHARS]
    last = LETTERS[len(row['options']) - 1]
    # 'A' and 'I' are words too, unless something marks them as options.
    named = re.findall(
      rf'\(([A-{last}])\)|\b([A-{last}])(?=[).:]|$)', reasoning
    )
    return bool(named) and ''.join(named[-1]) == row['answer']

  def score(self, row: task.Row, completion: str) -> task.Score:
    """Judges the letter in the last answer block.

    Terms: `correctness` is 2 for the right letter; `letter` is 0.5 for an
    answer that is the letter of an option and nothing else; then the format
    terms.
    """
    answer = tags.extract_answer(completion)
    letter = read_letter(answer or '', row['options'])
    alone = answer is not None and answer == letter
    correct = letter == row['answer']
    terms = {'correctness': 2.0 * correct, 'letter': 0.5 * alone}
    terms |= tags.terms(completion)
    metrics = {
      'has_answer': float(answer is not None),
      'is_option': float(letter is not None),
    }
    return task.Score(terms, correct, metrics, letter)


def read_letter(answer: str, options: list[str]) -> str | None:
  """The letter that an answer names; None for none, or an unknown one."""
  text = latex.answer_text(answer[-_MAX_BLOCK_CHARS:])
  if text is None or len(text) > _MAX_ANSWER_CHARS:
    return None
  text = _folded(text)
  if lead := _LEAD.match(text):
    text = _folded(text[lead.end() :])
  match = _LETTER.fullmatch(text)
  if match is None:
    return None
  letter = (match[1] or match[2]).upper()
  index = LETTERS.index(letter)
  if index >= len(options):
    return None
  option = _folded(options[index])
  said = match[3]
  return letter if said in ('', option, f'- {option}', f'-{option}') else None


def _folded(text: str) -> str:
  """One spelling, in lower case, without fonts and dollars."""
  text = spelling.TEXT.sub(r'\1', spelling.plain(text))
  text = re.sub(r'\*\*|\\?\$|\\[()]', '', text)
  return ' '.join(spelling.plain(text).casefold().split())
