"""Examples before a question, taken from the training split.

All questions get the same ones, in the task's own form: what is asked, and a
demonstration of the answer. None of them is, or overlaps, a test row.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dllm_jax import errors
from dllm_jax.data import leaks
from dllm_jax.tasks import task as task_lib

SEPARATOR = '\n\n'


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


def cloze_text(
  task: task_lib.MultipleChoice, rows: Sequence[task_lib.Row]
) -> str:
  """The examples as text before a question whose options are scored."""
  clozes = [task.cloze(row) for row in rows]
  return ''.join(c.prompt + c.options[c.answer] + SEPARATOR for c in clozes)
