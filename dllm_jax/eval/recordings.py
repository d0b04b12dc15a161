"""Scores recorded completions by a task's verifier.

A file has one JSON object per line and may be compressed. `question` and
`generation` are strings; `ground_truth` is the gold answer: [[numbers], target]
for Countdown, 16 digits for Sudoku, a number for GSM8K (null if unknown), an
expression for MATH, a letter for multiple choice (with `options`, a list of
strings, if their texts are to be checked). For programs see `code_recordings`.

Rules: 'strict' are the task's own, on the text before the first end-of-text
marker; 'd1' are those of the public d1 evaluator, on the whole text.
"""

import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dllm_jax import errors, tasks
from dllm_jax.data import json_rows
from dllm_jax.eval import code_recordings
from dllm_jax.tasks import code_judge, multiple_choice
from dllm_jax.tasks import task as task_lib

RULES = ('strict', 'd1')
ENDS = re.compile(r'<\|(?:eot_id|endoftext|im_end|eos|end_of_text)\|>|</s>')


class Recording(NamedTuple):
  """A recorded completion and the task's row that it answers."""

  row: task_lib.Row
  generation: str


def read(
  path: pathlib.Path,
  task_name: str,
  data_dir: str | pathlib.Path | None = None,
) -> list[Recording]:
  """The completions of a file.

  Args:
    path: path of the file.
    task_name: one of `TASKS`.
    data_dir: directory of problems that records refer to; see
      `code_recordings`.

  Raises:
    errors.UserError: the file is missing, malformed or empty.
  """
  is_code = task_name in code_recordings.TASKS
  if is_code:
    make_row = code_recordings.reader(task_name, data_dir)
  else:
    make_row = _ROWS[task_name]
  recordings = []
  for number, record in json_rows.records(path):
    try:
      if is_code:
        generation = code_recordings.text_of(record, task_name)
      else:
        generation = code_recordings.text(record, 'generation')
      row = make_row(record)
    except ValueError as error:
      raise errors.UserError(f'{path}:{number}: {error}') from error
    row = {**row, 'id': f'{path.name}:{number}'}
    recordings.append(Recording(row, generation))
  if not recordings:
    raise errors.UserError(f'{path} has no rows')
  return recordings


def truth(task_name: str, row: task_lib.Row) -> dict[str, Any]:
  """The fields of a record that give the gold answer; inverse of `read`."""
  if task_name == 'countdown':
    return {'ground_truth': [list(row['numbers']), row['target']]}
  if task_name == 'sudoku':
    return {'ground_truth': row['solution']}
  if task_name in code_recordings.TASKS:
    return {name: row[name] for name in code_recordings.FIELDS}
  for name in ('references', 'text'):
    if name in row:
      return {'ground_truth': row[name]}
  options = {'options': list(row['options'])} if 'options' in row else {}
  return {'ground_truth': row['answer']} | options


def evaluate(
  task_name: str, recordings: Sequence[Recording], rules: str
) -> dict[str, Any]:
  """Verdicts of recorded completions.

  Returns:
    A dict with 'items', one dict per completion, and 'accuracy' =
    'numerator' / 'denominator', which count items, or cells for Sudoku under
    the d1 rules. Items that were not judged have 'correct': None and count in
    neither.

  Raises:
    errors.UserError: the task has no such rules, or no item was judged.
  """
  task = make_task(task_name, rules)
  texts = [recording.generation for recording in recordings]
  if rules == 'strict' and task_name != 'code':
    texts = [ENDS.split(text, maxsplit=1)[0] for text in texts]
  verdicts = task_lib.score_all(
    task, [recording.row for recording in recordings], texts
  )
  items = [_item(task_name, verdict) for verdict in verdicts]
  judged = [verdict for verdict in verdicts if verdict.judged]
  if not judged:
    reasons = ', '.join(sorted({v.reason for v in verdicts if v.reason}))
    raise errors.UserError(
      f'no completion of task {task_name!r} was judged'
      + (f': {reasons:.200}' if reasons else '')
    )
  numerator, denominator = sum(v.correct for v in judged), len(judged)
  report = {'task': task_name, 'rules': rules, 'num': len(items)}
  if task_name == 'sudoku':
    right = sum(item['cells_right'] for item in items)
    empty = sum(item['cells_empty'] for item in items)
    report |= {
      'cell_accuracy': right / empty if empty else 0.0,
      'solved': numerator / denominator,
    }
    if rules == 'd1':
      numerator, denominator = right, max(empty, 1)
  return report | {
    'accuracy': numerator / denominator,
    'numerator': numerator,
    'denominator': denominator,
    'unjudged': len(items) - len(judged),
    'items': items,
  }


