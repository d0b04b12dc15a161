"""Generated 4x4 Sudoku puzzles as a TFDS data set.

No solution is in two splits: the 288 grids are divided at random, 200 for
train, 44 for validation and 44 for test. A puzzle is made by emptying cells of
a grid in random order, each only if the solution remains unique, until the
drawn number of clues is reached or no cells remain. Puzzles are distinct.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from dllm_jax.data import row_builder
from dllm_jax.tasks import sudoku as sudoku_task
from dllm_jax.tasks import task as task_lib

NUM_GRIDS = {'train': 200, 'validation': 44, 'test': 44}


@dataclasses.dataclass(eq=False, kw_only=True)
class Config(tfds.core.BuilderConfig):
  """What determines the puzzles; the name contains all of it.

  Attributes:
    num_train: number of training puzzles.
    num_validation: number of validation puzzles.
    num_test: number of test puzzles.
    min_clues: smallest number of given digits to draw, >= 4.
    max_clues: largest number to draw, <= 15; a puzzle keeps more digits where
      its solution would not be unique otherwise.
    seed: seeds the grids of the splits, the order of cells and the clues.
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
        'expected 4 <= min_clues <= max_clues <= 15 clues, got '
        f'{self.min_clues} and {self.max_clues}'
      )
    sizes = '_'.join(map(str, self.sizes().values()))
    self.name = f'4x4_{sizes}_c{self.min_clues}_{self.max_clues}_s{self.seed}'
    self.description = f'4x4 Sudoku puzzles {self.name}'

  def features(self) -> dict[str, tfds.features.Text]:
    """The feature of each field of a row."""
    names = 'id', 'puzzle', 'solution'
    return {name: tfds.features.Text() for name in names}

  def sizes(self) -> dict[str, int]:
    """The number of puzzles of each split."""
    return {split: getattr(self, f'num_{split}') for split in NUM_GRIDS}

  def splits(self) -> dict[str, Iterator[task_lib.Row]]:
    """The rows of each split."""
    grids = deal(self.seed)
    return {
      split: puzzles(grids[split], size, split, self)
      for split, size in self.sizes().items()
    }


class Sudoku(row_builder.RowBuilder):
  """The data set 'sudoku'."""

  VERSION = tfds.core.Version('1.0.0')


def deal(seed: int) -> dict[str, tuple[str, ...]]:
  """The solution grids of each split."""
  order = np.random.default_rng(seed).permutation(len(sudoku_task.grids()))
  grids = [sudoku_task.grids()[i] for i in order.tolist()]
  splits, start = {}, 0
  for split, size in NUM_GRIDS.items():
    splits[split] = tuple(grids[start : start + size])
    start += size
  return splits


def puzzles(
  grids: Sequence[str], size: int, split: str, cfg: Config
) -> Iterator[task_lib.Row]:
  """Generates distinct puzzles, from each grid in turn.

  Args:
    grids: solutions, 16 digits each.
    size: number of puzzles.
    split: name of the split; seeds the draws together with `cfg.seed`.
    cfg: the number of clues and the seed.

  Raises:
    ValueError: if there are not enough distinct puzzles.
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
    raise ValueError(f'expected {size} distinct puzzles, got {len(seen)}')


def dig(solution: str, order: Sequence[int], num_clues: int) -> str:
  """Empties cells of `solution` in `order` while the solution remains unique.

  The solution is unique if every other grid differs in at least one clue.

  Args:
    solution: a solved grid, 16 digits.
    order: indices of the cells to try.
    num_clues: stop at this number of clues.

  Returns:
    The puzzle, 16 digits, with 0 for an empty cell.
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
  """Bit masks of the cells in which each other grid differs from `solution`."""
  return np.array(
    [
      sum(1 << i for i in range(16) if grid[i] != solution[i])
      for grid in sudoku_task.grids()
      if grid != solution
    ]
  )
