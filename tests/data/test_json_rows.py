"""Files of JSON objects: both layouts, and bounds after decompression."""

import gzip
import json

import pytest

from dllm_jax import errors
from dllm_jax.data import json_rows

ROWS = [{'a': 1}, {'b': [2]}]


def _write(folder, name, text):
  path = folder / name
  data = text.encode()
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return path


@pytest.mark.parametrize('name', ['a.json', 'a.json.gz'])
def test_lines_and_lists_give_the_same_objects(tmp_path, name):
  first, second = map(json.dumps, ROWS)
  path = _write(tmp_path, name, f'{first}\n\n{second}')
  assert list(json_rows.records(path)) == [(1, ROWS[0]), (3, ROWS[1])]
  path = _write(tmp_path, name, json.dumps(ROWS))
  assert list(json_rows.records(path)) == [(1, ROWS[0]), (2, ROWS[1])]
  assert list(json_rows.records(_write(tmp_path, name, ''))) == []


@pytest.mark.parametrize('name', ['a', 'a.gz'])
@pytest.mark.parametrize(
  ('bound', 'text', 'message'),
  [
    ('MAX_LINE_BYTES', '{"a": "' + 'x' * 1000 + '"}', ':1: a line of more'),
    ('MAX_FILE_BYTES', '{"a": 1}\n' * 20, ':12: more than 100 bytes'),
    ('MAX_FILE_BYTES', '\n' * 101, ':101: more than 100 bytes'),
    ('MAX_ROWS', '{"a": 1}\n' * 101, ':101: more than 100 rows'),
    ('MAX_ROWS', json.dumps([{}] * 101), ':101: more than 100 rows'),
    ('MAX_LIST_BYTES', json.dumps([{}] * 101), ':0: a list of more than 100'),
  ],
)
def test_files_over_a_limit_are_refused(
  tmp_path, monkeypatch, name, bound, text, message
):
  path = _write(tmp_path, name, text)
  list(json_rows.records(path))
  monkeypatch.setattr(json_rows, bound, 100)
  with pytest.raises(errors.UserError, match=message):
    list(json_rows.records(path))


def test_limits_count_decompressed_bytes(tmp_path):
  path = tmp_path / 'a.gz'
  line = b' ' * (json_rows.MAX_LINE_BYTES - 1) + b'\n'
  with gzip.open(path, 'wb', compresslevel=1) as data:
    for _ in range(65):
      data.write(line)
  assert path.stat().st_size < 2**21
  with pytest.raises(errors.UserError, match=':65: more than 268435456 bytes'):
    list(json_rows.records(path))