def make_task(task_name: str, rules: str) -> task_lib.Task:
  """The verifier of a task under the given rules.

  Raises:
    errors.UserError: the d1 evaluator does not have the task.
  """
  if rules == 'strict':
    if task_name == 'code':
      return code_judge.make_task(name='code', reading='whole')
    return tasks.TASKS[task_name]()
  if task_name in ('aqua', 'openbookqa', *code_recordings.TASKS):
    raise errors.UserError(
      f'the d1 evaluator does not have task {task_name!r}: use --rules strict'
    )
  return tasks.TASKS[task_name](parity=True)


def _item(task_name: str, verdict: task_lib.Score) -> dict[str, Any]:
  score = float(verdict.correct)
  item = {'correct': verdict.correct if verdict.judged else None}
  if task_name == 'sudoku':
    right, empty = (
      int(verdict.metrics[name]) for name in ('cells_right', 'cells_empty')
    )
    score = right / empty if empty else 0.0
    item |= {'cells_right': right, 'cells_empty': empty}
  elif task_name == 'countdown':
    score = verdict.terms['solution']
  if verdict.reason:
    item['reason'] = verdict.reason
  parsed = verdict.parsed
  if isinstance(parsed, float) and not math.isfinite(parsed):
    parsed = str(parsed)  # not a JSON number
  return item | {
    'score': score if verdict.judged else None,
    'parsed': parsed,
  }


def _countdown_row(record: dict[str, Any]) -> task_lib.Row:
  truth = record.get('ground_truth')
  whole = lambda x: type(x) is int and abs(x) < 10**6
  if not (
    isinstance(truth, list)
    and len(truth) == 2
    and isinstance(truth[0], list)
    and 1 <= len(truth[0]) <= 8
    and all(map(whole, truth[0]))
    and whole(truth[1])
  ):
    raise ValueError(
      f"'ground_truth' must be [[numbers], target], got {truth!r:.60}"
    )
  return {'numbers': truth[0], 'target': truth[1]}


def _sudoku_row(record: dict[str, Any]) -> task_lib.Row:
  puzzle = re.search(
    r'(?<![0-9])[0-4]{16}(?![0-9])', code_recordings.text(record, 'question')
  )
  solution = code_recordings.text(record, 'ground_truth')
  if puzzle is None:
    raise ValueError("'question' must contain a puzzle of 16 digits 0-4")
  if not re.fullmatch(r'[1-4]{16}', solution):
    raise ValueError("'ground_truth' must be 16 digits 1-4")
  return {'puzzle': puzzle[0], 'solution': solution}


def _gsm8k_row(record: dict[str, Any]) -> task_lib.Row:
  if 'ground_truth' not in record:
    raise ValueError("'ground_truth' is missing; it must be a number or null")
  truth = record['ground_truth']
  if truth is None:  # in the published recordings, where the gold is lost
    return {'answer': ''}
  if isinstance(truth, str) and re.fullmatch(r'-?[0-9][0-9,.]*', truth):
    return {'answer': truth}
  if isinstance(truth, bool) or not isinstance(truth, int | float):
    raise ValueError(f"'ground_truth' must be a number, got {truth!r:.60}")
  if not abs(truth) < 1e15:
    raise ValueError(f"'ground_truth' is too large: {truth!r:.60}")
  return {'answer': f'{truth:.10f}'.rstrip('0').rstrip('.')}


def _math_row(record: dict[str, Any]) -> task_lib.Row:
  return {'answer': code_recordings.text(record, 'ground_truth')}


def _choice_row(record: dict[str, Any]) -> task_lib.Row:
  letters = multiple_choice.LETTERS
  answer = code_recordings.text(record, 'ground_truth')
  options = record.get('options', [''] * len(letters))
  if not isinstance(options, list) or not all(
    isinstance(option, str) for option in options
  ):
    raise ValueError(
      f"'options' must be a list of strings, got {options!r:.60}"
    )
  if len(answer) != 1 or answer not in letters[: len(options)]:
    raise ValueError(
      f"'ground_truth' must be the letter of an option, got {answer!r:.60}"
    )
  return {'answer': answer, 'options': options}


_ROWS: dict[str, Callable[[dict[str, Any]], task_lib.Row]] = {
  'countdown': _countdown_row,
  'sudoku': _sudoku_row,
  'gsm8k': _gsm8k_row,
  'math': _math_row,
  'aqua': _choice_row,
  'openbookqa': _choice_row,
}
TASKS = (*_ROWS, *code_recordings.TASKS)
