"""The one reader of JSON: what it refuses, in a line that names the file."""

import pytest

from dllm_jax import errors
from dllm_jax.text import json_file


def test_object_is_read(tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('{"a": [1, null, "é"], "b": {"a": 1e3}}', 'utf-8')
  assert json_file.read_object(path) == {'a': [1, None, 'é'], 'b': {'a': 1e3}}
  assert json_file.read_optional(path) == json_file.read_object(path)
  assert json_file.read_optional(tmp_path / 'b.json') == {}


@pytest.mark.parametrize(
  ('text', 'fault'),
  [
    ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice"),
    ('{"a": NaN}', 'NaN is not a JSON number'),
    ('{"a": [-Infinity]}', '-Infinity is not a JSON number'),
    ('[1]', 'is not a JSON object'),
    ('{"a": 1', 'is not valid JSON: .*is the file complete'),
    ('{"a":' * 90_000, 'is nested too deeply'),
    ('{"a": "' + 'x' * 200 + '"}', 'is larger than 200 bytes'),
  ],
)
def test_faults_are_one_line_that_names_the_file(tmp_path, text, fault):
  path = tmp_path / 'a.json'
  path.write_text(text, 'utf-8')
  size = 200 if len(text) < 1000 else 10**6
  with pytest.raises(errors.UserError, match=fault) as caught:
    json_file.read_object(path, size)
  message = str(caught.value)
  assert str(path) in message and '\n' not in message and len(message) < 400


def test_bytes_are_utf8():
  assert json_file.parse_object('{"é": 1}'.encode(), 'a:2') == {'é': 1}
  with pytest.raises(errors.UserError, match='^a:2 is not valid JSON: .*utf-8'):
    json_file.parse_object(b'\xff\xfe', 'a:2')


def test_folders_and_missing_files_are_not_files(tmp_path):
  for path in (tmp_path, tmp_path / 'none.json'):
    with pytest.raises(errors.UserError, match='is not a file'):
      json_file.read_object(path)
