r"""MATH: competition problems whose answers are LaTeX expressions.

A row is {'id': str, 'problem': str, 'solution': str, 'answer': str, 'level':
int, 'subject': str}; `level` is 0 where the data set has none.

The answer is the last \boxed{} of the last answer block, or the whole block
where it has none. It must be one expression; math-verify compares it with the
gold.

Deviations from the public d1 code (which `parity=True` follows): it compares
normal forms instead of values; it takes the last \boxed{} of the whole text, or
the whole text; and a backslash that Python read as a backspace keeps its reward
from ever seeing a box. With or without `parity`, the 'd1' prompt asks for d1's
layout in words of our own.
"""

import dataclasses
from collections.abc import Sequence

from dllm_jax.tasks import claims, latex, math_equal, styles, tags, task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mathematics(styles.Styled):
  """The MATH task.

  Attributes:
    parity: judge as the public d1 code does: the terms are those of its
      reward, correct is the verdict of its evaluation.
  """

  parity: bool = False

  name = 'math'
  request = (
    'You solve problems of mathematics. Reason step by step, and put the final '
    'answer into \\boxed{} inside the answer tags.'
  )

  def question(self, row: task.Row) -> str:
    """The problem."""
    return row['problem'] + '\n'

  def demonstration(self, row: task.Row) -> str:
    """The written solution of the data set, then its answer in a box."""
    return tags.completion_text(row['solution'], self.gold(row))

  def gold(self, row: task.Row) -> str:
    """The answer in a box."""
    return rf'\boxed{{{row["answer"]}}}'

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """Whether the reasoning boxes an answer that is spelled like the gold."""
    reasoning = tags.reasoning_text(completion)
    return latex.equal_by_form(latex.last_boxed(reasoning), row['answer'])

  def score(self, row: task.Row, completion: str) -> task.Score:
    """`score_batch` of one; a batch costs less."""
    return self.score_batch([row], [completion])[0]

  def score_batch(
    self, rows: Sequence[task.Row], completions: Sequence[str]
  ) -> list[task.Score]:
    """Judges the answer of the last answer block, many at a time.

    Terms: `correctness` is 2 for an answer that equals the gold one; `boxed` is
    half of: 1 for an answer block, plus 1 for a box in it or else 0.5; then
    the format terms. Where the comparison itself failed, `correctness` is nan.
    """
    if self.parity:
      parsed = [latex.d1_answer(text) for text in completions]
      verdicts = [
        latex.equal_by_form(answer, row['answer'])
        for row, answer in zip(rows, parsed, strict=True)
      ]
    else:
      parsed = [_answer(text) for text in completions]
      claimed = [
        claims.pairs(answer or '', row['answer'])
        for row, answer in zip(rows, parsed, strict=True)
      ]
      asked = iter(math_equal.equal([p for pairs in claimed for p in pairs]))
      verdicts = [_all([next(asked) for _ in pairs]) for pairs in claimed]
    return [
      self._score(verdict, text, answer)
      for verdict, text, answer in zip(
        verdicts, completions, parsed, strict=True
      )
    ]

  def _score(
    self, verdict: bool | None, completion: str, parsed: str | None
  ) -> task.Score:
    block = tags.extract_answer(completion)
    searched = completion if self.parity else block or ''
    boxed = latex.last_boxed(searched) is not None
    # d1's reward never sees the box: see the deviations above.
    seen = boxed and not self.parity
    terms = {
      'correctness': float('nan') if verdict is None else 2.0 * verdict,
      'boxed': 0.5 * ((block is not None) + (1.0 if seen else 0.5)),
    }
    terms |= tags.terms(completion, parity=self.parity)
    return task.Score(
      terms,
      bool(verdict),
      {'has_answer': float(block is not None), 'has_box': float(boxed)},
      parsed,
      verdict is not None,
    )


def _all(verdicts: Sequence[bool | None]) -> bool | None:
  """Whether there are some, all True; None where that is not known."""
  if False in verdicts or not verdicts:
    return False
  return None if None in verdicts else True


def _answer(completion: str) -> str | None:
  """What is compared: a box of the last answer block, or the block."""
  block = tags.extract_answer(completion)
  if block is None:
    return None
  answer = latex.answer_text(block)
  if answer is None or len(answer) > math_equal.MAX_CHARS:
    return None
  return answer
