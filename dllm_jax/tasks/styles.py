"""Prompts of problems in plain English, in two styles."""

import dataclasses
from typing import ClassVar

from dllm_jax.tasks import tags, task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Styled:
  """A task with the prompt styles 'terse' and 'd1'.

  A subclass gives `request`, and `question` where its rows have no 'question'.

  Attributes:
    prompt_style: 'terse' is the question alone; 'd1' asks for the layout too.
    request: what 'd1' asks for, beside the layout.
  """

  prompt_style: str = 'd1'

  request: ClassVar[str]

  def __post_init__(self):
    tags.check_style(self.prompt_style)

  def question(self, row: task.Row) -> str:
    """What the row asks, as lines of text."""
    return row['question'] + '\n'

  def prompt(self, row: task.Row) -> str:
    """The question, after the request in style 'd1'."""
    return self._preface() + self.question(row)

  def words(self) -> tuple[str, ...]:
    """Tags, ASCII characters, and in style 'd1' the words of the request."""
    return tags.lexicon(self._preface())

  def _preface(self) -> str:
    if self.prompt_style == 'terse':
      return ''
    return f'{tags.XML_DIRECTIVE}{self.request}\n\n'
