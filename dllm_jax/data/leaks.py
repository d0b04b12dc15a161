"""Training rows that a test split holds too.

  python -m dllm_jax.data.leaks --task gsm8k --data_dir ~/data --out leaks.jsonl

Two looks: the same text, apart from case, spaces and punctuation; and the same
run of words, which finds edited copies, and stock phrases with them.
"""

import argparse
import contextlib
import json
import pathlib
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TextIO

from dllm_jax import errors
from dllm_jax.data import benchmarks
from dllm_jax.tasks import task as task_lib

WORDS = 13  # of a run


class Leaks(NamedTuple):
  """Pairs of indices (train row, test row).

  Attributes:
    same: rows of the same text.
    overlapping: rows that share a run of words, `same` ones included; each
      training row with the first such test row.
  """

  same: list[tuple[int, int]]
  overlapping: list[tuple[int, int]]


def normalised(text: str) -> str:
  """Lower-case words with single spaces; punctuation is gone, signs stay."""
  text = unicodedata.normalize('NFKC', text).lower()
  return ' '.join(re.findall(r'[^\W_]+|[-+*/^=<>]', text))


def question(row: task_lib.Row) -> str:
  """What the model is asked."""
  text = next(row[k] for k in ('question', 'problem', 'prompt') if k in row)
  return '\n'.join([text, *row.get('options', [])])


def find(
  train: Sequence[str], test: Sequence[str], *, words: int = WORDS
) -> Leaks:
  """Training texts that are, or overlap, test texts.

  Args:
    train: questions.
    test: questions.
    words: length of a run; texts with fewer words are compared as a whole.
  """
  exact: dict[str, int] = {}
  runs: dict[str, int] = {}
  for i, text in enumerate(map(normalised, test)):
    exact.setdefault(text, i)
    for run in _runs(text, words):
      runs.setdefault(run, i)
  same, overlapping = [], []
  for i, text in enumerate(map(normalised, train)):
    if text in exact:
      same.append((i, exact[text]))
    hit = next((runs[r] for r in _runs(text, words) if r in runs), None)
    if hit is not None:
      overlapping.append((i, hit))
  return Leaks(same, overlapping)


def _runs(text: str, words: int) -> Iterator[str]:
  parts = text.split()
  for start in range(max(len(parts) - words, 0) + 1):
    yield ' '.join(parts[start : start + words])


def test_splits(name: str) -> list[str]:
  """The splits of a data set that results are reported on."""
  return [split for split in benchmarks.SPLITS[name] if 'test' in split]


def main(argv: Sequence[str] | None = None) -> int:
  """The command: a line for each pair of splits; all pairs go to --out."""
  names = [
    name
    for name, splits in benchmarks.SPLITS.items()
    if test_splits(name) and len(splits) > len(test_splits(name))
  ]
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--task', choices=names, required=True)
  parser.add_argument('--data_dir', type=pathlib.Path, required=True)
  parser.add_argument('--words', type=int, default=WORDS)
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    help='a new file: a JSON line with both rows of every pair',
  )
  args = parser.parse_args(argv)
  if args.words < 1:
    parser.error('--words must be at least 1')
  tests = test_splits(args.task)
  try:
    rows = {
      split: benchmarks.load(args.task, split, args.data_dir)
      for split in benchmarks.SPLITS[args.task]
    }
    with contextlib.ExitStack() as stack:
      out = stack.enter_context(args.out.open('x')) if args.out else None
      _report(args, rows, tests, out)
  except errors.UserError as error:
    print(f'leaks: {error}', file=sys.stderr)
    return 1
  except OSError as error:
    print(
      f'leaks: --out {args.out} cannot be written: {error.strerror}; name a '
      'new file',
      file=sys.stderr,
    )
    return 1
  return 0


def _report(
  args: argparse.Namespace,
  rows: Mapping[str, Sequence[task_lib.Row]],
  tests: Sequence[str],
  out: TextIO | None,
) -> None:
  for split in rows:
    for test in tests if split not in tests else ():
      train_rows, test_rows = rows[split], rows[test]
      found = find(
        [question(row) for row in train_rows],
        [question(row) for row in test_rows],
        words=args.words,
      )
      print(
        f'{args.task} {split} ({len(train_rows)} rows) in {test} '
        f'({len(test_rows)} rows): {len(found.same)} the same, '
        f'{len(found.overlapping)} with {args.words} words in a row'
      )
      for i, j in found.same:
        print(f'  {train_rows[i]["id"]} = {test_rows[j]["id"]}')
      same = set(found.same)
      for i, j in found.overlapping if out is not None else ():
        pair = {
          'train': {'split': split, **train_rows[i]},
          'test': {'split': test, **test_rows[j]},
          'same': (i, j) in same,
        }
        out.write(json.dumps(pair) + '\n')


if __name__ == '__main__':
  sys.exit(main())
