r"""Code: HumanEval, MBPP and KodCode-style problems.

A row is {'id': str, 'prompt': str, 'entry_point': str, 'test': str, 'solution':
str, 'setup': str}; `test` is Python that defines `check(candidate)`, or plain
assertions. `entry_point` may be '' where a test names its function itself.

Model-written code never runs here: a `CodeJudge` does that, in a sandbox.
`programs` says what of a completion is the program.

Deviations from the public d1 code: the 'd1' prompt asks for d1's layout in
words of our own; `fence` is given to a code block that names no language too.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from dllm_jax.tasks import programs, styles, tags, task

# Words of a code block, which stand in every demonstration.
_BLOCK_WORDS = ('```python\n', '\n```')


class Submission(NamedTuple):
  """A program and what it is tested by.

  Attributes:
    code: the program, written by a model.
    test: the test's text, from a data set.
    entry_point: the function that `check(candidate)` is called with; '' where
      the test calls its functions by name.
  """

  code: str
  test: str
  entry_point: str


class Verdict(NamedTuple):
  """The judgement of one submission.

  Attributes:
    passed: whether all tests passed; None where the sandbox itself failed.
    share: of the tests that passed, in 0..1; 1 exactly if `passed`.
    reason: a code for people, such as 'timeout'; '' for a pass.
  """

  passed: bool | None
  share: float
  reason: str


@runtime_checkable
class CodeJudge(Protocol):
  """Runs programs against tests, confined."""

  def judge(self, submissions: Sequence[Submission]) -> list[Verdict]:
    """A verdict a submission, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coding(styles.Styled):
  """One of the code tasks.

  Attributes:
    name: the key in `tasks.TASKS`.
    judge: of the programs.
    reading: how a program is read out of a completion.
  """

  name: str
  judge: CodeJudge
  reading: programs.Reading = 'layout'

  request = (
    'You write Python programs. Reason about the problem first, then put the '
    'whole program into one ```python code block inside the answer tags.'
  )

  def words(self) -> tuple[str, ...]:
    """The words of plain English, and those of a code block."""
    return (*super().words(), *_BLOCK_WORDS)

  def question(self, row: task.Row) -> str:
    """The problem; a head of a program keeps its own lines."""
    return row['prompt'].strip() + '\n'

  def demonstration(self, row: task.Row) -> str:
    """The data set's program, without reasoning."""
    return tags.completion_text('', self.gold(row))

  def gold(self, row: task.Row) -> str:
    """The program in a code block."""
    return f'```python\n{row["solution"].strip()}\n```'

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """Whether the reasoning spells the program, whatever its spaces."""
    gold = ''.join(row['solution'].split())
    reasoning = tags.reasoning_text(completion)[: programs.MAX_CHARS]
    return bool(gold) and gold in ''.join(reasoning.split())

  def score(self, row: task.Row, completion: str) -> task.Score:
    """`score_batch` of one; a batch costs less."""
    return self.score_batch([row], [completion])[0]

  def score_batch(
    self, rows: Sequence[task.Row], completions: Sequence[str]
  ) -> list[task.Score]:
    """Judges the programs of completions, many at a time.

    Terms: `tests` is the share of tests that pass, `passed` is 1 if all do;
    `fence` is 0.5 for a code block inside the answer block; then the format
    terms. Where the sandbox failed, `tests` and `passed` are nan.
    """
    extracted = [
      programs.extract(
        text,
        reading=self.reading,
        prompt=row['prompt'],
        entry_point=row['entry_point'],
        test=row['test'],
      )
      for row, text in zip(rows, completions, strict=True)
    ]
    asked = [i for i, program in enumerate(extracted) if program is not None]
    given = self.judge.judge(
      [
        Submission(
          # Set-up names what the program defines; see MBPP 367 and 927.
          '\n'.join(filter(None, [extracted[i], rows[i]['setup']])),
          rows[i]['test'],
          rows[i]['entry_point'],
        )
        for i in asked
      ]
    )
    verdicts = dict(zip(asked, given, strict=True))
    return [
      _score(verdicts.get(i, _NOTHING), text, extracted[i])
      for i, text in enumerate(completions)
    ]


_NOTHING = Verdict(False, 0.0, 'no program')


def _score(
  verdict: Verdict, completion: str, program: str | None
) -> task.Score:
  judged = verdict.passed is not None
  answer = tags.extract_answer(completion)
  terms = {
    'tests': verdict.share if judged else float('nan'),
    'passed': float(verdict.passed) if judged else float('nan'),
    'fence': 0.5 * programs.has_block(answer or ''),
  }
  terms |= tags.terms(completion)
  metrics = {
    'has_answer': float(answer is not None),
    'has_program': float(program is not None),
    'timed_out': float(verdict.reason == 'timeout'),
  }
  return task.Score(
    terms, bool(verdict.passed), metrics, program, judged, verdict.reason
  )
