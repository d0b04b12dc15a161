"""Rows of every task's splits, without leaks and in one place."""

import json

import pytest

from dllm_jax import errors, tasks
from dllm_jax.data import benchmarks, catalog, sources, text_rows
from dllm_jax.tasks import countdown


def _lines(rows):
  return ''.join(json.dumps(row) + '\n' for row in rows)


@pytest.fixture
def data(tmp_path, monkeypatch):
  """A small GSM8K, one of whose training rows is a test row."""
  monkeypatch.setattr(catalog, 'FILES', {})
  folder = tmp_path / 'data' / 'gsm8k'
  folder.mkdir(parents=True)
  row = lambda i: {'question': f'What is {i} + é?', 'answer': f'so\n#### {i}'}
  train = [row(i) for i in range(100)]
  train.append({'question': 'WHAT is 1000 + é', 'answer': '#### 1'})
  (folder / 'train.jsonl').write_text(_lines(train))
  (folder / 'test.jsonl').write_text(_lines([row(1000), row(1001)]))
  return folder.parent


def test_splits_of_a_small_data_set(data, tmp_path):
  task = tasks.TASKS['gsm8k']()
  get = lambda split: sources.rows(
    task, split, data_dir=data, cache_dir=tmp_path / 'cache'
  )
  train, validation, test = get('train'), get('validation'), get('test')
  assert len(train) + len(validation) == 100 and 1 <= len(validation) <= 15
  assert [row['answer'] for row in test] == ['1000', '1001']
  ids = {row['id'] for part in (train, validation) for row in part}
  assert ids == {f'gsm8k/train.jsonl:{i}' for i in range(1, 101)}
  found = {text_rows.split_of(row, ['validation']) for row in validation}
  assert found == {'validation'}
  loaded = {r['id']: r for r in benchmarks.load('gsm8k', 'train', data)}
  assert all(loaded[row['id']] == row for row in train)
  assert train[5] is train[5]  # read once


def test_test_rows_of_a_data_set_that_has_none(data, tmp_path):
  (data / 'kodcode').mkdir()
  (data / 'kodcode' / 'train.jsonl').write_text(
    _lines(
      {'question': f'Add {i}.', 'solution': 'f = 1', 'test': f'assert f == {i}'}
      for i in range(200)
    )
  )
  task = tasks.TASKS['kodcode']()
  rows = {
    split: sources.rows(task, split, data_dir=data, cache_dir=tmp_path)
    for split in ('train', 'validation', 'test')
  }
  assert sum(map(len, rows.values())) == 200
  assert all(1 <= len(rows[name]) <= 30 for name in ('validation', 'test'))
  assert len({row['id'] for part in rows.values() for row in part}) == 200


def test_other_files_are_another_data_set(data, tmp_path):
  task = tasks.TASKS['gsm8k']()
  cache = tmp_path / 'cache'
  before = sources.rows(task, 'test', data_dir=data, cache_dir=cache)
  path = data / 'gsm8k' / 'test.jsonl'
  path.write_text(
    path.read_text() + _lines([{'question': 'q', 'answer': '#### 7'}])
  )
  after = sources.rows(task, 'test', data_dir=data, cache_dir=cache)
  assert (len(before), len(after)) == (2, 3)


def test_digests_are_of_what_is_read(data, tmp_path):
  """The same for a cache that was built anew, others for other data."""
  task = tasks.TASKS['gsm8k']()
  get = lambda cache: sources.digests(
    task, data_dir=data, cache_dir=tmp_path / cache
  )
  before = get('one')
  assert before == get('two') and len(before) == 3
  assert {len(digest) for digest in before.values()} == {64}
  path = data / 'gsm8k' / 'test.jsonl'
  path.write_text(path.read_text().replace('1001', '1002'))
  after = get('one')
  (test,) = (name for name in before if '-test.' in name)
  changed = {k for k in before.keys() | after.keys()} - {
    k for k in before if after.get(k) == before[k]
  }
  assert changed == {test}


def test_lists_of_texts_come_back(shared_dir, tmp_path):
  task = tasks.TASKS['openbookqa']()
  rows = sources.rows(
    task, 'test', data_dir=shared_dir / 'data', cache_dir=tmp_path
  )
  loaded = benchmarks.load('openbookqa', 'test', shared_dir / 'data')
  assert list(rows) == loaded and isinstance(rows[0]['options'][0], str)


def test_real_mbpp_has_no_leak(shared_dir):
  found = text_rows.splits('mbpp', shared_dir / 'data')
  sizes = {split: len(rows) for split, rows in found.items()}
  assert sizes == {
    'prompt': 10,
    'train': 373,
    'validation': 89,
    'test': 500,
    'sanitized_test': 257,
  }
  assert max(len(row['prompt']) for row in found['test']) < 1000


@pytest.mark.slow
def test_real_math_has_no_leak(shared_dir, tmp_path):
  task = tasks.TASKS['math']()
  sizes = {
    split: len(
      sources.rows(
        task, split, data_dir=shared_dir / 'data', cache_dir=tmp_path
      )
    )
    for split in ('train', 'validation', 'test')
  }
  assert sizes == {'train': 7101, 'validation': 393, 'test': 500}


def test_generated_tasks(shared_dir, tmp_path):
  task = countdown.Countdown(count=3, max_number=9, max_target=20)
  get = lambda split, data_dir: sources.rows(
    task, split, data_dir=data_dir, cache_dir=tmp_path
  )
  assert len(get('train', '')) > len(get('test', '')) > 0
  public = get('test', shared_dir / 'data')
  assert public[0]['id'] == 'countdown_cd3_test:1'
  with pytest.raises(errors.UserError, match='is not at'):
    get('test', tmp_path)


def test_what_is_not_there(data, tmp_path):
  get = lambda name, split, where: sources.text_split(
    name, split, data_dir=where, cache_dir=tmp_path / 'cache'
  )
  with pytest.raises(errors.UserError, match='set data_dir'):
    get('gsm8k', 'train', '')
  with pytest.raises(errors.UserError, match='it has test, train, validation'):
    get('gsm8k', 'dev', data)
  with pytest.raises(errors.UserError, match="'aqua' has no split 'train'"):
    get('aqua', 'train', data)
  with pytest.raises(errors.UserError, match='no data set'):
    get('chess', 'train', data)
  with pytest.raises(errors.UserError, match='cannot be read'):
    get('kodcode', 'train', data)
  assert not (tmp_path / 'cache').exists()
