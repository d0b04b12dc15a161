"""GSM8K, OpenBookQA and AQuA, each question asked in twelve ways.

Rows, demonstrations and verdicts are the wrapped task's; only the prompt is
another. All instructions ask for the same thing: to reason step by step, and to
give the answer between the tags that the verifier reads. View 0 to 7 are for
training, 8 to 11 are kept for evaluation; a row without a view is under view 0.

The instructions are our own; those of robustness benchmarks are not used.
"""

import dataclasses

from dllm_jax.tasks import gsm8k, multiple_choice, tags, task

_WRAPPED: dict[str, task.Task] = {
  'gsm8k': gsm8k.Gsm8k(prompt_style='terse'),
  'openbookqa': multiple_choice.MultipleChoice(
    name='openbookqa', prompt_style='terse'
  ),
  'aqua': multiple_choice.MultipleChoice(name='aqua', prompt_style='terse'),
}
_LETTER = 'the letter of the right option'
_ANSWERS = {
  'gsm8k': 'the final number without its unit',
  'openbookqa': _LETTER,
  'aqua': _LETTER,
}

INSTRUCTIONS = (
  # Plain, before the question.
  'Answer the question below. First reason step by step between <reasoning> '
  'and </reasoning>, then write {answer}, and nothing else, between <answer> '
  'and </answer>.\n\n{question}\n',
  # Plain, after the question.
  '{question}\n\nSolve this one step at a time. Your steps go inside '
  '<reasoning></reasoning> tags; after them, {answer} goes alone inside '
  '<answer></answer> tags.\n',
  # Terse.
  'Steps in <reasoning>...</reasoning>, then only {answer} in '
  '<answer>...</answer>.\n{question}\n',
  # Polite, around the question.
  'Could you please help me with this question?\n\n{question}\n\nIt would be '
  'kind of you to explain your thinking step by step, opened by <reasoning> '
  'and closed by </reasoning>. After that, please give {answer} on its own, '
  'opened by <answer> and closed by </answer>. Thank you!\n',
  # A role.
  'You are a patient teacher who never skips a step. A student asks:\n\n'
  '{question}\n\nExplain the solution step by step in a block that begins with '
  '<reasoning> and ends with </reasoning>. Close with {answer}, by itself, in '
  'a block that begins with <answer> and ends with </answer>.\n',
  # A form.
  'Question:\n{question}\n\nThink it through in small steps, and fill in this '
  'form:\n<reasoning>\nyour steps\n</reasoning>\n<answer>\n{answer}\n'
  '</answer>\n',
  # A list.
  'Do three things.\n(a) Read this question:\n{question}\n(b) Reason about it '
  'step by step; put <reasoning> before your reasoning and </reasoning> after '
  'it.\n(c) Give {answer}, with <answer> before it, </answer> after it, and no '
  'other words between them.\n',
  # A reason for the layout.
  'A program will read your reply to the question below. It looks for '
  '<reasoning>, your reasoning step by step, and </reasoning>; then for '
  '<answer>, {answer} alone, and </answer>.\n\n{question}\n',
)
UNSEEN_INSTRUCTIONS = (
  # An exam.
  'Exam question\n\n{question}\n\nRules: derive the result step by step within '
  'one pair of tags, <reasoning> and </reasoning>. State {answer}, without any '
  'comment, within a second pair, <answer> and </answer>.\n',
  # Split: what comes first before the question, what comes last after it.
  'Begin with <reasoning>, take the following question apart step by step, and '
  'finish that part with </reasoning>.\n\n{question}\n\nAfter it write '
  '<answer>, then just {answer}, then </answer>.\n',
  # Casual.
  "Here's one I can't figure out:\n{question}\nDon't guess, go through it step "
  'by step. I want to see the steps wrapped in <reasoning> and </reasoning>, '
  'and at the end {answer} wrapped in <answer> and </answer>, with nothing '
  'around it.\n',
  # Another role.
  'As an editor of worked solutions you keep to one layout: the derivation, '
  'step by step, stands between <reasoning> and </reasoning>, and below it '
  'stands {answer}, as the only thing between <answer> and </answer>. Write '
  'the solution to this question.\n\n{question}\n',
)
_ALL = INSTRUCTIONS + UNSEEN_INSTRUCTIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rephrased:
  """A task whose questions are asked under several instructions.

  Attributes:
    name: the wrapped task's, by which its data are found; the key in
      `tasks.TASKS` is this name and '_phrasings'.
  """

  name: str

  def __post_init__(self):
    if self.name not in _WRAPPED:
      raise ValueError(
        f'name must be one of {", ".join(_WRAPPED)}: {self.name}'
      )

  def views(self, row: task.Row) -> list[task.Row]:
    """The row under each of the 8 instructions for training."""
    return [{**row, 'view': view} for view in range(len(INSTRUCTIONS))]

  def unseen_views(self, row: task.Row) -> list[task.Row]:
    """The row under each of the 4 instructions that are kept for evaluation."""
    return [{**row, 'view': v} for v in range(len(INSTRUCTIONS), len(_ALL))]

  def words(self) -> tuple[str, ...]:
    """The words of the wrapped task and of all instructions."""
    words = list(_WRAPPED[self.name].words())
    for view in range(len(_ALL)):
      words += tags.text_words(self._filled(view, question=''))
    return tuple(dict.fromkeys(words))

  def prompt(self, row: task.Row) -> str:
    """The question under the instruction that the row's view names."""
    question = _WRAPPED[self.name].prompt(row).removesuffix('\n')
    return self._filled(row.get('view', 0), question=question)

  def demonstration(self, row: task.Row) -> str:
    """That of the wrapped task, whatever the view."""
    return _WRAPPED[self.name].demonstration(row)

  def gold(self, row: task.Row) -> str:
    """That of the wrapped task."""
    return _WRAPPED[self.name].gold(row)

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """As the wrapped task says."""
    return _WRAPPED[self.name].reasoning_has_gold(row, completion)

  def score(self, row: task.Row, completion: str) -> task.Score:
    """The verdict of the wrapped task."""
    return _WRAPPED[self.name].score(row, completion)

  def _filled(self, view: int, *, question: str) -> str:
    return _ALL[view].format(question=question, answer=_ANSWERS[self.name])
