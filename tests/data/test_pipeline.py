import logging as std_logging
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dllm_jax import errors
from dllm_jax.data import countdown_builder, pipeline, sudoku_builder
from dllm_jax.tasks import countdown as task_lib

TASK = task_lib.Countdown(count=2, max_number=15, max_target=20)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_each_epoch_has_each_row_once(size, batch_size, seed):
  source = [{'id': i} for i in range(size)]
  batches = pipeline.Batches(source, seed=seed, batch_size=batch_size)
  steps = -(-3 * size // batch_size)
  ids = [row['id'] for step in range(steps) for row in batches.rows(step)]
  for epoch in range(3):
    order = ids[epoch * size : (epoch + 1) * size]
    assert sorted(order) == list(range(size))


def test_epochs_and_seeds_have_different_orders():
  source = [{'id': i} for i in range(50)]
  zero, one = (
    pipeline.Batches(source, seed=seed, batch_size=50) for seed in (0, 1)
  )
  orders = [zero.rows(0), zero.rows(1), one.rows(0), one.rows(1), source]
  for i, order in enumerate(orders):
    assert order not in orders[:i]


def test_rows_are_a_pure_function_of_seed_and_step():
  source = [{'id': i} for i in range(33)]
  batches = pipeline.Batches(source, seed=7, batch_size=8)
  forward = [batches.rows(step) for step in range(20)]
  again = pipeline.Batches(source, seed=7, batch_size=8)
  backward = [again.rows(step) for step in reversed(range(20))][::-1]
  assert forward == backward
  # Another batch size cuts the same sequence elsewhere.
  halves = pipeline.Batches(source, seed=7, batch_size=4)
  assert halves.rows(6) + halves.rows(7) == forward[3]


def test_another_process_draws_the_same_rows():
  code = (
    'from dllm_jax.data import pipeline\n'
    'rows = [{"id": i} for i in range(1000)]\n'
    'b = pipeline.Batches(rows, seed=3, batch_size=5)\n'
    'print([row["id"] for row in b.rows(321)])\n'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  rows = [{'id': i} for i in range(1000)]
  batches = pipeline.Batches(rows, seed=3, batch_size=5)
  assert out.stdout.split('\n')[0] == str(
    [row['id'] for row in batches.rows(321)]
  )


def test_empty_source_bad_batch_size_and_negative_step_raise():
  with pytest.raises(ValueError, match='no rows'):
    pipeline.Batches([], seed=0, batch_size=1)
  with pytest.raises(ValueError, match='batch_size'):
    pipeline.Batches([{}], seed=0, batch_size=0)
  with pytest.raises(ValueError, match='negative'):
    pipeline.Batches([{}], seed=0, batch_size=1).rows(-1)


def test_prepare_builds_once_quietly_and_cleans_up(tmp_path, capfd, caplog):
  caplog.set_level(std_logging.INFO)
  builder = pipeline.prepare(TASK, tmp_path)
  out = capfd.readouterr()
  assert not out.out and 'Built' not in out.out
  assert 'it/s' not in out.err and 'Generating' not in out.err
  info = tmp_path / 'countdown' / countdown_builder.config(TASK).name / '1.0.0'
  stamp = (info / 'dataset_info.json').stat().st_mtime_ns
  again = pipeline.prepare(TASK, str(tmp_path))
  assert (info / 'dataset_info.json').stat().st_mtime_ns == stamp
  assert [p.name for p in tmp_path.iterdir()] == ['countdown']
  rows = list(pipeline.Source(builder, 'train'))
  assert rows == list(pipeline.Source(again, 'train'))


def test_rows_hold_the_python_values_that_tfds_decodes(tmp_path):
  builder = pipeline.prepare(TASK, tmp_path)
  source = pipeline.Source(builder, 'train')
  row = source[0]
  assert {name: type(value) for name, value in row.items()} == {
    'id': str,
    'numbers': list,
    'target': int,
    'solution': str,
    'num_solutions': int,
  }
  assert all(type(number) is int for number in row['numbers'])
  assert source[0] is row and source[-1] == source[len(source) - 1]
  with pytest.raises(IndexError):
    source[len(source)]
  assert list(pipeline.Source(builder, 'train')) == [
    {name: _plain(value) for name, value in record.items()}
    for record in builder.as_data_source('train')
  ]
  half = pipeline.Source(builder, 'train[:50%]')
  assert list(half) == list(source)[: len(half)]
  assert 0 < len(half) < len(source)


def _plain(value):
  """A value as TFDS decodes it, as a value of Python."""
  if isinstance(value, np.ndarray):
    return value.tolist()
  return value.decode() if isinstance(value, bytes) else value


def test_two_processes_can_build_the_same_data_set(tmp_path, monkeypatch):
  # The other one finishes while ours is at work.
  rename = pipeline.os.rename

  def late_rename(src, dst):
    monkeypatch.setattr(pipeline.os, 'rename', rename)
    pipeline.prepare(TASK, tmp_path)
    rename(src, dst)

  monkeypatch.setattr(pipeline.os, 'rename', late_rename)
  builder = pipeline.prepare(TASK, tmp_path)
  assert len(pipeline.Source(builder, 'train')) > 0
  assert [p.name for p in tmp_path.iterdir()] == ['countdown']


@pytest.mark.parametrize('content', [b'', b'x' * 2**17, 'validation'])
def test_damaged_data_set_is_one_line(tmp_path, content):
  builder = pipeline.prepare(TASK, tmp_path)
  (path,) = tmp_path.rglob('*train.array_record*')
  if content == 'validation':
    (other,) = tmp_path.rglob('*validation.array_record*')
    content = other.read_bytes()
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match='remove it') as error:
    list(pipeline.Source(builder, 'train'))
  assert str(path.parent) in str(error.value) and '\n' not in str(error.value)


def test_failed_build_leaves_no_files(tmp_path):
  config = sudoku_builder.Config(
    num_train=4000, num_validation=1, num_test=1, min_clues=15, max_clues=15
  )
  with pytest.raises(ValueError, match='distinct'):
    pipeline.build(sudoku_builder.Sudoku, config, tmp_path)
  assert list(tmp_path.iterdir()) == []
