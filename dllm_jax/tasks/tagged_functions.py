"""Chains of one of several functions, which the tag of a row names.

A row is {'id': str, 'tag': int, 'symbols': [int], 'chain': [int]}. Every tag
has a function of its own on the symbols, a permutation of one cycle. The prompt
is the tag and a few symbols, the completion is the chain that begins behind the
last of them: f(x), f(f(x)), ... An expert that serves one tag has one function
to know, so that which expert a token goes to decides how well it is predicted.

Nothing is stored: row i of a split is a pure function of (split, i), and a
digest of the prompt decides which split it belongs to.
"""

import dataclasses
import functools
import string
from collections.abc import Sequence

from dllm_jax import errors
from dllm_jax.tasks import tags, task

NUM_ROWS = {'train': 100_000, 'validation': 1_000, 'test': 1_000}
TAGS = string.ascii_uppercase
SYMBOLS = string.ascii_lowercase + string.digits
_MAX_DRAWS = 10_000
_SEED = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggedFunctions:
  """The task of tagged functions, a character a token.

  Attributes:
    num_tags: functions, up to 26.
    num_symbols: what they map, up to 36; more than `length`.
    num_given: symbols of the prompt, of which the last is the argument.
    length: symbols of a completion.
  """

  num_tags: int
  num_symbols: int
  num_given: int
  length: int

  name = 'tagged_functions'

  def __post_init__(self):
    for name, low, high in (
      ('num_tags', 1, len(TAGS)),
      ('num_symbols', 2, len(SYMBOLS)),
      ('num_given', 1, 64),
      ('length', 1, self.num_symbols - 1),
    ):
      if not low <= getattr(self, name) <= high:
        raise ValueError(
          f'{name} {getattr(self, name)} is not in {low}..{high}'
        )

  @property
  def num_labels(self) -> int:
    """Number of values of `label`."""
    return self.num_tags

  def label(self, row: task.Row) -> int:
    """The tag."""
    return row['tag']

  def rows(self, split: str) -> Sequence[task.Row]:
    """The rows of a split, each made when it is read.

    Raises:
      errors.UserError: there is no such split.
    """
    make = functools.partial(_row, self)
    return task.MadeRows(self.name, split, NUM_ROWS, make)

  def words(self) -> tuple[str, ...]:
    """Tags and symbols."""
    return (*TAGS[: self.num_tags], *SYMBOLS[: self.num_symbols])

  def prompt(self, row: task.Row) -> str:
    """The tag and the given symbols."""
    return TAGS[row['tag']] + _spell(row['symbols'])

  def demonstration(self, row: task.Row) -> str:
    """The chain."""
    return _spell(row['chain'])

  def gold(self, row: task.Row) -> str:
    """The chain: all of it is the answer."""
    return _spell(row['chain'])

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """False: there is no reasoning."""
    return False

  def score(self, row: task.Row, completion: str) -> task.Score:
    """Whether the whole chain is right; `symbols` is the share that is."""
    completion = completion[: tags.MAX_CHARS]
    gold = self.gold(row)
    right = sum(a == b for a, b in zip(gold, completion, strict=False))
    share, correct = right / len(gold), completion == gold
    return task.Score(
      {'solution': float(correct)}, correct, {'symbols': share}, completion
    )


@functools.cache
def functions(num_tags: int, num_symbols: int) -> tuple[tuple[int, ...], ...]:
  """By tag, f(x) of every symbol x: permutations of one cycle."""
  import numpy as np  # Late: a sandbox's Python may have none.

  found = []
  for tag in range(num_tags):
    cycle = np.random.default_rng((_SEED, tag)).permutation(num_symbols)
    after = np.empty(num_symbols, int)
    after[cycle] = np.roll(cycle, -1)
    found.append(tuple(after.tolist()))
  return tuple(found)


def _row(owner: TaggedFunctions, split: str, index: int) -> task.Row:
  """Draws tag and symbols until they belong to the split."""
  import numpy as np  # Late, as above.

  seed = (_SEED, list(NUM_ROWS).index(split), index)
  rng = np.random.default_rng(seed)
  for _ in range(_MAX_DRAWS):
    tag = int(rng.integers(owner.num_tags))
    symbols = rng.integers(owner.num_symbols, size=owner.num_given).tolist()
    if task.split_of(f'{tag} {symbols}') == split:
      break
  else:
    raise errors.UserError(
      f'task {owner.name!r} has too few prompts for a split {split!r}: raise '
      'num_given, num_tags or num_symbols'
    )
  after = functions(owner.num_tags, owner.num_symbols)[tag]
  chain = [after[symbols[-1]]]
  while len(chain) < owner.length:
    chain.append(after[chain[-1]])
  return {
    'id': f'{split}-{index}',
    'tag': tag,
    'symbols': symbols,
    'chain': chain,
  }


def _spell(symbols: Sequence[int]) -> str:
  return ''.join(SYMBOLS[symbol] for symbol in symbols)
