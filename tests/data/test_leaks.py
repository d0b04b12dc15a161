"""Training rows that are also in a test split."""

import pytest

from dllm_jax.data import benchmarks, leaks

TEST = ['How many are 3 + 4?', 'a b c d e f g', 'short one']


def test_texts_that_differ_in_case_and_punctuation_are_the_same():
  leaked = leaks.find(['how  MANY are 3 + 4 ?!', 'How many are 3 - 4?'], TEST)
  assert leaked.same == [(0, 0)] and leaked.overlapping == [(0, 0)]


def test_texts_that_share_an_ngram_overlap():
  train = ['x a b c y', 'x a b y', 'e f g', 'g f e', 'one short']
  leaked = leaks.find(train, TEST, words=3)
  assert leaked.same == []
  assert leaked.overlapping == [(0, 1), (2, 1)]


def test_texts_shorter_than_an_ngram_are_compared_whole():
  leaked = leaks.find(['short one', 'a short one'], TEST, words=3)
  assert leaked.overlapping == [(0, 2)] and leaked.same == [(0, 2)]


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('What’s ２ + ２?', 'what s 2 + 2'),
    (' A\n\tb ', 'a b'),
    ('x_1', 'x 1'),
    ('5-3', '5 - 3'),
    ('', ''),
  ],
)
def test_normalised_keeps_words_and_signs(text, expected):
  assert leaks.normalised(text) == expected


def test_question_includes_the_options():
  row = {'question': 'q', 'options': ['1', '2']}
  assert leaks.question(row) == 'q\n1\n2'


COUNTS = {
  'openbookqa': 'train (4957 rows) in test (500 rows): 0 the same, 8 with',
  'aqua': 'validation (254 rows) in test (254 rows): 0 the same, 1 with',
}


@pytest.mark.parametrize('name', COUNTS)
def test_counts_of_leaks_in_real_files(shared_dir, capsys, name):
  args = ['--task', name, '--data_dir', str(shared_dir / 'data')]
  assert leaks.main(args) == 0
  assert f'{name} {COUNTS[name]}' in capsys.readouterr().out


def test_every_overlapping_pair_is_printed(shared_dir, capsys):
  args = ['--task', 'openbookqa', '--data_dir', str(shared_dir / 'data')]
  assert leaks.main(args) == 0
  lines = capsys.readouterr().out.splitlines()
  pairs = [line.split(' ~ ') for line in lines if ' ~ ' in line]
  assert len(pairs) == 8
  rows = {
    row['id']: row
    for split in ('train', 'test')
    for row in benchmarks.load('openbookqa', split, shared_dir / 'data')
  }
  for pair in pairs:
    texts = (leaks.normalised(leaks.question(rows[i.strip()])) for i in pair)
    first, second = (set(leaks._ngrams(text, 13)) for text in texts)
    assert first & second


SLOW_COUNTS = {
  'scitldr': 'train (1992 rows) in test (618 rows): 2 the same, 12 with',
  'gsm8k': 'train (7473 rows) in test (1319 rows): 0 the same, 4 with',
  'math': 'train (7498 rows) in test5000 (5000 rows): 4 the same, 987 with',
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SLOW_COUNTS)
def test_counts_of_leaks_in_large_real_files(shared_dir, capsys, name):
  args = ['--task', name, '--data_dir', str(shared_dir / 'data')]
  assert leaks.main(args) == 0
  assert f'{name} {SLOW_COUNTS[name]}' in capsys.readouterr().out


def test_missing_data_file_is_one_line(tmp_path, capsys):
  assert leaks.main(['--task', 'gsm8k', '--data_dir', str(tmp_path)]) == 1
  err = capsys.readouterr().err
  assert err.startswith('leaks: data file') and err.count('\n') == 1


def test_test_splits_are_those_with_test_in_their_name():
  assert leaks.test_splits('math') == ['test', 'test5000']
  assert leaks.test_splits('mbpp') == ['test', 'sanitized_test']
  assert set(leaks.test_splits('kodcode')) == set()
  assert 'humaneval' in benchmarks.SPLITS
