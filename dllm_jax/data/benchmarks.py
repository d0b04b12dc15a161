"""Public data sets in plain English, read into the rows that tasks take.

GSM8K, MATH, AQuA, OpenBookQA, HumanEval, MBPP, and files in the way of KodCode,
under one folder each of the data directory. Readers are pure JSON: no script
of a data set is ever run.
"""

import ast
import pathlib
import re
from collections.abc import Callable
from typing import Any

from dllm_jax import errors
from dllm_jax.data import catalog, json_rows
from dllm_jax.tasks import latex, multiple_choice
from dllm_jax.tasks import task as task_lib

# data set: split: file
SPLITS = {
  'gsm8k': {'train': 'gsm8k/train.jsonl', 'test': 'gsm8k/test.jsonl'},
  'math': {
    'train': 'math/math_train7500.jsonl.gz',
    'test': 'math/math500_test.jsonl',
    'test5000': 'math/math_test5000.jsonl',
  },
  'aqua': {'validation': 'aqua/dev.json', 'test': 'aqua/test.json'},
  'openbookqa': {
    'train': 'openbookqa/llm_adapters_train.json',
    'test': 'openbookqa/test.jsonl',
  },
  'humaneval': {'test': 'humaneval/HumanEval.jsonl.gz'},
  'mbpp': {
    'prompt': 'mbpp/mbpp.jsonl',
    'train': 'mbpp/mbpp.jsonl',
    'validation': 'mbpp/mbpp.jsonl',
    'test': 'mbpp/mbpp.jsonl',
    'sanitized_test': 'mbpp/sanitized-mbpp.json',
  },
  'kodcode': {'train': 'kodcode/train.jsonl'},
}
MAX_FIELD_CHARS = 2**16
_MAX_EXAMPLE_CHARS = 512

# By the numbers that MBPP's paper gives its splits.
_MBPP_IDS = {
  'prompt': range(1, 11),
  'test': range(11, 511),
  'sanitized_test': range(11, 511),
  'validation': range(511, 601),
  'train': range(601, 975),
}
_CALCULATION = re.compile(r'<<[^<>]*>>')
_CHOICES = re.compile(
  r'Please choose the correct answer to the question: (.*?)\s*\n\n'
  r'Answer1: (.*) Answer2: (.*) Answer3: (.*) Answer4: (.*)\n\n'
  r'Answer format: .*',
  re.DOTALL,
)


def load(
  name: str, split: str, data_dir: str | pathlib.Path
) -> list[task_lib.Row]:
  """The rows of one split, in file order, with ids 'folder/file:number'.

  The file is checked against the manifest, if it has a record of it.

  Raises:
    errors.UserError: there is no such split; the file is missing, another
      version, or malformed, with its record's number.
  """
  splits = SPLITS.get(name, {})
  if split not in splits:
    raise errors.UserError(
      f'data set {name!r} has no split {split!r}; it has '
      f'{", ".join(splits) or "none"}'
    )
  file = splits[split]
  path = pathlib.Path(data_dir) / file
  if file in catalog.FILES:
    catalog.checked(catalog.FILES[file], data_dir)
  elif not path.is_file():
    raise errors.UserError(f'the data file {path} is missing: put it there')
  rows = []
  for number, record in json_rows.records(path):
    try:
      row = _READERS[name](record)
      if name == 'mbpp' and _whole(record, 'task_id') not in _MBPP_IDS[split]:
        continue
    except ValueError as error:
      raise errors.UserError(f'{path}:{number}: {error}') from error
    if row is not None:
      rows.append({'id': f'{file}:{number}', **row})
  if not rows:
    raise errors.UserError(f'the data file {path} holds no rows')
  return rows


def _field(record: dict[str, Any], name: str, kind: type, what: str) -> Any:
  if name not in record:
    raise ValueError(f'no {name!r}')
  value = record[name]
  if type(value) is not kind:
    raise ValueError(f'{name!r} must be {what}, found {value!r:.60}')
  return value


def _text(record: dict[str, Any], name: str) -> str:
  value = _field(record, name, str, 'text')
  if len(value) > MAX_FIELD_CHARS:
    raise ValueError(f'{name!r} has more than {MAX_FIELD_CHARS} characters')
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise ValueError(f'{name!r} holds half a surrogate pair') from error
  return value.replace('\r\n', '\n')


def _whole(record: dict[str, Any], name: str) -> int:
  return _field(record, name, int, 'a whole number')


def _list(record: dict[str, Any], name: str) -> list[Any]:
  return _field(record, name, list, 'a list')


def _texts(record: dict[str, Any], name: str) -> list[str]:
  return [_text({name: value}, name) for value in _list(record, name)]


def _optional(record: dict[str, Any], name: str) -> str:
  """A text; '' where it is missing or null."""
  return '' if record.get(name) is None else _text(record, name)


def _gsm8k(record: dict[str, Any]) -> task_lib.Row:
  reasoning, marker, answer = _text(record, 'answer').rpartition('####')
  answer = answer.strip()
  if not marker or not re.fullmatch(r'-?[0-9][0-9,]*', answer):
    raise ValueError("'answer' does not end in '#### NUMBER'")
  return {
    'question': _text(record, 'question').strip(),
    'reasoning': _CALCULATION.sub('', reasoning).strip(),
    'answer': answer,
  }


