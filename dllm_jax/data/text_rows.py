"""Public data sets in natural language as TFDS data sets.

Rows of other splits whose question is also in a test split, apart from case and
punctuation, are left out. If a data set has no validation or test split, 5 % of
its training rows are held out for it, chosen by a hash of the question; of
`paraphrases`, where nothing is validated, 20 % for both together. Of `squad`
whole articles are held out: at least 20 % of the rows for testing, and 10 % of
the rest for validation.
"""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dllm_jax import errors
from dllm_jax.data import benchmarks, catalog, leaks, row_builder
from dllm_jax.tasks import task as task_lib

_HELD_OUT = 0.05  # share of the training rows, per missing split
_HELD_OUT_PARAPHRASES = 0.2
_HELD_OUT_ARTICLES = {'test': 0.2, 'validation': 0.1}  # of what is left


@dataclasses.dataclass(eq=False, kw_only=True)
class Config(tfds.core.BuilderConfig):
  """Which files to read; the name contains a hash of their checksums.

  Attributes:
    data_set: a key of `benchmarks.SPLITS`.
    data_dir: the directory of the public data sets.
  """

  name: str = dataclasses.field(init=False)
  data_set: str
  data_dir: str

  def __post_init__(self):
    files = sorted(set(benchmarks.SPLITS[self.data_set].values()))
    checksums = ''
    for file in files:
      if file in catalog.FILES:
        checksums += catalog.FILES[file].sha256
      else:
        checksums += catalog.digest(pathlib.Path(self.data_dir) / file)
    digest = hashlib.sha256(checksums.encode()).hexdigest()[:12]
    self.name = f'{self.data_set}_{digest}'
    self.description = f'rows of {", ".join(files)}'

  def features(self) -> dict[str, Any]:
    """The feature of each field of a row: all rows are of one form."""
    text = tfds.features.Text()
    kinds = {str: text, int: np.int32, list: tfds.features.Sequence(text)}
    row = next(itertools.chain(*self._rows.values()))
    return {name: kinds[type(value)] for name, value in row.items()}

  def splits(self) -> dict[str, list[task_lib.Row]]:
    """The rows of each split."""
    return self._rows

  @functools.cached_property
  def _rows(self) -> dict[str, list[task_lib.Row]]:
    return splits(self.data_set, self.data_dir)


class TextRows(row_builder.RowBuilder):
  """The data set 'text_rows', one configuration per public data set."""

  VERSION = tfds.core.Version('1.2.0')


def splits(
  data_set: str, data_dir: str | pathlib.Path
) -> dict[str, list[task_lib.Row]]:
  """All splits of a data set, without rows that leak test questions.

  Args:
    data_set: a key of `benchmarks.SPLITS`.
    data_dir: the directory of the public data sets.

  Raises:
    errors.UserError: see `benchmarks.load`.
  """
  rows = {
    split: benchmarks.load(data_set, split, data_dir)
    for split in benchmarks.SPLITS[data_set]
  }
  normalised = lambda row: leaks.normalised(leaks.question(row))
  tests = leaks.test_splits(data_set)
  test_questions = {normalised(row) for split in tests for row in rows[split]}
  for split in set(rows) - set(tests):
    rows[split] = [
      row for row in rows[split] if normalised(row) not in test_questions
    ]
  if data_set == 'paraphrases':
    return _divide_paraphrases(rows['train'])
  if data_set == 'squad':
    return _divide_articles(rows['train'])
  missing = [name for name in ('validation', 'test') if name not in rows]
  if 'train' in rows and missing:
    divided = {'train': [], **{name: [] for name in missing}}
    for row in rows['train']:
      divided[split_of(row, missing)].append(row)
    rows |= divided
  return rows


def _divide_paraphrases(
  rows: list[task_lib.Row],
) -> dict[str, list[task_lib.Row]]:
  """Of a file of any length, a fifth of its rows, but one at least, is tested.

  Which are, is decided by the hash of the instruction. What is tested is the
  validation split too.
  """
  train, test = hold_out(rows, map(leaks.question, rows), _HELD_OUT_PARAPHRASES)
  return {'train': train, 'validation': test, 'test': test}


def _divide_articles(rows: list[task_lib.Row]) -> dict[str, list[task_lib.Row]]:
  """No article is in two splits."""
  parts, train = {}, rows
  for name, share in _HELD_OUT_ARTICLES.items():
    titles = [row['title'] for row in train]
    train, parts[name] = hold_out(train, titles, share)
  return {'train': train} | parts


def hold_out(
  rows: Sequence[task_lib.Row], questions: Iterable[str], share: float
) -> tuple[list[task_lib.Row], list[task_lib.Row]]:
  """The rows without a share of them, but one at least, and that share.

  It is a function of the rows alone: which are held out is decided by a hash of
  their questions. Rows with the same question stay together.

  Args:
    rows: of a file, whose lines their ids name.
    questions: of each row.
    share: to hold out, in 0..1.

  Raises:
    errors.UserError: nothing is left.
  """
  places = list(map(_place, questions))
  count = max(min(round(share * len(rows)), len(rows) - 1), 1)
  last = sorted(places)[count - 1]
  parts = [], []
  for row, place in zip(rows, places, strict=True):
    parts[place <= last].append(row)
  if not parts[0]:
    raise errors.UserError(
      f'{rows[0]["id"]} is the only row of its file, or all ask the same, and '
      'one is held out: add rows'
    )
  return parts


def split_of(row: task_lib.Row, missing: Sequence[str]) -> str:
  """The split of a training row: 'train', or a missing split.

  Rows with the same question go to the same split.

  Args:
    row: a training row.
    missing: the splits to hold out rows for.
  """
  place = _place(leaks.question(row)) / _HELD_OUT
  return missing[int(place)] if place < len(missing) else 'train'


def _place(question: str) -> float:
  """A number in [0, 1) that the words of a question decide."""
  text = leaks.normalised(question)
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  return int.from_bytes(digest, 'little') / 2**64
