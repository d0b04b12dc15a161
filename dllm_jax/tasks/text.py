"""Plain text to be continued: the language-model task.

The articles of a data set are cut into pieces of equal length, which do not
cross from one article into the next. A row is {'id': str, 'prompt': str,
'text': str}: the prompt is what precedes the text and is no label, so that
every character of an article is a label once, except for its first and last
ones. Models are compared by the likelihood of the text (perplexity), teacher-
forced; a completion is judged too, but no more than its beginning can be right.
"""

import dataclasses
import os
import string
import unicodedata
from collections.abc import Iterable

from dllm_jax import validation
from dllm_jax.tasks import tags, task

# Letters, digits, punctuation, the space and the end of a line.
CHARACTERS = (
  *sorted(string.ascii_letters + string.digits + string.punctuation),
  ' ',
  '\n',
)
_PLAIN = str.maketrans(dict.fromkeys('–—−', '-') | dict.fromkeys('‘’', "'"))
_PLAIN |= str.maketrans(dict.fromkeys('“”', '"'))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
  """The task of continuing the articles of WikiText-2.

  DATA/wikitext-2/valid.txt, 1.1 MB, is what is learnt, apart from a few
  articles that are the validation split; the test split is test.txt beside it.

  Attributes:
    num_given: characters of a prompt.
    length: characters of the text.
    ascii_only: other characters are replaced: letters by those without their
      accents, dashes and quotes by ASCII's, others by '?'. A model that is not
      read from a folder knows no others.
  """

  num_given: int
  length: int
  ascii_only: bool = True

  name = 'wikitext-2'

  def __post_init__(self):
    validation.positive(self, 'num_given', 'length')

  def pieces(self, rows: Iterable[task.Row]) -> list[task.Row]:
    """The pieces of all articles, in order; see `task.Cut`."""
    found = []
    for row in rows:
      text = ascii_of(row['text']) if self.ascii_only else row['text']
      for start in range(
        self.num_given, len(text) - self.length + 1, self.length
      ):
        found.append(
          {
            'id': f'{row["id"]}:{start}',
            'prompt': text[start - self.num_given : start],
            'text': text[start : start + self.length],
          }
        )
    return found

  def words(self) -> tuple[str, ...]:
    """The characters."""
    return CHARACTERS

  def prompt(self, row: task.Row) -> str:
    """What precedes the text."""
    return row['prompt']

  def demonstration(self, row: task.Row) -> str:
    """The text."""
    return row['text']

  def gold(self, row: task.Row) -> str:
    """The text."""
    return row['text']

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """False: there is no reasoning."""
    return False

  def score(self, row: task.Row, completion: str) -> task.Score:
    """Whether it is the text; 'prefix' is the share before they differ."""
    completion, text = completion[: tags.MAX_CHARS], row['text']
    same = os.path.commonprefix([completion, text])
    correct = completion == text
    return task.Score(
      {'solution': float(correct)},
      correct,
      {'prefix': len(same) / len(text)},
      completion,
    )


def ascii_of(text: str) -> str:
  """The text in the characters of `CHARACTERS`."""
  known = set(CHARACTERS)
  spelled = unicodedata.normalize('NFKD', text.translate(_PLAIN))
  return ''.join(
    c if c in known else '?' for c in spelled if not unicodedata.combining(c)
  )
