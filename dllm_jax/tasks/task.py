"""What a task is: prompts, demonstrations and a verifier, all on text."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

Row = dict[str, Any]


class Score(NamedTuple):
  """The verdict on one completion.

  Attributes:
    terms: reward terms by name; the reward is a weighted sum of them.
    correct: whether the answer is right; what accuracy counts.
    metrics: what is logged beside the reward.
  """

  terms: dict[str, float]
  correct: bool
  metrics: dict[str, float]


@runtime_checkable
class Task(Protocol):
  """A task; a row is a plain dict of Python values.

  Attributes:
    name: the key in `tasks.TASKS`.
  """

  name: str

  def words(self) -> tuple[str, ...]:
    """Words that cover every prompt, demonstration and plausible output."""

  def prompt(self, row: Row) -> str:
    """The user's text."""

  def demonstration(self, row: Row) -> str:
    """A correct completion, without EOS."""

  def gold(self, row: Row) -> str:
    """The answer exactly as the answer block of a demonstration shows it."""

  def reasoning_has_gold(self, row: Row, completion: str) -> bool:
    """Whether the reasoning already spells the gold answer (leakage)."""

  def score(self, row: Row, completion: str) -> Score:
    """Judges a completion, which is hostile text of any length."""
