"""Public data sets in plain English as TFDS data sets.

A training row that a test split spells too, apart from case and punctuation, is
left out; for a validation or a test split that a data set lacks, 5% of its
training rows are held out, by a hash of the question.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from dllm_jax.data import benchmarks, catalog, leaks
from dllm_jax.tasks import task as task_lib

VERSION = '1.2.0'
_HELD_OUT = 0.05


@dataclasses.dataclass(eq=False, kw_only=True)
class Config(tfds.core.BuilderConfig):
  """Which files; the name holds their hashes.

  Attributes:
    data_set: a key of `benchmarks.SPLITS`.
    data_dir: the data directory.
  """

  name: str = dataclasses.field(init=False)
  data_set: str
  data_dir: str

  def __post_init__(self):
    files = sorted(set(benchmarks.SPLITS[self.data_set].values()))
    known = ''
    for file in files:
      if file in catalog.FILES:
        known += catalog.FILES[file].sha256
      else:
        known += catalog.digest(pathlib.Path(self.data_dir) / file)
    digest = hashlib.sha256(known.encode()).hexdigest()[:12]
    self.name = f'{self.data_set}_{digest}'
    self.description = f'rows of {", ".join(files)}'


class TextRows(tfds.core.GeneratorBasedBuilder):
  """Builds the splits of one `Config`."""

  VERSION = tfds.core.Version(VERSION)
  BUILDER_CONFIGS = []

  def _info(self) -> tfds.core.DatasetInfo:
    fields = _FIELDS.get(self.builder_config.data_set, _CODE)
    text = tfds.features.Text()
    kinds = {str: text, int: np.int32, list: tfds.features.Sequence(text)}
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {name: kinds[kind] for name, kind in {'id': str, **fields}.items()}
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # `data.download` does that, when it is asked to
    cfg = self.builder_config
    found = splits(cfg.data_set, cfg.data_dir)
    return {name: self._generate_examples(rows) for name, rows in found.items()}

  def _generate_examples(self, rows: Sequence[task_lib.Row]):
    yield from enumerate(rows)


_CHOICE = {'question': str, 'options': list, 'answer': str, 'reasoning': str}
_CODE = dict.fromkeys(
  ('prompt', 'entry_point', 'test', 'solution', 'setup'), str
)
_FIELDS = {
  'gsm8k': {'question': str, 'reasoning': str, 'answer': str},
  'math': {
    'problem': str,
    'solution': str,
    'answer': str,
    'level': int,
    'subject': str,
  },
  'aqua': _CHOICE,
  'openbookqa': _CHOICE,
}


def splits(
  data_set: str, data_dir: str | pathlib.Path
) -> dict[str, list[task_lib.Row]]:
  """All splits of a data set, without leaks.

  Raises:
    errors.UserError: as `benchmarks.load`.
  """
  found = {
    split: benchmarks.load(data_set, split, data_dir)
    for split in benchmarks.SPLITS[data_set]
  }
  tests = {
    leaks.normalised(leaks.question(row))
    for split in leaks.test_splits(data_set)
    for row in found.get(split, ())
  }
  for split in set(found) - set(leaks.test_splits(data_set)):
    found[split] = [
      row
      for row in found[split]
      if leaks.normalised(leaks.question(row)) not in tests
    ]
  missing = [name for name in ('validation', 'test') if name not in found]
  if 'train' in found and missing:
    kept = {'train': [], **{name: [] for name in missing}}
    for row in found['train']:
      kept[split_of(row, missing)].append(row)
    found |= kept
  return found


def split_of(row: task_lib.Row, missing: Sequence[str]) -> str:
  """Which of the missing splits a training row is held out for, or 'train'.

  Equal questions go together.
  """
  text = leaks.normalised(leaks.question(row))
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  place = int.from_bytes(digest, 'little') / 2**64 / _HELD_OUT
  return missing[int(place)] if place < len(missing) else 'train'
