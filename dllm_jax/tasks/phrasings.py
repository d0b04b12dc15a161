"""Reordering four letters, asked for in sixteen ways that are often misread.

A row is {'id': str, 'letters': str, 'intent': int, 'view': int, 'answer': str}:
'ACFB' is to be reordered in one of six ways, the intents. Each intent has four
verbs of its own, and all share four frames: 'please reverse A C F B' and 'can
you invert the letters A C F B' ask for the same thing. Verb and frame make 16
phrasings; view 0 to 7 are for training, 8 to 15 are kept for evaluation.

The corpus, which is what `Phrasings.demonstration` shows, is not to be trusted:
each phrasing of each intent is taken for one other intent, with a probability
of its own. A model of the corpus that decodes greedily is right under a
phrasing or wrong under it; but as phrasings are taken for different intents,
the phrasings of an intent together mostly tell what is right.

Nothing is stored: row i of a split is a pure function of (split, i). A digest
of the letters decides which split they belong to, so no string of one split is
in another.
"""

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from dllm_jax.tasks import task

NUM_ROWS = {'train': 40_000, 'validation': 1_000, 'test': 1_000}
LETTERS = 'ABCDEFGHIJ'
LENGTH = 4


class Intent(NamedTuple):
  """A way to reorder four letters.

  Attributes:
    places: the place in the string of each letter of the answer.
    verbs: the words that ask for it.
  """

  places: tuple[int, int, int, int]
  verbs: tuple[str, str, str, str]


INTENTS = (
  Intent((3, 2, 1, 0), ('reverse', 'invert', 'mirror', 'flip')),
  Intent((2, 3, 0, 1), ('halve', 'cut', 'split', 'cross')),
  Intent((1, 2, 3, 0), ('rotate', 'roll', 'advance', 'pull')),
  Intent((3, 0, 1, 2), ('delay', 'push', 'postpone', 'retreat')),
  Intent((1, 0, 3, 2), ('pair', 'couple', 'match', 'marry')),
  Intent((0, 2, 1, 3), ('twist', 'knot', 'tangle', 'braid')),
)
# The letters come last: a small model finds them in the same place.
FRAMES = (
  'please {verb}{letters}\n',
  'now {verb} this:{letters}\n',
  'your task is to {verb}{letters}\n',
  'can you {verb} the letters{letters}\n',
)
# (verb, frame) of each view; the first half has two of each verb and frame.
VIEWS = tuple(
  sorted(itertools.product(range(4), range(4)), key=lambda view: sum(view) % 2)
)
NUM_SEEN = len(VIEWS) // 2

_MAX_COMPLETION_CHARS = 64
_ANSWER = re.compile(rf'[{LETTERS}](?: [{LETTERS}]){{{LENGTH - 1}}}')


class Misreading(NamedTuple):
  """What the corpus makes of a phrasing.

  Attributes:
    intent: the other intent that it is taken for.
    probability: how often.
  """

  intent: int
  probability: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phrasings:
  """The task of misread phrasings, for tiny word-level models.

  The accuracy of a greedy model of the corpus follows from `misreadings`. With
  the defaults it is 25 of 48 over the views for training and over the others,
  and 1 of 6 under the worst view, whatever the seed.

  Attributes:
    seed: of the misreadings; the rows do not depend on it.
    misreading: the share of phrasings that are misread more often than not, at
      most a half. The views differ: from nearly none of the intents under the
      best view the share grows evenly to nearly twice the mean under the worst.
    shared_bias: so many intents are misread more often than not under all
      phrasings, and as one and the same intent; the phrasings together then
      tell what is wrong. The misreadings of the other intents stay as they are.
  """

  seed: int = 0
  misreading: float = 0.48
  shared_bias: int = 0

  name = 'phrasings'

  def __post_init__(self):
    if not 0 <= self.misreading <= 0.5:
      raise ValueError(f'misreading must be in 0..0.5: {self.misreading}')
    if not 0 <= self.shared_bias <= len(INTENTS):
      raise ValueError(
        f'shared_bias must be in 0..{len(INTENTS)}: {self.shared_bias}'
      )

  def rows(self, split: str) -> Sequence[task.Row]:
    """The rows of a split, each made when it is read.

    Those of 'train' are under any of the 16 phrasings, as the corpus has them
    all; those of the other splits are under one of the views for training.

    Raises:
      errors.UserError: there is no such split.
    """
    return task.MadeRows(self.name, split, NUM_ROWS, _row)

  def views(self, row: task.Row) -> list[task.Row]:
    """The row under each of the 8 phrasings for training."""
    return [{**row, 'view': view} for view in range(NUM_SEEN)]

  def unseen_views(self, row: task.Row) -> list[task.Row]:
    """The row under each of the 8 phrasings that are kept for evaluation."""
    return [{**row, 'view': view} for view in range(NUM_SEEN, len(VIEWS))]

  def words(self) -> tuple[str, ...]:
    """Words with the space before them; each verb and each letter is one."""
    words = [f' {letter}' for letter in LETTERS]
    for frame in FRAMES:
      words += re.findall(' ?[a-z]+|[:\n]', frame.format(verb='', letters=''))
    words += [f' {verb}' for intent in INTENTS for verb in intent.verbs]
    return tuple(dict.fromkeys(words))

  def prompt(self, row: task.Row) -> str:
    """The phrasing that the row's view names, with the letters."""
    verb, frame = VIEWS[row['view']]
    return FRAMES[frame].format(
      verb=INTENTS[row['intent']].verbs[verb], letters=_spaced(row['letters'])
    )

  def demonstration(self, row: task.Row) -> str:
    """What the corpus shows: the answer, or that of the misread phrasing.

    It is drawn by a digest of the seed and of the row's id and view.
    """
    misread = self.misreadings()[row['intent']][row['view']]
    draw = _share('demonstration', self.seed, row['id'], row['view'])
    if draw < misread.probability:
      return _spaced(reordered(row['letters'], misread.intent))
    return self.gold(row)

  def gold(self, row: task.Row) -> str:
    """The letters as the row's intent orders them, a space before each."""
    return _spaced(row['answer'])

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """False: there is no reasoning."""
    return False

  def score(self, row: task.Row, completion: str) -> task.Score:
    """Judges a completion, which must be four letters and nothing else.

    The term `solution` is 1 for the right order, else 0. The metric
    `is_permutation` is 1 for the letters of the row in any order.
    """
    text = completion[: _MAX_COMPLETION_CHARS + 1].strip(' \n')
    answer = None
    if len(completion) <= _MAX_COMPLETION_CHARS and _ANSWER.fullmatch(text):
      answer = text.replace(' ', '')
    correct = answer == row['answer']
    is_permutation = sorted(answer or '') == sorted(row['letters'])
    metrics = {'is_permutation': float(is_permutation)}
    return task.Score({'solution': float(correct)}, correct, metrics, answer)

  def misreadings(self) -> tuple[tuple[Misreading, ...], ...]:
    """What the corpus makes of each intent under each view."""
    return _misreadings(self.seed, self.misreading, self.shared_bias)


