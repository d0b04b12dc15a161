"""Rows of a file of the user's own: conversations, or problems with a verifier.

`make_task` is the task 'rows'. Without a verifier its rows are conversations,
which supervised training learns: {'id': str, 'messages': [{'role', 'content'},
...]}. With one they are problems: {'id': str, 'completion': str, 'record':
dict}, and what the verifier's own task reads; `record` is the object of the
file, and `completion` the text to learn, '' where it is made of the answer.
"""

import dataclasses
import functools
import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dllm_jax import errors
from dllm_jax.tasks import code_judge, gsm8k, mathematics, styles, tags, task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversations(task.OpenEnded):
  """The task of answering as the assistant of the rows does."""

  name = 'rows'
  reason = 'no verifier'

  def prompt(self, row: task.Row) -> str:
    """The first message of the user's."""
    return next(m['content'] for m in row['messages'] if m['role'] == 'user')

  def demonstration(self, row: task.Row) -> str:
    """The first answer."""
    return next(
      m['content'] for m in row['messages'] if m['role'] == 'assistant'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact(styles.Styled):
  """Answers that must be spelled as the row spells them."""

  name = 'exact'
  request = (
    'Reason step by step, and put the final answer alone inside the answer '
    'tags.'
  )

  def demonstration(self, row: task.Row) -> str:
    """The answer, without reasoning."""
    return tags.completion_text('', self.gold(row))

  def gold(self, row: task.Row) -> str:
    """The row's answer."""
    return row['answer']

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """Whether the reasoning spells the answer."""
    return self.gold(row) in tags.reasoning_text(completion)

  def score(self, row: task.Row, completion: str) -> task.Score:
    """Whether the last answer block is the answer, but for spaces around it."""
    answer = tags.extract_answer(completion)
    return task.Score({}, answer == row['answer'].strip(), {}, answer)


# What judges a problem, by the name of the verifier; any other name is that of
# a Python function.
JUDGES = {
  'exact': Exact,
  'number': gsm8k.Gsm8k,
  'math': mathematics.Mathematics,
  'code': functools.partial(code_judge.make_task, name='kodcode'),
}
Verify = Callable[[str, dict[str, Any]], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problems:
  """Problems with a verifier.

  The reward terms are those of `tags.terms` and `verified`: 1 for a right
  answer and 0 for others, or the number that the function returns, of which 1
  and more count as right.

  Attributes:
    verifier: a key of `JUDGES`, or `module:function` of Python. Its arguments
      are the text of a completion and the object of the file.
    prompt_style: 'terse' is the prompt alone; 'd1' asks for the layout too.
  """

  verifier: str
  prompt_style: str = 'd1'

  name = 'rows'

  def __post_init__(self):
    if ':' in self.verifier:
      find_function(self.verifier)
    elif self.verifier not in JUDGES:
      raise ValueError(
        f'verifier {self.verifier!r}: expected one of {", ".join(JUDGES)}, or '
        'module:function'
      )
    self.judge  # noqa: B018  (checks prompt_style)

  @functools.cached_property
  def judge(self) -> task.Task:
    """The task that asks, and judges unless a function does."""
    return JUDGES.get(self.verifier, Exact)(prompt_style=self.prompt_style)

  def words(self) -> tuple[str, ...]:
    """Those of the judge."""
    return self.judge.words()

  def prompt(self, row: task.Row) -> str:
    """The row's prompt in the judge's words."""
    return self.judge.prompt(row)

  def demonstration(self, row: task.Row) -> str:
    """The row's completion; without one the answer in the layout."""
    return row['completion'] or self.judge.demonstration(row)

  def gold(self, row: task.Row) -> str:
    """The row's answer, as an answer block shows it."""
    return self.judge.gold(row)

  def has_answer(self, row: task.Row) -> bool:
    """Whether the row has a gold answer."""
    return bool(row.get('answer') or row.get('solution'))

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """Whether the row has an answer and the reasoning spells it."""
    return self.has_answer(row) and self.judge.reasoning_has_gold(
      row, completion
    )

  def score(self, row: task.Row, completion: str) -> task.Score:
    """`score_batch` of one."""
    return self.score_batch([row], [completion])[0]

  def score_batch(
    self, rows: Sequence[task.Row], completions: Sequence[str]
  ) -> list[task.Score]:
    """Judges completions, many at a time.

    Raises:
      errors.UserError: the function returns no finite number.
    """
    if ':' in self.verifier:
      return [
        self._call(row, text)
        for row, text in zip(rows, completions, strict=True)
      ]
    verdicts = task.score_all(self.judge, rows, completions)
    return [
      verdict._replace(
        terms=_terms(
          text, float(verdict.correct) if verdict.judged else float('nan')
        )
      )
      for verdict, text in zip(verdicts, completions, strict=True)
    ]

  def _call(self, row: task.Row, completion: str) -> task.Score:
    """The function's verdict; none where it raises an exception."""
    try:
      value = find_function(self.verifier)(completion, row['record'])
    except Exception as e:  # whatever a user's function does on hostile text
      reason = ' '.join(f'{type(e).__name__}: {e}'.split())
      terms = _terms(completion, float('nan'))
      return task.Score(terms, False, {}, judged=False, reason=reason)
    try:
      reward = float(value)
    except (TypeError, ValueError):
      reward = float('nan')
    if not math.isfinite(reward):
      raise errors.UserError(
        f'verifier {self.verifier} returned {value!r:.60} for row '
        f'{row["id"]}: it must return a finite number'
      )
    parsed = tags.extract_answer(completion)
    return task.Score(_terms(completion, reward), reward >= 1, {}, parsed)


def make_task(
  *, verifier: str = '', prompt_style: str = 'd1'
) -> Conversations | Problems:
  """The task of a file of rows by the keys of the config group `task`.

  Args:
    verifier: see `Problems`; '' for conversations.
    prompt_style: see `Problems`; not read for conversations.

  Raises:
    ValueError: there is no such verifier.
  """
  if not verifier:
    return Conversations()
  return Problems(verifier=verifier, prompt_style=prompt_style)


@functools.cache
def find_function(name: str) -> Verify:
  """The Python function of a name `module:function`.

  Modules are looked for in the working directory too.

  Raises:
    ValueError: in one line, if there is none, or its module fails.
  """
  module, _, attribute = name.partition(':')
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
  try:
    found = getattr(importlib.import_module(module), attribute, None)
  except Exception as e:  # the module is code, and anything may fail in it
    why = ' '.join(f'{type(e).__name__}: {e}'.split())
    raise ValueError(f'verifier {name}: cannot import {module}: {why}') from e
  if not callable(found):
    raise ValueError(f'verifier {name}: {module} has no function {attribute!r}')
  return found


def _terms(completion: str, verified: float) -> dict[str, float]:
  return {'verified': verified} | tags.terms(completion)
