"""What a task is: prompts, demonstrations and a verifier, all on text."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from dllm_jax import errors

Row = dict[str, Any]


class Score(NamedTuple):
  """The verdict on one completion.

  Attributes:
    terms: reward terms by name; the reward is a weighted sum of them.
    correct: whether the answer is right; what accuracy counts.
    metrics: what is logged beside the reward.
    parsed: the answer that was read out of the completion; None for none.
    judged: False where the verifier itself failed: the terms in question are
      then not a number, the row is left out of training, and `correct` says
      nothing.
    reason: why, in a few words for people; '' where there is nothing to say.
  """

  terms: dict[str, float]
  correct: bool
  metrics: dict[str, float]
  parsed: str | float | None = None
  judged: bool = True
  reason: str = ''


@runtime_checkable
class Task(Protocol):
  """A task; a row is a plain dict of Python values.

  Attributes:
    name: the key in `tasks.TASKS`; a task that wraps another has the name of
      that task, by which its data are found.
  """

  name: str

  def words(self) -> tuple[str, ...]:
    """Words that cover every prompt, demonstration and plausible output."""

  def prompt(self, row: Row) -> str:
    """The user's text."""

  def demonstration(self, row: Row) -> str:
    """What supervised training learns, without EOS; correct, as a rule."""

  def gold(self, row: Row) -> str:
    """The answer exactly as the answer block of a demonstration shows it."""

  def reasoning_has_gold(self, row: Row, completion: str) -> bool:
    """Whether the reasoning already spells the gold answer (leakage)."""

  def score(self, row: Row, completion: str) -> Score:
    """Judges a completion, which is hostile text of any length."""


@runtime_checkable
class RowSource(Protocol):
  """A task that makes its own rows, instead of reading a data set."""

  def rows(self, split: str) -> Sequence[Row]:
    """The rows of 'train', 'validation' or 'test', the same at every call."""


class MadeRows(Sequence[Row]):
  """The rows of a split of a `RowSource`, each made when it is read."""

  def __init__(
    self,
    name: str,
    split: str,
    num_rows: Mapping[str, int],
    make: Callable[[str, int], Row],
  ):
    """The split of the task of this name.

    Args:
      name: of the task.
      split: a key of `num_rows`.
      num_rows: of each split.
      make: the row of a split at an index from 0.

    Raises:
      errors.UserError: there is no such split.
    """
    if split not in num_rows:
      raise errors.UserError(
        f'task {name!r} has no split {split!r}: expected one of '
        f'{", ".join(num_rows)}'
      )
    self._split, self._num_rows, self._make = split, num_rows, make

  def __len__(self) -> int:
    return self._num_rows[self._split]

  def __getitem__(self, index: int) -> Row:
    return self._make(self._split, range(len(self))[index])


def split_of(text: str) -> str:
  """The split of a problem by its text: 80% train, 10% validation, 10% test."""
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  share = int.from_bytes(digest) / 2**64
  return 'test' if share < 0.1 else 'validation' if share < 0.2 else 'train'


@runtime_checkable
class Cut(Protocol):
  """A task whose rows are pieces of those of its data set."""

  def pieces(self, rows: Iterable[Row]) -> list[Row]:
    """The pieces of all rows, in order."""


@runtime_checkable
class Paraphrased(Protocol):
  """A task that can ask for the same thing in several ways.

  A view is the row itself, with the same gold answer, under one of the ways:
  `Task.prompt` reads it from the row. Its number is `row['view']`. Rows have
  equally many.
  """

  def views(self, row: Row) -> list[Row]:
    """The row under each of the phrasings that training may use."""

  def unseen_views(self, row: Row) -> list[Row]:
    """The row under the phrasings that are kept for evaluation, if any.

    Their numbers follow those of `views`.
    """


class OpenEnded:
  """Base of the tasks without right answers: `Task.score` judges nothing.

  Attributes:
    reason: why.
  """

  reason = 'no right answer'

  def words(self) -> tuple[str, ...]:
    """None: a lexicon of anyone's text does not exist; name a base model."""
    return ()

  def gold(self, row: Row) -> str:
    """None."""
    return ''

  def reasoning_has_gold(self, row: Row, completion: str) -> bool:
    """Never."""
    return False

  def score(self, row: Row, completion: str) -> Score:
    """No verdict."""
    return Score({}, False, {}, judged=False, reason=self.reason)


class Cloze(NamedTuple):
  """A question whose options are scored by their likelihood.

  Attributes:
    prompt: what a plain text has before an option.
    options: continuations of the prompt.
    answer: index of the right one.
  """

  prompt: str
  options: list[str]
  answer: int


@runtime_checkable
class MultipleChoice(Protocol):
  """A task whose rows have options."""

  def cloze(self, row: Row) -> Cloze:
    """The row as a question to be continued by an option."""


@runtime_checkable
class Labelled(Protocol):
  """A task whose rows are of a few kinds.

  Attributes:
    num_labels: number of kinds.
  """

  @property
  def num_labels(self) -> int: ...

  def label(self, row: Row) -> int:
    """The kind of a row, in 0..num_labels - 1."""


@runtime_checkable
class BatchScorer(Protocol):
  """A task that judges many completions faster together than one by one."""

  def score_batch(
    self, rows: Sequence[Row], completions: Sequence[str]
  ) -> list[Score]:
    """`Task.score` of each completion with its row, in order."""


def score_all(
  task: Task, rows: Sequence[Row], completions: Sequence[str]
) -> list[Score]:
  """Verdicts of completions, together where the task can.

  Raises:
    ValueError: there are not as many rows as completions.
  """
  if len(rows) != len(completions):
    raise ValueError(f'{len(rows)} rows for {len(completions)} completions')
  if isinstance(task, BatchScorer):
    return task.score_batch(rows, completions)
  return [
    task.score(row, text) for row, text in zip(rows, completions, strict=True)
  ]
