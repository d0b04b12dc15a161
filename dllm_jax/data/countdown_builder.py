"""Generated Countdown problems as a TFDS data set.

Contains all multisets of `count` numbers from 1..max_number, with every target
in 1..max_target that they can make. No problem is in two splits: a hash of
(sorted numbers, target) decides. The order of the numbers and the stored
solution are drawn with a seed made from the problem, so a problem's row
depends on nothing else.

The solution is drawn uniformly among those whose intermediate values are all
positive integers with a word of their own. A problem without such a solution is
left out (this never happens with + and - alone).
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dllm_jax.data import row_builder
from dllm_jax.tasks import arithmetic
from dllm_jax.tasks import countdown as countdown_task
from dllm_jax.tasks import task as task_lib

SPLITS = ('train', 'validation', 'test')
_SIGN_NAMES = {'+': 'a', '-': 's', '*': 'm', '/': 'd'}


@dataclasses.dataclass(eq=False, kw_only=True)
class Config(tfds.core.BuilderConfig):
  """What determines the problems; the name contains all of it.

  Attributes:
    task: the task; its prompt and reasoning styles do not matter.
    seed: seeds the choice of multisets, orders, solutions and splits.
    max_multisets: size of a random sample of the multisets; 0 takes all.
  """

  name: str = dataclasses.field(init=False)
  task: countdown_task.Countdown
  seed: int = 0
  max_multisets: int = 0

  def __post_init__(self):
    if self.max_multisets < 0:
      raise ValueError(f'max_multisets must be >= 0, got {self.max_multisets}')
    signs = ''.join(_SIGN_NAMES[sign] for sign in sorted(self.task.operators))
    self.name = (
      f'cd{self.task.count}_n{self.task.max_number}_t{self.task.max_target}'
      f'_{signs}_s{self.seed}_m{self.max_multisets}'
    )
    self.description = f'Countdown problems {self.name}'

  def features(self) -> dict[str, Any]:
    """The feature of each field of a row."""
    return {
      'id': tfds.features.Text(),
      'numbers': tfds.features.Tensor(shape=(self.task.count,), dtype=np.int32),
      'target': np.int32,
      'solution': tfds.features.Text(),
      'num_solutions': np.int32,
    }

  def splits(self) -> dict[str, list[task_lib.Row]]:
    """The rows of each split; ValueError if one is empty."""
    rows = {split: [] for split in SPLITS}
    for split, row in problems(self):
      rows[split].append(row)
    for split in SPLITS:
      if not rows[split]:
        raise ValueError(f'{self.name} has too few problems: none in {split}')
    return rows


def config(task: countdown_task.Countdown) -> Config:
  """The configuration that `pipeline.prepare` builds for a task.

  It takes all multisets if the operators are + and - and there are at most
  20000, and otherwise a sample that is built in seconds.
  """
  trees = arithmetic.needs_parentheses(task.operators)
  num_multisets = math.comb(task.max_number + task.count - 1, task.count)
  limit = {2: 5000, 3: 5000, 4: 500}.get(task.count, 20) if trees else 20000
  if not trees and task.count > 4:
    limit = 1000
  return Config(task=task, max_multisets=limit if num_multisets > limit else 0)


class Countdown(row_builder.RowBuilder):
  """The data set 'countdown'."""

  VERSION = tfds.core.Version('1.0.0')


def split_of(numbers: Sequence[int], target: int, seed: int) -> str:
  """The split of a problem: 90% train, 5% validation, 5% test."""
  share = _digest(numbers, target, f'split{seed}') / 2**64
  return 'test' if share < 0.05 else 'validation' if share < 0.1 else 'train'


def problems(config: Config) -> Iterator[tuple[str, task_lib.Row]]:
  """Generates (split, row) for every problem, in a fixed order."""
  task = config.task
  multisets = list(
    itertools.combinations_with_replacement(
      range(1, task.max_number + 1), task.count
    )
  )
  if config.max_multisets and config.max_multisets < len(multisets):
    rng = np.random.default_rng(config.seed)
    chosen = rng.choice(len(multisets), config.max_multisets, replace=False)
    multisets = [multisets[i] for i in sorted(chosen.tolist())]
  search = (
    _tree_rows
    if arithmetic.needs_parentheses(task.operators)
    else _chain_rows(task)
  )
  for numbers in multisets:
    for target, solution, count in search(numbers, config):
      draw = _digest(numbers, target, f'order{config.seed}')
      row = {
        'id': '_'.join(map(str, numbers)) + f'={target}',
        'numbers': _shuffled(numbers, draw),
        'target': target,
        'solution': solution,
        'num_solutions': count,
      }
      yield split_of(numbers, target, config.seed), row


def _chain_rows(
  task: countdown_task.Countdown,
) -> Callable[[tuple[int, ...], Config], Iterator[tuple[int, str, int]]]:
  """The search for operators + and -: over all orders and signs at once.

  Returns:
    A function from (numbers, config) to (target, solution, number of solutions)
    of every target.
  """
  orders = np.array(list(itertools.permutations(range(task.count))))
  values = [{'+': 1, '-': -1}[sign] for sign in task.operators]
  signs = np.array(
    [(1, *s) for s in itertools.product(values, repeat=task.count - 1)]
  )
  bound = task.max_value()

  def search(numbers, config):
    # Equal numbers give the same chain several times: keep one of each.
    distinct = np.unique(np.array(numbers)[orders], axis=0)
    chains = (distinct[:, None, :] * signs[None]).reshape(-1, task.count)
    running = chains.cumsum(axis=1)
    totals = running[:, -1]
    good = ((running > 0) & (running <= bound)).all(axis=1)
    order = np.argsort(totals, kind='stable')
    counts = np.bincount(totals[totals > 0], minlength=task.max_target + 1)
    good_at: dict[int, list[int]] = {}
    totals = totals.tolist()
    for i in order[good[order]].tolist():
      good_at.setdefault(totals[i], []).append(i)
    for target, indices in good_at.items():
      if target <= task.max_target:
        draw = _digest(numbers, target, f'solution{config.seed}')
        chain = chains[indices[draw % len(indices)]].tolist()
        text = str(chain[0]) + ''.join(
          f' {"+" if term > 0 else "-"} {abs(term)}' for term in chain[1:]
        )
        yield target, text, int(counts[target])

  return search


def _tree_rows(
  numbers: tuple[int, ...], config: Config
) -> Iterator[tuple[int, str, int]]:
  """The search for all operators: over expression trees; as `_chain_rows`."""
  task = config.task
  expressions = arithmetic.expressions(numbers, task.operators)
  bound = task.max_value()
  for target in range(1, task.max_target + 1):
    good = [
      text
      for text in expressions.get(target, ())
      if all(
        step.value.denominator == 1 and 0 < step.value <= bound
        for step in arithmetic.evaluate(text).steps
      )
    ]
    if good:
      draw = _digest(numbers, target, f'solution{config.seed}')
      yield target, good[draw % len(good)], len(expressions[target])


def _digest(numbers: Sequence[int], target: int, salt: str) -> int:
  """A 64-bit hash of the problem and the salt."""
  text = f'{salt}:{",".join(map(str, sorted(numbers)))}={target}'
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  return int.from_bytes(digest, 'little')


def _shuffled(numbers: Sequence[int], draw: int) -> list[int]:
  """Shuffles by Fisher-Yates, with the digits of `draw` as the random draws."""
  numbers = list(numbers)
  for i in range(len(numbers) - 1, 0, -1):
    draw, j = divmod(draw, i + 1)
    numbers[i], numbers[j] = numbers[j], numbers[i]
  return numbers
