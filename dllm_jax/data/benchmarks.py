"""Readers of public data sets in natural language.

GSM8K, MATH, AQuA, OpenBookQA, HumanEval, MBPP, WikiText-2, SciTLDR, SQuAD, and
files in the formats of KodCode and of RobustAlpacaEval, each in its own folder
of the data directory. Readers parse JSON, or plain text: no code of a data set
is ever run.
"""

import ast
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from dllm_jax import errors
from dllm_jax.data import catalog, json_rows
from dllm_jax.tasks import latex, multiple_choice
from dllm_jax.tasks import task as task_lib

# The file of each split of each data set.
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
  'paraphrases': {'train': 'paraphrases/train.jsonl'},
  # The file to train on is larger than what is kept here.
  'wikitext-2': {
    'train': 'wikitext-2/valid.txt',
    'test': 'wikitext-2/test.txt',
  },
  'scitldr': {
    'train': 'scitldr/train.jsonl',
    'validation': 'scitldr/dev.jsonl',
    'test': 'scitldr/test.jsonl',
  },
  # 240 paragraphs of the development set of SQuAD 1.1.
  'squad': {'train': 'squad/xquad.en.json'},
}
MAX_FIELD_CHARS = 2**16
_MAX_EXAMPLE_CHARS = 512

# MBPP's splits, by `task_id`.
_MBPP_IDS = {
  'prompt': range(1, 11),
  'test': range(11, 511),
  'sanitized_test': range(11, 511),
  'validation': range(511, 601),
  'train': range(601, 975),
}
_TITLE = re.compile(r'^ = [^=\n]+ = $', re.MULTILINE)
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
  """The rows of one split, in file order, with ids 'FOLDER/FILE:NUMBER'.

  The file's checksum is checked if the file is in `catalog.FILES`.

  Args:
    name: a key of `SPLITS`.
    split: a split of the data set.
    data_dir: the directory of the public data sets.

  Raises:
    errors.UserError: the split does not exist; the file is missing, malformed
      or another version. The message has the number of a malformed record.
  """
  splits = SPLITS.get(name, {})
  if split not in splits:
    raise errors.UserError(
      f'data set {name!r} has no split {split!r}; splits: '
      f'{", ".join(splits) or "none"}'
    )
  file = splits[split]
  path = pathlib.Path(data_dir) / file
  if file in catalog.FILES:
    catalog.checked(catalog.FILES[file], data_dir)
  elif not path.is_file():
    raise errors.UserError(
      f'data file {path} is missing: copy it there yourself'
    )
  rows = []
  for number, record in _RECORDS.get(name, json_rows.records)(path):
    try:
      row = _READERS[name](record)
      if name == 'mbpp':
        task_id = field(record, 'task_id', int, 'an integer')
        if task_id not in _MBPP_IDS[split]:
          continue
    except ValueError as error:
      raise errors.UserError(f'{path}:{number}: {error}') from error
    if row is not None:
      rows.append({'id': f'{file}:{number}', **row})
  if not rows:
    raise errors.UserError(f'data file {path} has no rows')
  return rows