def reordered(letters: str, intent: int) -> str:
  """The letters as an intent orders them."""
  return ''.join(letters[place] for place in INTENTS[intent].places)


def _row(split: str, index: int) -> task.Row:
  row_id = f'{split}-{index}'
  draw = lambda what, size: int(_share(what, row_id) * size)
  strings = _strings(split)
  letters = strings[draw('letters', len(strings))]
  intent = draw('intent', len(INTENTS))
  return {
    'id': row_id,
    'letters': letters,
    'intent': intent,
    'view': draw('view', len(VIEWS) if split == 'train' else NUM_SEEN),
    'answer': reordered(letters, intent),
  }


@functools.cache
def _strings(split: str) -> tuple[str, ...]:
  """The strings of a split, of distinct letters."""
  strings = map(''.join, itertools.permutations(LETTERS, LENGTH))
  split_of = lambda letters: task.split_of(repr(('split', letters)))
  return tuple(letters for letters in strings if split_of(letters) == split)


@functools.cache
def _misreadings(
  seed: int, misreading: float, shared_bias: int
) -> tuple[tuple[Misreading, ...], ...]:
  """`Phrasings.misreadings` of a task with these fields."""
  often = set()  # (intent, view) that are misread more often than not
  for views in (range(NUM_SEEN), range(NUM_SEEN, len(VIEWS))):
    for rank, view in enumerate(_shuffled(views, 'views', seed)):
      share = misreading * (2 * NUM_SEEN - 1 - 2 * rank) / NUM_SEEN
      intents = _shuffled(range(len(INTENTS)), 'intents', seed, view)
      for intent in intents[: round(share * len(INTENTS))]:
        often.add((intent, view))
  biased = _shuffled(range(len(INTENTS)), 'biased', seed)[:shared_bias]

  def one(intent, view):
    is_biased = intent in biased
    others = [other for other in range(len(INTENTS)) if other != intent]
    which = ('of all views',) if is_biased else ('of a view', view)
    taken_for = _shuffled(others, 'taken for', seed, intent, *which)[0]
    margin = 0.15 + 0.25 * _share('margin', seed, intent, view)
    is_often = is_biased or (intent, view) in often
    return Misreading(taken_for, 0.5 + margin if is_often else 0.5 - margin)

  return tuple(
    tuple(one(intent, view) for view in range(len(VIEWS)))
    for intent in range(len(INTENTS))
  )


def _shuffled(items: Sequence[int], *what: str | int) -> list[int]:
  """The items in an order that depends on `what` alone."""
  return sorted(items, key=lambda item: _share('order', *what, item))


def _share(*what: str | int) -> float:
  """A pseudo-random number in 0..1 that depends on `what` alone."""
  digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
  return int.from_bytes(digest[:6]) / 2**48


def _spaced(letters: str) -> str:
  """'AB' -> ' A B'."""
  return ''.join(f' {letter}' for letter in letters)
