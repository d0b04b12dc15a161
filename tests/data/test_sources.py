"""The rows of every task's splits, and their digests."""

import hashlib
import json
import types

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


def test_missing_validation_split_is_held_out_of_train(data, tmp_path):
  task = tasks.TASKS['gsm8k']()
  get = lambda split: sources.rows(
    task, split, data_dir=data, cache_dir=tmp_path / 'cache'
  )
  train, validation, test = get('train'), get('validation'), get('test')
  assert len(train) + len(validation) == 100 and 1 <= len(validation) <= 15
  assert [row['answer'] for row in test] == ['1000', '1001']
  ids = {row['id'] for part in (train, validation) for row in part}
  assert ids == {f'gsm8k/train.jsonl:{i}' for i in range(1, 101)}
  splits = {text_rows.split_of(row, ['validation']) for row in validation}
  assert splits == {'validation'}
  loaded = {r['id']: r for r in benchmarks.load('gsm8k', 'train', data)}
  assert all(loaded[row['id']] == row for row in train)
  assert train[5] is train[5]  # read once


def test_missing_test_split_is_held_out_of_train(data, tmp_path):
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


def test_changed_file_gives_new_rows(data, tmp_path):
  task = tasks.TASKS['gsm8k']()
  cache = tmp_path / 'cache'
  before = sources.rows(task, 'test', data_dir=data, cache_dir=cache)
  path = data / 'gsm8k' / 'test.jsonl'
  path.write_text(
    path.read_text() + _lines([{'question': 'q', 'answer': '#### 7'}])
  )
  after = sources.rows(task, 'test', data_dir=data, cache_dir=cache)
  assert (len(before), len(after)) == (2, 3)


def test_digests_are_equal_for_rows_that_are_built_again(data, tmp_path):
  """TFDS does not promise the same bytes for the same rows."""
  task = tasks.TASKS['gsm8k']()
  get = lambda cache: sources.digests(
    task, data_dir=data, cache_dir=tmp_path / cache
  )
  before = get('one')
  assert before == get('two')
  assert set(before) == {'train', 'validation', 'test'}
  for value in before.values():
    assert len(value) == 64
  path = data / 'gsm8k' / 'test.jsonl'
  path.write_text(path.read_text().replace('1001', '1002'))
  after = get('one')
  assert {split for split in before if after[split] != before[split]} == {
    'test'
  }


def test_digests_of_a_generated_task_are_of_the_rows_read(shared_dir, tmp_path):
  task = countdown.Countdown(count=3, max_number=9, max_target=20)
  get = lambda cache, data_dir='': sources.digests(
    task, data_dir=data_dir, cache_dir=tmp_path / cache
  )
  built = get('one')
  assert built == get('two')
  with_public_test = get('one', shared_dir / 'data')
  assert with_public_test['train'] == built['train']
  assert with_public_test['test'] != built['test']


def test_digest_by_hand():
  rows = [{'b': [1, 2], 'a': 'é'}, {'a': ''}]
  text = b'{"a":"\\u00e9","b":[1,2]}\n{"a":""}\n'
  expected = hashlib.sha256(text).hexdigest()
  assert sources.digest(rows) == expected
  assert sources.digest([{'a': 'é', 'b': [1, 2]}, {'a': ''}]) == expected


@pytest.mark.parametrize(
  'rows',
  [
    [{'a': 1}],
    [{'a': 2}, {'a': 1}],
    [{'a': 1}, {'a': 3}],
    [{'a': 1}, {'a': 2}, {'a': 2}],
    [{'a': 1}, {'b': 2}],
    [{'a': 1}, {'a': '2'}],
    [{'a': 1}, {'a': [2]}],
    [{'a': 1}, {'a': 2, 'b': ''}],
  ],
)
def test_digest_differs_for_other_rows_order_fields_and_types(rows):
  assert sources.digest(rows) != sources.digest([{'a': 1}, {'a': 2}])


def test_lists_of_texts_survive_the_cache(shared_dir, tmp_path):
  task = tasks.TASKS['openbookqa']()
  rows = sources.rows(
    task, 'test', data_dir=shared_dir / 'data', cache_dir=tmp_path
  )
  loaded = benchmarks.load('openbookqa', 'test', shared_dir / 'data')
  assert list(rows) == loaded and isinstance(rows[0]['options'][0], str)