def _articles(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """(number of its first line, {'text': the article}), each with its title."""
  text = _read_text(path).replace('\r\n', '\n')
  starts = [match.start() for match in _TITLE.finditer(text)] or [0]
  for start, stop in itertools.pairwise([*starts, len(text)]):
    yield text.count('\n', 0, start) + 1, {'text': text[start:stop]}


def _questions(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """(number, question with its paragraph and title), of SQuAD's nested JSON."""
  number = 1
  try:
    data = json.loads(_read_text(path))
    if not isinstance(data, dict):
      raise ValueError('not an object')
    for article in _objects(data, 'data'):
      title = {'title': text_field(article, 'title')}
      for paragraph in _objects(article, 'paragraphs'):
        context = {'context': text_field(paragraph, 'context')}
        for question in _objects(paragraph, 'qas'):
          yield number, question | title | context
          number += 1
  except (ValueError, RecursionError) as error:
    raise errors.UserError(
      f'{path}:{number}: not in the format of SQuAD 1.1: {error}'
    ) from error


def _read_text(path: pathlib.Path) -> str:
  """The text of a whole file, of `json_rows.MAX_LIST_BYTES` at most."""
  try:
    with path.open('rb') as data:
      raw = data.read(json_rows.MAX_LIST_BYTES + 1)
    if len(raw) > json_rows.MAX_LIST_BYTES:
      raise ValueError(f'more than {json_rows.MAX_LIST_BYTES} bytes')
    return raw.decode()
  except OSError as error:
    raise errors.UserError(f'cannot read {path}: {error.strerror}') from error
  except ValueError as error:
    raise errors.UserError(f'{path}: {error}') from error


def field(record: dict[str, Any], name: str, kind: type, what: str) -> Any:
  """A field that must have the type `kind`, called `what` in the message.

  Raises:
    ValueError: it is missing, or something else.
  """
  if name not in record:
    raise ValueError(f'no {name!r}')
  value = record[name]
  if type(value) is not kind:
    raise ValueError(f'{name!r} must be {what}, got {value!r:.60}')
  return value


def text_field(record: dict[str, Any], name: str) -> str:
  """A field that must be text of at most `MAX_FIELD_CHARS` characters.

  Raises:
    ValueError: it is missing, or something else.
  """
  value = field(record, name, str, 'text')
  if len(value) > MAX_FIELD_CHARS:
    raise ValueError(f'{name!r} has more than {MAX_FIELD_CHARS} characters')
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise ValueError(f'{name!r} contains an unpaired surrogate') from error
  return value.replace('\r\n', '\n')


def list_field(record: dict[str, Any], name: str) -> list[Any]:
  """A field that must be a list; see `field`."""
  return field(record, name, list, 'a list')


def texts_field(record: dict[str, Any], name: str) -> list[str]:
  """A field that must be a list of texts; see `text_field`."""
  return [text_field({name: value}, name) for value in list_field(record, name)]


def _objects(record: dict[str, Any], name: str) -> list[dict[str, Any]]:
  """A field that must be a list of objects; see `field`."""
  values = list_field(record, name)
  for value in values:
    if not isinstance(value, dict):
      raise ValueError(f'{name!r} must contain objects, got {value!r:.60}')
  return values


def optional_text(record: dict[str, Any], name: str) -> str:
  """The text of a field; '' if it is missing or null."""
  return '' if record.get(name) is None else text_field(record, name)


def _gsm8k(record: dict[str, Any]) -> task_lib.Row:
  reasoning, marker, answer = text_field(record, 'answer').rpartition('####')
  answer = answer.strip()
  if not marker or not re.fullmatch(r'-?[0-9][0-9,]*', answer):
    raise ValueError("'answer' does not end in '#### NUMBER'")
  return {
    'question': text_field(record, 'question').strip(),
    'reasoning': _CALCULATION.sub('', reasoning).strip(),
    'answer': answer,
  }


def _math(record: dict[str, Any]) -> task_lib.Row | None:
  """A row, or None if the solution has no boxed answer.

  The boxed answer is used first: the `answer` field of the training file has
  lost text and commas.
  """
  solution = text_field(record, 'solution')
  answer = latex.last_boxed(solution) or optional_text(record, 'answer')
  if not answer.strip():
    return None
  level = re.search('[1-5]', str(record.get('level', '')))
  return {
    'problem': text_field(record, 'problem').strip(),
    'solution': solution.strip(),
    'answer': answer.strip(),
    'level': int(level[0]) if level else 0,
    'subject': optional_text(record, 'subject')
    or optional_text(record, 'type'),
  }


def _aqua(record: dict[str, Any]) -> task_lib.Row:
  return _choice(
    text_field(record, 'question'),
    _options(texts_field(record, 'options'), ')'),
    text_field(record, 'correct'),
    text_field(record, 'rationale').strip(),
  )


def _openbookqa(record: dict[str, Any]) -> task_lib.Row:
  """A row of either file: an instruction, or a question with options."""
  if 'instruction' in record:
    match = _CHOICES.fullmatch(text_field(record, 'instruction'))
    number = re.fullmatch('answer([1-4])', text_field(record, 'answer'))
    if match is None or number is None:
      raise ValueError('not a question with four answers')
    letter = multiple_choice.LETTERS[int(number[1]) - 1]
    return _choice(match[1], list(match.groups()[1:]), letter, '')
  options = _options(text_field(record, 'options').split('\n'), '. ')
  answer = text_field(record, 'answer')
  return _choice(text_field(record, 'question'), options, answer[:1], '')


def _options(texts: list[str], mark: str) -> list[str]:
  """The options without their letters, each of which has a mark behind it."""
  options = []
  for letter, text in zip(multiple_choice.LETTERS, texts, strict=False):
    start = letter + mark
    if not text.startswith(start):
      raise ValueError(
        f'option {text!r:.40} does not start with {start.strip()}'
      )
    options.append(text.removeprefix(start))
  return options


def _choice(
  question: str, options: list[str], answer: str, reasoning: str
) -> task_lib.Row:
  if answer not in multiple_choice.LETTERS[: len(options)] or not answer:
    raise ValueError(f'answer {answer!r:.20} is not an option')
  return {
    'question': question.strip(),
    'options': [option.strip() for option in options],
    'answer': answer,
    'reasoning': reasoning,
  }


def _humaneval(record: dict[str, Any]) -> task_lib.Row:
  """The problem. A test that calls a helper of the prompt gets a copy of it.

  Otherwise the program under test would define part of its own test.
  """
  prompt, test = text_field(record, 'prompt'), text_field(record, 'test')
  entry = text_field(record, 'entry_point')
  before = prompt.partition(f'def {entry}(')[0]
  helpers = re.findall(r'^def (\w+)\(', before, re.MULTILINE)
  if any(re.search(rf'\b{name}\(', test) for name in helpers):
    test = f'{before.strip()}\n\n\n{test.strip()}\n'
  return {
    'prompt': prompt,
    'entry_point': entry,
    'test': test,
    'solution': prompt + text_field(record, 'canonical_solution'),
    'setup': '',
  }


def _mbpp(record: dict[str, Any]) -> task_lib.Row:
  """The problem, with its first test as an example of the call, as in MBPP.

  The first test of `_MAX_EXAMPLE_CHARS` at most is shown, else the shortest.
  """
  text = text_field(record, 'text' if 'text' in record else 'prompt')
  tests = texts_field(record, 'test_list')
  if not tests:
    raise ValueError("'test_list' is empty")
  short = [test for test in tests if len(test) <= _MAX_EXAMPLE_CHARS]
  example = (short or [min(tests, key=len)])[0].strip()
  imports = record.get('test_imports') or []
  imports = texts_field({'test_imports': imports}, 'test_imports')
  return {
    'prompt': f'{text.strip()}\nFor example: {example}',
    'entry_point': '',
    'test': '\n'.join([*imports, *tests]),
    'solution': text_field(record, 'code'),
    'setup': optional_text(record, 'test_setup_code').strip(),
  }


def kodcode(record: dict[str, Any]) -> task_lib.Row:
  """A row from 'question' or 'prompt', 'solution', 'test' and 'test_info'.

  Raises:
    ValueError: what is wrong with the record.
  """
  info = _objects({'test_info': record.get('test_info') or [{}]}, 'test_info')
  test = text_field(record, 'test')
  try:
    ast.parse(test)  # parsed, never run
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    raise ValueError(f"'test' is not Python: {error}") from error
  return {
    'prompt': text_field(
      record, 'question' if 'question' in record else 'prompt'
    ),
    'entry_point': optional_text(info[0], 'function_name'),
    'test': test,
    'solution': text_field(record, 'solution'),
    'setup': '',
  }


def _paraphrases(record: dict[str, Any]) -> task_lib.Row:
  paraphrases = texts_field(record, 'paraphrases')
  if not paraphrases:
    raise ValueError("'paraphrases' is empty")
  return {
    'prompt': text_field(record, 'instruction').strip(),
    'paraphrases': [text.strip() for text in paraphrases],
  }


def _article(record: dict[str, Any]) -> task_lib.Row | None:
  """The article; None if it is blank."""
  text = record['text'].strip()
  return {'text': text} if text else None


def _scitldr(record: dict[str, Any]) -> task_lib.Row:
  return {
    'text': ' '.join(s.strip() for s in texts_field(record, 'source')),
    'references': _references(texts_field(record, 'target')),
  }


def _squad(record: dict[str, Any]) -> task_lib.Row:
  answers = _objects(record, 'answers')
  return {
    'title': text_field(record, 'title'),
    'context': text_field(record, 'context').strip(),
    'question': text_field(record, 'question').strip(),
    'references': _references([text_field(a, 'text') for a in answers]),
  }


def _references(texts: list[str]) -> list[str]:
  """The texts that are not blank, each once."""
  found = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
  if not found:
    raise ValueError('no text to compare with')
  return found


# Of files that are not rows of JSON.
_RECORDS = {'wikitext-2': _articles, 'squad': _questions}
_READERS: dict[str, Callable[[dict[str, Any]], task_lib.Row | None]] = {
  'gsm8k': _gsm8k,
  'math': _math,
  'aqua': _aqua,
  'openbookqa': _openbookqa,
  'humaneval': _humaneval,
  'mbpp': _mbpp,
  'kodcode': kodcode,
  'paraphrases': _paraphrases,
  'wikitext-2': _article,
  'scitldr': _scitldr,
  'squad': _squad,
}
