"""Countdown: reach a target by using each given number exactly once.

A row is {'id': str, 'numbers': list[int], 'target': int, 'solution': str,
'num_solutions': int}; `num_solutions` is 0 where nobody counted.

Deviations from the public d1 reward: answers are read by a bounded parser,
never evaluated by Python; so '**', '//' and decimals are refused. A \\boxed{}
around the expression does no harm, as in d1's evaluation; nor do operators in
Unicode or LaTeX, and a sign before a number.
"""

import dataclasses
import re

from dllm_jax.tasks import arithmetic, latex, spelling, tags, task

TOLERANCE = 1e-5
MAX_NUMBER_WORD = 999
_MAX_REASONING_CHARS = 4096
_MAX_D1_CHARS = 2**16
_D1_ARITHMETIC = '0123456789+-*/() '
_DASHES = str.maketrans('\u2013\u2014', '--')
_BRACKETS = str.maketrans('[]{}', '()()')
_FRACTION = re.compile(r'\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}')
_OPERATORS = (
  (re.compile(r'\\(?:times|cdot|ast)(?![a-zA-Z])'), '*'),
  (re.compile(r'\\div(?![a-zA-Z])'), '/'),
  (re.compile(r'(?<=[0-9)])\s*[xX]\s*(?=[0-9(])'), '*'),
)

