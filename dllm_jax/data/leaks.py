"""Finds training rows that are also in a test split.

  python -m dllm_jax.data.leaks --task gsm8k --data_dir ~/data

Texts are compared in two ways: they are the same, apart from case, spaces and
punctuation; or they share an n-gram of words. The second finds edited copies,
but also common phrases.
"""

import argparse
import pathlib
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dllm_jax import errors
from dllm_jax.data import benchmarks
from dllm_jax.tasks import task as task_lib

WORDS = 13  # of an n-gram


class Leaks(NamedTuple):
  """Pairs of indices (train row, test row).

  Attributes:
    same: rows with the same text.
    overlapping: rows that share an n-gram, including those in `same`; each
      training row is paired with the first such test row.
  """

  same: list[tuple[int, int]]
  overlapping: list[tuple[int, int]]


def normalised(text: str) -> str:
  """Lower-case words and arithmetic signs, separated by single spaces."""
  text = unicodedata.normalize('NFKC', text).lower()
  return ' '.join(re.findall(r'[^\W_]+|[-+*/^=<>]', text))


def question(row: task_lib.Row) -> str:
  """The question of a row, with its options; of an article, all of it.

  '' where the row has none in words, as those of Countdown and Sudoku.
  """
  names = ('question', 'problem', 'prompt', 'text')
  text = next((row[k] for k in names if k in row), '')
  return '\n'.join([text, *row.get('options', [])])


def find(
  train: Sequence[str], test: Sequence[str], *, words: int = WORDS
) -> Leaks:
  """Finds training texts that equal or overlap a test text.

  Args:
    train: questions of training rows.
    test: questions of test rows.
    words: length of an n-gram; shorter texts are compared as a whole.
  """
  by_text: dict[str, int] = {}
  by_ngram: dict[str, int] = {}
  for i, text in enumerate(map(normalised, test)):
    by_text.setdefault(text, i)
    for ngram in _ngrams(text, words):
      by_ngram.setdefault(ngram, i)
  same, overlapping = [], []
  for i, text in enumerate(map(normalised, train)):
    if text in by_text:
      same.append((i, by_text[text]))
    shared = (by_ngram[n] for n in _ngrams(text, words) if n in by_ngram)
    j = next(shared, None)
    if j is not None:
      overlapping.append((i, j))
  return Leaks(same, overlapping)


def _ngrams(text: str, words: int) -> Iterator[str]:
  parts = text.split()
  for start in range(max(len(parts) - words, 0) + 1):
    yield ' '.join(parts[start : start + words])


def test_splits(name: str) -> list[str]:
  """The splits of a data set on which results are reported."""
  return [split for split in benchmarks.SPLITS[name] if 'test' in split]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code."""
  names = [
    name
    for name, splits in benchmarks.SPLITS.items()
    if test_splits(name) and len(splits) > len(test_splits(name))
  ]
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--task', choices=names, required=True)
  parser.add_argument('--data_dir', type=pathlib.Path, required=True)
  parser.add_argument('--words', type=int, default=WORDS)
  args = parser.parse_args(argv)
  if args.words < 1:
    parser.error('--words must be at least 1')
  try:
    rows = {
      split: benchmarks.load(args.task, split, args.data_dir)
      for split in benchmarks.SPLITS[args.task]
    }
  except errors.UserError as error:
    print(f'leaks: {error}', file=sys.stderr)
    return 1
  _report(args.task, rows, args.words)
  return 0


def _report(
  task: str, rows: Mapping[str, Sequence[task_lib.Row]], words: int
) -> None:
  """Prints a line for each pair of splits, and one for each pair of rows."""
  tests = test_splits(task)
  for split in (name for name in rows if name not in tests):
    for test in tests:
      train_rows, test_rows = rows[split], rows[test]
      leaks = find(
        [question(row) for row in train_rows],
        [question(row) for row in test_rows],
        words=words,
      )
      print(
        f'{task} {split} ({len(train_rows)} rows) in {test} '
        f'({len(test_rows)} rows): {len(leaks.same)} the same, '
        f'{len(leaks.overlapping)} with {words} words in a row'
      )
      for sign, pairs in (('=', leaks.same), ('~', leaks.overlapping)):
        for i, j in pairs:
          print(f'  {train_rows[i]["id"]} {sign} {test_rows[j]["id"]}')


if __name__ == '__main__':
  sys.exit(main())