def test_mbpp_splits_leave_out_leaks(shared_dir):
  splits = text_rows.splits('mbpp', shared_dir / 'data')
  sizes = {split: len(rows) for split, rows in splits.items()}
  assert sizes == {
    'prompt': 10,
    'train': 373,
    'validation': 89,
    'test': 500,
    'sanitized_test': 257,
  }
  assert max(len(row['prompt']) for row in splits['test']) < 1000


@pytest.mark.slow
def test_math_splits_leave_out_leaks(shared_dir, tmp_path):
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


def test_generated_task_takes_the_public_test_file_with_data_dir(
  shared_dir, tmp_path
):
  task = countdown.Countdown(count=3, max_number=9, max_target=20)
  get = lambda split, data_dir: sources.rows(
    task, split, data_dir=data_dir, cache_dir=tmp_path
  )
  assert len(get('train', '')) > len(get('test', '')) > 0
  public = get('test', shared_dir / 'data')
  assert public[0]['id'] == 'countdown_cd3_test:1'
  with pytest.raises(errors.UserError, match='is missing: set data_dir'):
    get('test', tmp_path)


def test_missing_splits_files_and_data_sets_are_refused(data, tmp_path):
  methods = ('words', 'prompt', 'demonstration', 'gold', 'score')
  methods = dict.fromkeys((*methods, 'reasoning_has_gold'), repr)
  get = lambda name, split, where: sources.rows(
    types.SimpleNamespace(name=name, **methods),
    split,
    data_dir=where,
    cache_dir=tmp_path / 'cache',
  )
  with pytest.raises(errors.UserError, match='set data_dir'):
    get('gsm8k', 'train', '')
  with pytest.raises(errors.UserError, match='one of test, train, validation'):
    get('gsm8k', 'dev', data)
  with pytest.raises(errors.UserError, match="'aqua' has no split 'train'"):
    get('aqua', 'train', data)
  with pytest.raises(errors.UserError, match="no data set for task 'chess'"):
    get('chess', 'train', data)
  with pytest.raises(errors.UserError, match='cannot read data file'):
    get('kodcode', 'train', data)
  assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize(
  ('num', 'num_test'), [(2, 1), (4, 1), (10, 2), (33, 7)]
)
def test_a_fifth_of_the_paraphrases_is_held_out(tmp_path, num, num_test):
  path = tmp_path / 'paraphrases' / 'train.jsonl'
  path.parent.mkdir()
  rows = [{'instruction': f'ask {i}', 'paraphrases': ['b']} for i in range(num)]
  path.write_text('\n'.join(map(json.dumps, rows)))
  got = text_rows.splits('paraphrases', tmp_path)
  assert got['test'] == got['validation'] and len(got['test']) == num_test
  ids = [row['id'] for row in got['train'] + got['test']]
  assert len(set(ids)) == len(ids) == num
  # The order of the lines decides nothing.
  path.write_text('\n'.join(map(json.dumps, rows[::-1])))
  again = text_rows.splits('paraphrases', tmp_path)
  prompts = lambda of: {row['prompt'] for row in of['test']}
  assert prompts(again) == prompts(got)


def test_no_article_of_squad_is_in_two_splits(shared_dir):
  got = text_rows.splits('squad', shared_dir / 'data')
  titles = {name: {row['title'] for row in rows} for name, rows in got.items()}
  assert sum(map(len, got.values())) == 1190
  assert sum(map(len, titles.values())) == len(set.union(*titles.values()))
  assert 0.2 <= len(got['test']) / 1190 < 0.25
  assert 0.08 <= len(got['validation']) / 1190 < 0.13


def test_one_row_of_paraphrases_is_too_few(tmp_path):
  path = tmp_path / 'paraphrases' / 'train.jsonl'
  path.parent.mkdir()
  path.write_text('{"instruction": "a", "paraphrases": ["b"]}')
  with pytest.raises(errors.UserError, match='train.jsonl:1 is the only row'):
    text_rows.splits('paraphrases', tmp_path)