_TERSE_PROMPT = ' {numbers} = {target}\n'
_D1_PROMPT = (
  tags.XML_DIRECTIVE
  + '\nCombine the numbers below into one arithmetic expression that equals '
  'the target. Use every number exactly once, and only the operators + - * / '
  'and parentheses. Put the expression alone inside the answer tags: no equals '
  'sign and no target. For example, with the numbers 7 2 9 and the target 5, '
  'the answer 7 * 2 - 9 is right.\n\nNumbers: {numbers}\nTarget: {target}\n'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Countdown:
  r"""The Countdown task.

  The first four fields describe the generated problems and the lexicon; any
  answer may use all four operators.

  Attributes:
    count: how many numbers a problem has.
    max_number: the numbers are 1..max_number.
    operators: distinct ones of '+-*/'.
    max_target: the targets are 1..max_target.
    prompt_style: 'terse' for tiny word-level models, 'd1' for instruct models.
    reasoning: what a demonstration's reasoning holds: the running 'values', or
      the 'equations'.
    parity: judge as the public d1 code does: the terms allow a sign before a
      number, and the format patterns lack DOTALL; correct is the verdict of
      its evaluation, which reads \boxed{}, LaTeX operators and '= value', takes
      values within 1e-5, and does not look at the answer tags.
  """

  count: int = 4
  max_number: int = 20
  operators: str = '+-'
  max_target: int = 80
  prompt_style: str = 'terse'
  reasoning: str = 'values'
  parity: bool = False

  name = 'countdown'

  def __post_init__(self):
    arithmetic.check_operators(self.operators)
    if not 2 <= self.count <= 8:
      raise ValueError(f'count must be in 2..8: {self.count}')
    for field in ('max_number', 'max_target'):
      value = getattr(self, field)
      if not 1 <= value <= MAX_NUMBER_WORD:
        raise ValueError(f'{field} must be in 1..{MAX_NUMBER_WORD}: {value}')
    tags.check_style(self.prompt_style)
    if self.reasoning not in ('values', 'equations'):
      raise ValueError(
        f'reasoning must be values or equations: {self.reasoning}'
      )

  def max_value(self) -> int:
    """The largest number that has a word."""
    bound = max(self.count * self.max_number, self.max_target)
    if arithmetic.needs_parentheses(self.operators):
      bound = max(bound, self.max_number**2)
    return min(bound, MAX_NUMBER_WORD)

  def words(self) -> tuple[str, ...]:
    """Tags, numbers, operators; for 'd1' also the words of the prompt."""
    signs = list(self.operators)
    if arithmetic.needs_parentheses(self.operators):
      signs += ['(', ')']
    words = [*tags.words(), '\n', ' =']
    words += [f' {sign}' for sign in signs]
    words += [f' {number}' for number in range(self.max_value() + 1)]
    if self.prompt_style == 'd1':
      words += tags.text_words(_D1_PROMPT.format(numbers='', target=''))
    return tuple(dict.fromkeys(words))

  def prompt(self, row: task.Row) -> str:
    """The numbers and the target."""
    numbers = ' '.join(str(number) for number in row['numbers'])
    template = _D1_PROMPT if self.prompt_style == 'd1' else _TERSE_PROMPT
    return template.format(numbers=numbers, target=row['target'])

  def demonstration(self, row: task.Row) -> str:
    """The stored solution, with its steps as the reasoning."""
    steps = arithmetic.evaluate(row['solution']).steps
    if self.reasoning == 'values':
      reasoning = ''.join(f' {step.value}' for step in steps)
    else:
      reasoning = '\n'.join(
        f' {step.left} {step.operator} {step.right} = {step.value}'
        for step in steps
      )
    return tags.completion_text(reasoning, self.gold(row))

  def gold(self, row: task.Row) -> str:
    """The stored solution after one space, as in a demonstration."""
    return ' ' + row['solution']

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """Whether the reasoning spells the stored solution, whatever its spaces."""
    gold = re.escape(''.join(row['solution'].split()))
    reasoning = ''.join(tags.reasoning_text(completion).split())
    return re.search(rf'(?<![0-9]){gold}(?![0-9])', reasoning) is not None

  def score(self, row: task.Row, completion: str) -> task.Score:
    """Judges the expression in the last answer block.

    Terms: `solution` is 0 without an answer block, 1 for a value within 1e-5
    of the target from exactly the given numbers, else 0.1; `valid` is 1 for an
    expression of exactly the given numbers, whatever its value; then the
    format terms. Correct means the exact target. Of a completion longer than
    `tags.MAX_CHARS` only the end is read.
    """
    completion = completion[-tags.MAX_CHARS :]
    answer = tags.extract_answer(completion)
    if answer is not None and not self.parity:
      answer = latex.answer_text(answer) or ''
    result = None
    if answer is not None:
      result = _evaluate(answer if self.parity else _ascii(answer))
    valid = _uses_all(row, result)
    close = valid and _is_close(row, result)
    solution = 0.0 if answer is None else 1.0 if close else 0.1
    if self.parity:
      read = _evaluate(_d1_answer(completion))
      correct = _uses_all(row, read) and _is_close(row, read)
    else:
      correct = valid and result.value == row['target']
    terms = {'solution': solution, 'valid': float(valid)}
    terms |= tags.terms(completion, parity=self.parity)
    right = result is not None and self._reasoning_right(result, completion)
    metrics = {
      'valid': float(valid),
      'has_answer': float(answer is not None),
      'reasoning_right': float(right),
    }
    parsed = _d1_answer(completion) if self.parity else answer
    return task.Score(terms, correct, metrics, parsed)

  def _reasoning_right(
    self, result: arithmetic.Evaluation, completion: str
  ) -> bool:
    reasoning = tags.reasoning_text(completion)
    if len(reasoning) > _MAX_REASONING_CHARS:
      return False
    expected = []
    for step in result.steps:
      if self.reasoning == 'equations':
        expected += [str(step.left), step.operator, str(step.right), '=']
      expected.append(str(step.value))
    return reasoning.split() == expected


def _ascii(answer: str) -> str:
  r"""An expression with ASCII operators: 3 × 4, $3 \times 4$, \frac{3}{4}."""
  if len(answer) > 4 * arithmetic.MAX_CHARS:
    return answer  # refused as it is
  answer = spelling.plain(answer.translate(_DASHES))
  for pattern, operator in _OPERATORS:
    answer = pattern.sub(operator, answer)
  for _ in range(answer.count(r'\frac')):
    answer = _FRACTION.sub(r'((\1)/(\2))', answer)
  return answer.translate(_BRACKETS).strip()


def _evaluate(answer: str) -> arithmetic.Evaluation | None:
  try:
    return arithmetic.evaluate(answer, unary=True)
  except arithmetic.ExpressionError:
    return None


def _uses_all(row: task.Row, result: arithmetic.Evaluation | None) -> bool:
  return result is not None and sorted(result.numbers) == sorted(row['numbers'])


def _is_close(row: task.Row, result: arithmetic.Evaluation) -> bool:
  return abs(result.value - row['target']) <= TOLERANCE


def _d1_answer(completion: str) -> str:
  r"""The expression that d1's evaluation reads out of a completion.

  The last \boxed{}, or else the first answer block, or else the whole text,
  tags and all; then, with LaTeX operators mapped, the first left-hand side of
  an equation in it.
  """
  completion = completion[:_MAX_D1_CHARS]
  answer = latex.d1_answer(completion)
  if answer is None:
    answer = completion
  for tex, sign in ((r'\times', '*'), (r'\cdot', '*'), (r'\div', '/')):
    answer = answer.replace(tex, sign)
  end = 0
  for equals in re.finditer(r'=[0-9. ]', answer):
    # Not one pattern with what comes before: it would take quadratic time.
    left = answer[end : equals.start()]
    end = equals.start() + 1
    left = left[len(left.rstrip(_D1_ARITHMETIC)) :]
    if left:
      return left.strip()
  return answer