def _math(record: dict[str, Any]) -> task_lib.Row | None:
  """A row; None where the solution boxes nothing.

  The answer is the solution's own: `answer` of the training file, where it
  differs, was cleaned of text and commas.
  """
  solution = _text(record, 'solution')
  answer = latex.last_boxed(solution) or _optional(record, 'answer')
  if not answer.strip():
    return None
  level = re.search('[1-5]', str(record.get('level', '')))
  return {
    'problem': _text(record, 'problem').strip(),
    'solution': solution.strip(),
    'answer': answer.strip(),
    'level': int(level[0]) if level else 0,
    'subject': _optional(record, 'subject') or _optional(record, 'type'),
  }


def _aqua(record: dict[str, Any]) -> task_lib.Row:
  options = []
  letters = multiple_choice.LETTERS
  for letter, option in zip(letters, _texts(record, 'options'), strict=False):
    if not option.startswith(letter + ')'):
      raise ValueError(f'option {option!r:.40} does not start with {letter})')
    options.append(option[2:].strip())
  return _choice(
    _text(record, 'question'),
    options,
    _text(record, 'correct'),
    _text(record, 'rationale').strip(),
  )


def _openbookqa(record: dict[str, Any]) -> task_lib.Row:
  """Either file: one question in an instruction, or lettered options."""
  if 'instruction' in record:
    match = _CHOICES.fullmatch(_text(record, 'instruction'))
    number = re.fullmatch('answer([1-4])', _text(record, 'answer'))
    if match is None or number is None:
      raise ValueError('not a question with four answers')
    letter = multiple_choice.LETTERS[int(number[1]) - 1]
    return _choice(match[1], list(match.groups()[1:]), letter, '')
  options = []
  lines = _text(record, 'options').split('\n')
  for letter, option in zip(multiple_choice.LETTERS, lines, strict=False):
    if not option.startswith(letter + '. '):
      raise ValueError(f'option {option!r:.40} does not start with {letter}.')
    options.append(option[3:].strip())
  answer = _text(record, 'answer')
  return _choice(_text(record, 'question'), options, answer[:1], '')


def _choice(
  question: str, options: list[str], answer: str, reasoning: str
) -> task_lib.Row:
  if answer not in multiple_choice.LETTERS[: len(options)] or not answer:
    raise ValueError(f'answer {answer!r:.20} is no option')
  return {
    'question': question.strip(),
    'options': [option.strip() for option in options],
    'answer': answer,
    'reasoning': reasoning,
  }


def _humaneval(record: dict[str, Any]) -> task_lib.Row:
  """The problem; a test that calls a helper of the prompt brings it along.

  Else the program would define what it is tested by.
  """
  prompt, test = _text(record, 'prompt'), _text(record, 'test')
  entry = _text(record, 'entry_point')
  before = prompt.partition(f'def {entry}(')[0]
  helpers = re.findall(r'^def (\w+)\(', before, re.MULTILINE)
  if any(re.search(rf'\b{name}\(', test) for name in helpers):
    test = f'{before.strip()}\n\n\n{test.strip()}\n'
  return {
    'prompt': prompt,
    'entry_point': entry,
    'test': test,
    'solution': prompt + _text(record, 'canonical_solution'),
    'setup': '',
  }


def _mbpp(record: dict[str, Any]) -> task_lib.Row:
  """The task and, as MBPP does, its first test as an example of the call.

  One test is longer than many programs; a shorter one stands for it.
  """
  text = _text(record, 'text' if 'text' in record else 'prompt')
  tests = _texts(record, 'test_list')
  if not tests:
    raise ValueError("'test_list' is empty")
  short = [test for test in tests if len(test) <= _MAX_EXAMPLE_CHARS]
  example = (short or [min(tests, key=len)])[0].strip()
  imports = record.get('test_imports') or []
  imports = _texts({'test_imports': imports}, 'test_imports')
  return {
    'prompt': f'{text.strip()}\nFor example: {example}',
    'entry_point': '',
    'test': '\n'.join([*imports, *tests]),
    'solution': _text(record, 'code'),
    'setup': _optional(record, 'test_setup_code').strip(),
  }


def _kodcode(record: dict[str, Any]) -> task_lib.Row:
  """{'question' or 'prompt', 'solution', 'test'}, 'test_info' if there."""
  info = _list({'test_info': record.get('test_info') or [{}]}, 'test_info')
  if not isinstance(info[0], dict):
    raise ValueError(f"'test_info' must hold objects, found {info[0]!r:.60}")
  test = _text(record, 'test')
  try:
    ast.parse(test)  # read, never run
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    raise ValueError(f"'test' is not Python: {error}") from error
  return {
    'prompt': _text(record, 'question' if 'question' in record else 'prompt'),
    'entry_point': _optional(info[0], 'function_name'),
    'test': test,
    'solution': _text(record, 'solution'),
    'setup': '',
  }


_READERS: dict[str, Callable[[dict[str, Any]], task_lib.Row | None]] = {
  'gsm8k': _gsm8k,
  'math': _math,
  'aqua': _aqua,
  'openbookqa': _openbookqa,
  'humaneval': _humaneval,
  'mbpp': _mbpp,
  'kodcode': _kodcode,
}
