"""Prompt rows: what is read, and what is refused by file and line."""

import json

import pytest

from dllm_jax import errors
from dllm_jax.run import prompt_file


def write(path, *lines):
  path = path / 'p.jsonl'
  path.write_bytes(b'\n'.join(lines))
  return path


def test_rows_in_order_with_other_keys_and_empty_lines(tmp_path):
  path = write(
    tmp_path,
    b'{"id": "a", "prompt": "x \\u00e9", "answer": 4}',
    b'',
    b'{"id": 7, "prompt_ids": [3, 0]}',
    b'  ',
  )
  assert prompt_file.read(path) == [
    ('a', f'{path}:1', 'x é', None),
    (7, f'{path}:3', None, (3, 0)),
  ]


def test_a_byte_order_mark_is_skipped(tmp_path):
  path = write(tmp_path, b'\xef\xbb\xbf{"id": "a", "prompt": "x"}')
  assert prompt_file.read(path) == [('a', f'{path}:1', 'x', None)]


GOOD = b'{"id": "a", "prompt": "x"}'


@pytest.mark.parametrize(
  'line, fault',
  [
    (b'{"id": "b", "prompt": "x"', 'is not valid JSON'),
    (b'["b", "x"]', 'is not a JSON object'),
    (b'\xff\xfe', 'is not valid JSON'),
    (b'{"id": "b", "id": "c", "prompt": "x"}', 'is there twice'),
    (b'[' * 100_000, 'nested too deep'),
    (b'{"prompt": "x"}', 'id is missing'),
    (b'{"id": null, "prompt": "x"}', 'id is missing, or neither'),
    (b'{"id": true, "prompt": "x"}', 'id is missing, or neither'),
    (b'{"id": "b"}', 'one of prompt and prompt_ids'),
    (b'{"id": "b", "prompt": "x", "prompt_ids": [1]}', 'one of prompt and'),
    (b'{"id": "b", "prompt": ["x"]}', 'prompt is no text'),
    (b'{"id": "b", "prompt": ""}', 'prompt is no text, or empty'),
    (b'{"id": "b", "prompt_ids": "12"}', 'prompt_ids is no list'),
    (b'{"id": "b", "prompt_ids": []}', 'prompt_ids is no list, or empty'),
    (b'{"id": "b", "prompt_ids": [1, -1]}', 'has -1, which is no id'),
    (b'{"id": "b", "prompt_ids": [1.0]}', 'has 1.0, which is no id'),
    (b'{"id": "b", "prompt_ids": [true]}', 'has True, which is no id'),
    (b'{"id": "b", "prompt_ids": [NaN]}', 'NaN is no JSON number'),
    (b'{"id": "a", "prompt": "y"}', "the id 'a' is that of line 1"),
  ],
)
def test_a_bad_row_is_named(tmp_path, line, fault):
  path = write(tmp_path, GOOD, b'', line)
  with pytest.raises(errors.UserError) as caught:
    prompt_file.read(path)
  message = str(caught.value)
  assert message.startswith(f'{path}:3') and fault in message
  assert '\n' not in message and len(message) < 400


def test_a_line_without_end_is_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr(prompt_file, 'MAX_LINE', 40)
  row = {'id': 'b', 'prompt': 'x' * 60}
  path = write(tmp_path, GOOD, json.dumps(row).encode())
  with pytest.raises(errors.UserError, match=':2 is longer than 40 bytes'):
    prompt_file.read(path)


@pytest.mark.parametrize(
  'name, fault', [('', 'Is a directory'), ('no', 'No such file')]
)
def test_no_file(tmp_path, name, fault):
  with pytest.raises(errors.UserError, match=fault):
    prompt_file.read(tmp_path / name)


def test_no_rows(tmp_path):
  with pytest.raises(errors.UserError, match='has no rows'):
    prompt_file.read(write(tmp_path, b'', b' '))
