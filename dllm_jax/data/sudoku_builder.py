"""Generated 4x4 Sudoku puzzles as a TFDS data set.

The splits are disjoint in solutions: the 288 grids are dealt at random, 200
for train, 44 for validation and 44 for test. A puzzle removes cells of a grid
in random order, each only if the solution stays unique, until the wished
number of clues is reached or no cell is left to try. Puzzles are distinct.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from dllm_jax.tasks import sudoku as sudoku_task
from dllm_jax.tasks import task as task_lib

VERSION = '1.0.0'
NUM_GRIDS = {'train': 200, 'validation': 44, 'test': 44}


@dataclasses.dataclass(eq=False, kw_only=True)
class Config(tfds.core.BuilderConfig):
  """What decides the puzzles; the name holds all of it.

  Attributes:
    num_train: puzzles in train.
    num_validation: puzzles in validation.
    num_test: puzzles in test.
    min_clues: fewest given digits; the wished number is uniform from here
    max_clues: to here, but uniqueness may keep more.
    seed: seeds everything.
  """

  name: str = dataclasses.field(init=False)
  num_train: int = 20000
  num_validation: int = 1000
  num_test: int = 1000
  min_clues: int = 4
  max_clues: int = 10
  seed: int = 0

  def __post_init__(self):
    if not 4 <= self.min_clues <= self.max_clues <= 15:
      raise ValueError(
        'clues must satisfy 4 <= min_clues <= max_clues <= 15: '
        f'{self.min_clues}, {self.max_clues}'
      )
    sizes = [self.num_train, self.num_validation, self.num_test]
    self.name = (
      f'4x4_{"_".join(map(str, sizes))}_c{self.min_clues}_{self.max_clues}'
      f'_s{self.seed}'
    )
    self.description = f'4x4 Sudoku puzzles {self.name}'


def config(task: sudoku_task.Sudoku) -> Config:
  """The configuration that `prepare` builds for a task."""
  del task  # its fields change neither puzzles nor solutions
  return Config()


class Sudoku(tfds.core.GeneratorBasedBuilder):
  """Builds the puzzles of one `Config`."""

  VERSION = tfds.core.Version(VERSION)
  BUILDER_CONFIGS = []

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'puzzle': tfds.features.Text(),
          'solution': tfds.features.Text(),
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing to download
    cfg = self.builder_config
    sizes = {
      'train': cfg.num_train,
      'validation': cfg.num_validation,
      'test': cfg.num_test,
    }
    dealt = deal(cfg.seed)
    return {
      split: self._generate_examples(puzzles(dealt[split], size, split, cfg))
      for split, size in sizes.items()
    }

  def _generate_examples(self, rows: Iterator[task_lib.Row]):
    yield from enumerate(rows)


def deal(seed: int) -> dict[str, tuple[str, ...]]:
  """The solution grids of each split."""
  order = np.random.default_rng(seed).permutation(len(sudoku_task.grids()))
  grids = [sudoku_task.grids()[i] for i in order.tolist()]
  dealt, start = {}, 0
  for split, size in NUM_GRIDS.items():
    dealt[split] = tuple(grids[start : start + size])
    start += size
  return dealt


def puzzles(
  grids: Sequence[str], size: int, split: str, cfg: Config
) -> Iterator[task_lib.Row]:
  """`size` distinct puzzles over `grids`, taken in turn.

  Raises:
    ValueError: if distinct puzzles run out.
  """
  salt = hashlib.blake2b(f'{split}{cfg.seed}'.encode(), digest_size=8).digest()
  rng = np.random.default_rng(int.from_bytes(salt, 'little'))
  seen: set[str] = set()
  for attempt in range(20 * size):
    if len(seen) == size:
      return
    solution = grids[attempt % len(grids)]
    num_clues = int(rng.integers(cfg.min_clues, cfg.max_clues + 1))
    puzzle = dig(solution, rng.permutation(16).tolist(), num_clues)
    if puzzle not in seen:
      seen.add(puzzle)
      yield {'id': puzzle, 'puzzle': puzzle, 'solution': solution}
  if len(seen) < size:
    raise ValueError(f'only {len(seen)} distinct puzzles found of {size}')


def dig(solution: str, order: Sequence[int], num_clues: int) -> str:
  """Empties cells of `solution` in `order` while the solution stays unique.

  A set of clues is unique if no other grid agrees on it: if it meets the set
  of cells where each other grid differs.
  """
  differs = _differences(solution)
  clues = (1 << 16) - 1
  for cell in order:
    if clues.bit_count() <= num_clues:
      break
    fewer = clues & ~(1 << cell)
    if np.all(differs & fewer):
      clues = fewer
  return ''.join(d if clues >> i & 1 else '0' for i, d in enumerate(solution))


@functools.lru_cache(maxsize=288)
def _differences(solution: str) -> np.ndarray:
  """For each other grid, the cells where it differs, as the bits of an int."""
  return np.array(
    [
      sum(1 << i for i in range(16) if grid[i] != solution[i])
      for grid in sudoku_task.grids()
      if grid != solution
    ]
  )
