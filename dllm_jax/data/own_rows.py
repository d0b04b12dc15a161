"""Rows of files of the user's own, as JSON lines: the task 'rows'.

Supervised training reads {"prompt": "...", "completion": "..."} or {"messages":
[{"role": "user", "content": "..."}, {"role": "assistant", ...}]}; a task with a
verifier reads {"prompt": "...", "answer": ...}, and `completion` where there is
one. Whatever is wrong is one line with the file and the line.
"""

import dataclasses
import functools
import json
import os
import pathlib
import unicodedata
from collections.abc import Callable
from typing import Any

from dllm_jax import errors
from dllm_jax.data import benchmarks, json_rows, leaks, text_rows
from dllm_jax.tasks import gsm8k, rows
from dllm_jax.tasks import task as task_lib

ROLES = ('system', 'user', 'assistant')
canonical_json = json.JSONEncoder(
  sort_keys=True, allow_nan=False, separators=(',', ':')
).encode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
  """Where rows are read from.

  Attributes:
    train: file of the training rows.
    test: file of the test rows; '' for those that are held out.
    held_out: share of the training file's rows that are held out.
  """

  train: str
  test: str
  held_out: float


def load(task: task_lib.Task, files: Files) -> dict[str, list[task_lib.Row]]:
  """The rows of 'train', 'validation' and 'test', in the order of the files.

  A share of the training file's rows, but one at least, is held out
  (`text_rows.hold_out`) and is the validation split; also the test split where
  there is no file of its own.

  Args:
    task: what `rows.make_task` made.
    files: where they are.

  Raises:
    errors.UserError: a file is missing, empty or malformed; a row is there
      twice, or asks what a row of the test file asks.
  """
  stamps = [
    (path, os.stat(path).st_mtime_ns) if os.path.exists(path) else path
    for path in (files.train, files.test)
  ]
  return _load(task, files, tuple(stamps))


@functools.lru_cache(maxsize=1)
def _load(
  task: task_lib.Task, files: Files, stamps: tuple[Any, ...]
) -> dict[str, list[task_lib.Row]]:
  """`load`; what was read stays until the files change."""
  del stamps
  own = _read(task, pathlib.Path(files.train))
  train, held = text_rows.hold_out(own, map(_question, own), files.held_out)
  if not files.test:
    return {'train': train, 'validation': held, 'test': held}
  test = _read(task, pathlib.Path(files.test))
  same = lambda row: ' '.join(
    unicodedata.normalize('NFKC', _question(row)).casefold().split()
  )
  asked = {same(row): row['id'] for row in test}
  for row in own:
    if twin := asked.get(same(row)):
      raise errors.UserError(
        f'{row["id"]} asks what {twin} asks: remove one, for test rows must '
        'not be trained on'
      )
  return {'train': train, 'validation': held, 'test': test}


def _read(task: task_lib.Task, path: pathlib.Path) -> list[task_lib.Row]:
  """The rows of a file, with ids FILE:LINE."""
  read = _reader(task)
  found, lines = [], {}
  for number, record in json_rows.records(path):
    try:
      row = read(record)
      text = canonical_json(row)
    except ValueError as e:
      raise errors.UserError(f'{path}:{number}: {e}') from e
    first = lines.setdefault(text, number)
    if first != number:
      raise errors.UserError(
        f'{path}:{number} is the row of line {first} again: remove one'
      )
    found.append({'id': f'{path}:{number}', **row})
  if not found:
    raise errors.UserError(f'{path} has no rows; one JSON object a line')
  return found


def _question(row: task_lib.Row) -> str:
  """What a row asks: all before the first answer."""
  if 'messages' not in row:
    return leaks.question(row)
  roles = [m['role'] for m in row['messages']]
  given = row['messages'][: roles.index('assistant')]
  return '\n'.join(m['content'] for m in given)


def _reader(
  task: task_lib.Task,
) -> Callable[[dict[str, Any]], task_lib.Row]:
  if isinstance(task, rows.Conversations):
    return _conversation
  return functools.partial(_problem, task.verifier)


def _conversation(record: dict[str, Any]) -> task_lib.Row:
  """The messages of a row; of a prompt and a completion, two."""
  if ('messages' in record) == ('prompt' in record):
    raise ValueError(
      'expected "messages", or "prompt" and "completion"; set task.verifier '
      'for rows with an "answer"'
    )
  if 'prompt' in record:
    return {
      'messages': [
        {'role': 'user', 'content': _filled(record, 'prompt')},
        {'role': 'assistant', 'content': _filled(record, 'completion')},
      ]
    }
  messages = []
  for number, item in enumerate(benchmarks.list_field(record, 'messages'), 1):
    try:
      messages.append(_message(item))
    except ValueError as e:
      raise ValueError(f'message {number}: {e}') from e
  roles = [m['role'] for m in messages]
  if not roles or roles[-1] != 'assistant':
    raise ValueError("the last of 'messages' must be the assistant's")
  if 'user' not in roles[: roles.index('assistant')]:
    raise ValueError("no message of the user's precedes the assistant's")
  return {'messages': messages}


def _message(item: Any) -> dict[str, str]:
  if not isinstance(item, dict):
    raise ValueError(f'expected "role" and "content", got {item!r:.60}')
  role = benchmarks.text_field(item, 'role')
  if role not in ROLES:
    raise ValueError(f'role {role!r:.40}: expected one of {", ".join(ROLES)}')
  if others := sorted(item.keys() - {'role', 'content'}):
    raise ValueError(
      f'{others[0]!r:.40} would not be learnt: a message has "role" and '
      '"content"'
    )
  return {'role': role, 'content': _filled(item, 'content')}


def _problem(verifier: str, record: dict[str, Any]) -> task_lib.Row:
  """What the verifier's own task reads, with the record."""
  prompt = _filled(record, 'prompt')
  needed = verifier in ('exact', 'number', 'math')
  answer = record.get('answer')
  if type(answer) in (int, float):
    answer = canonical_json(answer)
  if ':' in verifier and not isinstance(answer, str):
    answer = None  # of any form; the function reads the record
  if needed or answer is not None:
    answer = _filled({**record, 'answer': answer}, 'answer')
  if verifier == 'number' and gsm8k.read_number(answer) is None:
    raise ValueError(f"'answer' must be one number, got {answer!r:.60}")
  row = {'question': prompt, 'reasoning': '', 'answer': answer or ''}
  if verifier == 'math':
    row = {'problem': prompt, 'solution': '', 'answer': answer}
  elif verifier == 'code':
    entry = benchmarks.optional_text(record, 'entry_point')
    row = benchmarks.kodcode(
      {
        'prompt': prompt,
        'solution': answer or '',
        'test': _filled(record, 'test'),
        'test_info': [{'function_name': entry}],
      }
    )
  return {
    **row,
    'completion': benchmarks.optional_text(record, 'completion'),
    'record': record,
  }


def _filled(record: dict[str, Any], name: str) -> str:
  text = benchmarks.text_field(record, name)
  if not text.strip():
    raise ValueError(f'{name!r} is empty')
  return text
