"""Files of rows: whole under their name, or in part under another."""

import os
import resource
import signal

import pytest

from dllm_jax import errors
from dllm_jax.run import row_file


def test_a_file_is_named_when_it_is_whole(tmp_path):
  path = tmp_path / 'deep' / 'x.jsonl'
  with row_file.new(path) as write:
    write({'id': 'a', 'logp': [0.1]})
    partial = path.with_name('x.jsonl.partial')
    assert partial.read_text() == '{"id": "a", "logp": [0.1]}\n'
    assert not path.exists()
    write({'id': 'é'})
  assert os.listdir(path.parent) == ['x.jsonl']
  assert path.read_text().splitlines()[1] == '{"id": "\\u00e9"}'


def test_what_stops_leaves_the_rows_so_far(tmp_path):
  path = tmp_path / 'x.jsonl'
  with pytest.raises(KeyboardInterrupt), row_file.new(path) as write:
    write({'id': 1})
    raise KeyboardInterrupt
  assert os.listdir(tmp_path) == ['x.jsonl.partial']
  with pytest.raises(errors.UserError, match='was stopped; move it away'):
    with row_file.new(path):
      pass
  assert (tmp_path / 'x.jsonl.partial').read_text() == '{"id": 1}\n'


def test_what_stops_before_the_first_row_leaves_nothing(tmp_path):
  with pytest.raises(ZeroDivisionError), row_file.new(tmp_path / 'x.jsonl'):
    raise ZeroDivisionError
  assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten(tmp_path):
  path = tmp_path / 'x.jsonl'
  with row_file.new(path):
    with pytest.raises(errors.UserError, match='is being written by another'):
      with row_file.new(path):
        pass
  path.write_text('kept')
  with pytest.raises(errors.UserError, match='already exists'):
    with row_file.new(path):
      pass
  assert path.read_text() == 'kept'


def test_a_disk_that_refuses(tmp_path):
  (tmp_path / 'file').touch()
  for path in (tmp_path / 'file' / 'x', '/proc/x.jsonl'):
    with pytest.raises(errors.UserError, match='cannot write to'):
      with row_file.new(tmp_path / path):
        pass


def test_no_half_line_stays_where_the_disk_ends(tmp_path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  try:
    with pytest.raises(errors.UserError, match='the rows so far are in x.part'):
      with row_file.new(tmp_path / 'x') as write:
        write({'id': 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (15, limits[1]))
        write({'id': 2})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
  assert (tmp_path / 'x.partial').read_text() == '{"id": 1}\n'


def test_a_full_disk(tmp_path):
  (tmp_path / 'x.partial').symlink_to('/dev/full')
  with pytest.raises(errors.UserError, match='No space left on device'):
    with row_file.new(tmp_path / 'x') as write:
      write({'id': 1})
  assert not (tmp_path / 'x').exists()
