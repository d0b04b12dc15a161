"""The generated Countdown problems as a TFDS data set.

All multisets of `count` numbers from 1..max_number, with every target in
1..max_target that they reach. The splits are disjoint in problems: a hash of
(sorted numbers, target) decides. The order of the numbers and the stored
solution are drawn by a generator seeded with the problem, so a problem's row
depends on nothing else.

The solution is drawn uniformly among those whose running values are all
positive whole numbers with a word of their own. A problem without such a
solution is left out (there is none with + and -).
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from dllm_jax.tasks import arithmetic
from dllm_jax.tasks import countdown as countdown_task
from dllm_jax.tasks import task as task_lib

VERSION = '1.0.0'
SPLITS = ('train', 'validation', 'test')
_SIGN_NAMES = {'+': 'a', '-': 's', '*': 'm', '/': 'd'}


@dataclasses.dataclass(eq=False, kw_only=True)
class Config(tfds.core.BuilderConfig):
  """What decides the problems; the name holds all of it.

  Attributes:
    task: the task; its prompt and reasoning styles play no part.
    seed: seeds the choice of multisets, orders, solutions and splits.
    max_multisets: draws this many of the multisets; 0 takes all.
  """

  name: str = dataclasses.field(init=False)
  task: countdown_task.Countdown
  seed: int = 0
  max_multisets: int = 0

  def __post_init__(self):
    if self.max_multisets < 0:
      raise ValueError(f'max_multisets must be >= 0: {self.max_multisets}')
    signs = ''.join(_SIGN_NAMES[sign] for sign in sorted(self.task.operators))
    self.name = (
      f'cd{self.task.count}_n{self.task.max_number}_t{self.task.max_target}'
      f'_{signs}_s{self.seed}_m{self.max_multisets}'
    )
    self.description = f'Countdown problems {self.name}'


def config(task: countdown_task.Countdown) -> Config:
  """The configuration that `prepare` builds for a task.

  All multisets with + and - over up to 20000 multisets; else a sample that
  builds in seconds.
  """
  trees = arithmetic.needs_parentheses(task.operators)
  num_multisets = 1
  for i in range(task.count):
    num_multisets = num_multisets * (task.max_number + i) // (i + 1)
  limit = {2: 5000, 3: 5000, 4: 500}.get(task.count, 20) if trees else 20000
  if not trees and task.count > 4:
    limit = 1000
  return Config(task=task, max_multisets=limit if num_multisets > limit else 0)


class Countdown(tfds.core.GeneratorBasedBuilder):
  """Builds the problems of one `Config`."""

  VERSION = tfds.core.Version(VERSION)
  BUILDER_CONFIGS = []

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'numbers': tfds.features.Tensor(
            shape=(self.builder_config.task.count,), dtype=np.int32
          ),
          'target': np.int32,
          'solution': tfds.features.Text(),
          'num_solutions': np.int32,
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing to download
    rows = {split: [] for split in SPLITS}
    for split, row in problems(self.builder_config):
      rows[split].append(row)
    for split in SPLITS:
      if not rows[split]:
        raise ValueError(
          f'{self.builder_config.name} has too few problems: none in {split}'
        )
    return {split: self._generate_examples(rows[split]) for split in SPLITS}

  def _generate_examples(self, rows: Sequence[task_lib.Row]):
    yield from enumerate(rows)


def split_of(numbers: Sequence[int], target: int, seed: int) -> str:
  """The split of a problem: 90% train, 5% validation, 5% test."""
  share = _digest(numbers, target, f'split{seed}') / 2**64
  return 'test' if share < 0.05 else 'validation' if share < 0.1 else 'train'


def problems(config: Config) -> Iterator[tuple[str, task_lib.Row]]:
  """All (split, row) of a configuration, in a fixed order."""
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


def _chain_rows(task: countdown_task.Countdown):
  """A search over signed chains, all orders and signs of a multiset at once."""
  orders = np.array(list(itertools.permutations(range(task.count))))
  values = [{'+': 1, '-': -1}[sign] for sign in task.operators]
  signs = np.array(
    [(1, *s) for s in itertools.product(values, repeat=task.count - 1)]
  )
  bound = task.max_value()

  def search(numbers, config):
    # Equal numbers give equal chains more than once: keep each only once.
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


def _tree_rows(numbers: tuple[int, ...], config: Config):
  task = config.task
  found = arithmetic.expressions(numbers, task.operators)
  bound = task.max_value()
  for target in range(1, task.max_target + 1):
    good = [
      text
      for text in found.get(target, ())
      if all(
        step.value.denominator == 1 and 0 < step.value <= bound
        for step in arithmetic.evaluate(text).steps
      )
    ]
    if good:
      draw = _digest(numbers, target, f'solution{config.seed}')
      yield target, good[draw % len(good)], len(found[target])


def _digest(numbers: Sequence[int], target: int, salt: str) -> int:
  """64 fair bits that depend on the problem and the salt alone."""
  text = f'{salt}:{",".join(map(str, sorted(numbers)))}={target}'
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  return int.from_bytes(digest, 'little')


def _shuffled(numbers: Sequence[int], draw: int) -> list[int]:
  """The Fisher-Yates shuffle that the integer `draw` stands for."""
  numbers = list(numbers)
  for i in range(len(numbers) - 1, 0, -1):
    draw, j = divmod(draw, i + 1)
    numbers[i], numbers[j] = numbers[j], numbers[i]
  return numbers
