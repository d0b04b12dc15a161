"""Arithmetic word problems in two or three steps, made by templates.

A row is {'id': str, 'question': str, 'reasoning': str, 'answer': int}; the
reasoning has one equation a line, each with a few words on what it finds.

Nothing is stored: row i of a split is a pure function of (split, i). A digest
of template and numbers decides which split a problem belongs to, so no problem
of one split is in another, not even with other names or objects.
"""

import dataclasses
import re
from collections.abc import Sequence

from dllm_jax.tasks import problem_templates, tags, task

NUM_ROWS = {'train': 20_000, 'validation': 1_000, 'test': 1_000}
ANSWER_MARK = '#### '
MAX_VALUE = 200
_SEED = 1
_MAX_REASONING_CHARS = 4096
_PIECE = re.compile(r' ?(?:[A-Za-z]+|[^A-Za-z0-9\s])')
_EQUATION = re.compile(
  r'(?<![0-9])([0-9]{1,6}) ([-+*/]) ([0-9]{1,6}) = ([0-9]{1,6})(?![0-9])'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordProblems:
  """The task of word problems, for tiny word-level models."""

  name = 'word_problems'

  def rows(self, split: str) -> Sequence[task.Row]:
    """The rows of a split, each made when it is read.

    Raises:
      errors.UserError: there is no such split.
    """
    return task.MadeRows(self.name, split, NUM_ROWS, _row)

  def words(self) -> tuple[str, ...]:
    """Words with the space before them, and digits with and without.

    All other characters of ASCII are words too, so that a model of the task can
    be given any English text.
    """
    words = ['\n', '\t', ANSWER_MARK.strip(), *map(chr, range(32, 127))]
    words += [space + digit for space in ('', ' ') for digit in '0123456789']
    sizes = problem_templates.SIZES
    numbers = dict.fromkeys('abcdxyz', 0)
    for i in range(max(sizes)):
      fields = numbers | problem_templates.fields(i % size for size in sizes)
      for template in problem_templates.TEMPLATES:
        for text in (template.question, *template.steps):
          words += _PIECE.findall(text.format(**fields))
    return tuple(dict.fromkeys(words))

  def prompt(self, row: task.Row) -> str:
    """The question."""
    return row['question'] + '\n'

  def demonstration(self, row: task.Row) -> str:
    """The equations, then the answer behind its mark."""
    return f'{row["reasoning"]}\n{ANSWER_MARK}{self.gold(row)}'

  def gold(self, row: task.Row) -> str:
    """The number that stands behind the mark."""
    return str(row['answer'])

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """Whether the number is written before the mark, as it should be."""
    reasoning = completion.partition(ANSWER_MARK)[0][:_MAX_REASONING_CHARS]
    gold = rf'(?<![0-9]){row["answer"]}(?![0-9])'
    return re.search(gold, reasoning) is not None

  def score(self, row: task.Row, completion: str) -> task.Score:
    """Judges the number behind the last '#### '.

    Nothing else may be in its line, and it has no leading zero. The term
    `solution` is 1 for the right number, else 0. The metric `equations_right`
    is the share of the written equations 'a op b = c' that are right; 0 where
    there is none. Of a completion longer than `tags.MAX_CHARS` only the end is
    read.
    """
    completion = completion[-tags.MAX_CHARS :]
    answer = _read_answer(completion)
    correct = answer == self.gold(row)
    metrics = {
      'has_answer': float(answer is not None),
      'equations_right': _equations_right(completion),
    }
    return task.Score({'solution': float(correct)}, correct, metrics, answer)


def _row(split: str, index: int) -> task.Row:
  """Draws template and words, then numbers until they belong to the split."""
  import numpy as np  # Late: a sandbox's Python may have none.

  rng = np.random.default_rng((_SEED, list(NUM_ROWS).index(split), index))
  templates = problem_templates.TEMPLATES
  template = templates[rng.integers(len(templates))]
  picks = rng.integers(problem_templates.SIZES).tolist()
  low, high = zip(*template.ranges.values(), strict=True)
  while True:
    drawn = rng.integers(low, high, endpoint=True).tolist()
    numbers = dict(zip(template.ranges, drawn, strict=True))
    if task.split_of(f'{template.question} {tuple(drawn)}') == split:
      values = _solve(template, numbers)
      if values is not None:
        break
  fields = problem_templates.fields(picks) | values
  return {
    'id': f'{split}-{index}',
    'question': template.question.format(**fields),
    'reasoning': '\n'.join(step.format(**fields) for step in template.steps),
    'answer': list(values.values())[-1],
  }


def _solve(
  template: problem_templates.Template, numbers: dict[str, int]
) -> dict[str, int] | None:
  """The numbers and, in order, the results of the steps.

  None where a result is not a whole number in 2..MAX_VALUE; below 2, nouns
  would not be plurals.
  """
  values = dict(numbers)
  for step in template.steps:
    expression, _, rest = step.partition(' = ')
    left, sign, right = expression.format(**values).split()
    value = _calculate(int(left), sign, int(right))
    if value is None or not 2 <= value <= MAX_VALUE:
      return None
    values[rest[1]] = value  # rest is '{x} apples ...'
  return values


def _calculate(left: int, sign: str, right: int) -> int | None:
  """The whole number that an expression equals; None where there is none."""
  if sign == '/':
    return left // right if right and left % right == 0 else None
  return {'+': left + right, '-': left - right, '*': left * right}[sign]


def _read_answer(completion: str) -> str | None:
  _, found, rest = completion.rpartition(ANSWER_MARK)
  number = rest.partition('\n')[0].strip()
  return number if found and re.fullmatch('[0-9]{1,9}', number) else None


def _equations_right(completion: str) -> float:
  equations = _EQUATION.findall(completion[-_MAX_REASONING_CHARS:])
  right = sum(
    _calculate(int(left), sign, int(right)) == int(value)
    for left, sign, right, value in equations
  )
  return right / max(len(equations), 1)
