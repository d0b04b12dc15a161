"""Examples before a question, taken from the training split.

All questions get the same ones, in the task's own form: what is asked, and a
demonstration of the answer. None of them is, or overlaps, a test row.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dllm_jax import errors
from dllm_jax.data import leaks
from dllm_jax.tasks import tags
from dllm_jax.tasks import task as task_lib

SEPARATOR = '\n\n'
_OPEN, _CLOSE = tags.ANSWER_OPEN.strip(), tags.ANSWER_CLOSE.strip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot:
  """How many examples, and which.

  Attributes:
    num: number of examples.
    seed: seed of their choice; None takes the first of the split.
  """

  num: int
  seed: int | None = None

  def __post_init__(self):
    if self.num < 0:
      raise ValueError(f'num_fewshot {self.num} is negative')


NONE = FewShot(num=0)


def choose(
  task: task_lib.Task,
  train: Sequence[task_lib.Row],
  test: Sequence[task_lib.Row],
  few_shot: FewShot,
) -> list[task_lib.Row]:
  """The training rows that are shown as examples.

  Rows whose question equals that of a test row, or shares 13 words in a row
  with it, are passed over. Of rows without a question in words (Countdown) the
  prompts are compared, as a whole.

  Args:
    task: writes the prompts.
    train: rows of the training split.
    test: the rows that are asked.
    few_shot: how many, and which.

  Raises:
    errors.UserError: there are not as many rows.
  """
  order = range(len(train))
  if few_shot.seed is not None:
    order = np.random.default_rng(few_shot.seed).permutation(len(train))
  in_words = bool(test) and bool(leaks.question(test[0]))
  # Prompts alone share the words of their instructions.
  question = leaks.question if in_words else task.prompt
  asked = [question(row) for row in test]
  chosen: list[task_lib.Row] = []
  # As many at a time as are wanted: most splits are much larger.
  for start in range(0, len(order), max(few_shot.num, 1)):
    missing = few_shot.num - len(chosen)
    if not missing:
      break
    rows = [train[int(i)] for i in order[start : start + few_shot.num]]
    found = leaks.find([question(row) for row in rows], asked)
    leaked = {i for i, _ in (found.overlapping if in_words else found.same)}
    kept = [row for i, row in enumerate(rows) if i not in leaked]
    chosen += kept[:missing]
  if len(chosen) < few_shot.num:
    raise errors.UserError(
      f'--num_fewshot {few_shot.num}: only {len(chosen)} of the {len(train)} '
      f'training rows of {task.name!r} are no test rows; give a smaller number'
    )
  return chosen


def text(task: task_lib.Task, rows: Sequence[task_lib.Row]) -> str:
  """The examples as text before a question that is answered in words."""
  return ''.join(
    task.prompt(row) + task.demonstration(row) + SEPARATOR for row in rows
  )


def ending(task: task_lib.Task, rows: Sequence[task_lib.Row]) -> str:
  """What ends an answer that is written as the examples are.

  Where all of them close an answer block, that; else what separates them, if
  none of them has it inside; else nothing, ''.
  """
  shown = [task.demonstration(row) for row in rows]
  if all(_CLOSE in answer for answer in shown):
    return _CLOSE
  return '' if any(SEPARATOR in answer for answer in shown) else SEPARATOR


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstAnswer:
  """A task that judges completions up to the end of their answer.

  A model without a chat template goes on after its answer as the prompt does:
  with an example of its own, whose answer is not one to the question.

  Attributes:
    task: asks and judges.
    ending: what an answer ends with, or is followed by; '' to judge all.
  """

  task: task_lib.Task
  ending: str

  @property
  def name(self) -> str:
    """That of the task."""
    return self.task.name

  def words(self) -> tuple[str, ...]:
    """Those of the task."""
    return self.task.words()

  def prompt(self, row: task_lib.Row) -> str:
    """The task's."""
    return self.task.prompt(row)

  def demonstration(self, row: task_lib.Row) -> str:
    """The task's."""
    return self.task.demonstration(row)

  def gold(self, row: task_lib.Row) -> str:
    """The task's."""
    return self.task.gold(row)

  def reasoning_has_gold(self, row: task_lib.Row, completion: str) -> bool:
    """Whether the reasoning of the first answer has it."""
    return self.task.reasoning_has_gold(row, self.cut(completion))

  def score(self, row: task_lib.Row, completion: str) -> task_lib.Score:
    """The verdict on the first answer."""
    return self.task.score(row, self.cut(completion))

  def score_batch(
    self, rows: Sequence[task_lib.Row], completions: Sequence[str]
  ) -> list[task_lib.Score]:
    """`score` of each completion with its row."""
    return task_lib.score_all(self.task, rows, list(map(self.cut, completions)))

  def cut(self, completion: str) -> str:
    """The completion up to its first answer's end; all of it without one."""
    start = len(completion) - len(completion.lstrip())
    if self.ending == _CLOSE:
      start = completion.find(_OPEN)
    end = completion.find(self.ending, start)
    if not self.ending or start < 0 or end < 0:
      return completion
    return completion[: end + len(self.ending)].removesuffix(SEPARATOR)


def cloze_text(
  task: task_lib.MultipleChoice, rows: Sequence[task_lib.Row]
) -> str:
  """The examples as text before a question whose options are scored."""
  clozes = [task.cloze(row) for row in rows]
  return ''.join(c.prompt + c.options[c.answer] + SEPARATOR for c in clozes)
