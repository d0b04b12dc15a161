"""Instructions with paraphrases from a file, without right answers.

DATA/paraphrases/train.jsonl has lines such as {"instruction": "Name a fruit.",
"paraphrases": ["Tell me a fruit.", ...]}, which is the form of
RobustAlpacaEval. A row is {'id': str, 'prompt': str, 'paraphrases': list}, with
the instruction as its prompt.

Nothing says what a good completion is: models are compared by how likely one
phrasing finds what another one wrote.
"""

import dataclasses
import re
from collections.abc import Sequence

from dllm_jax.tasks import task

_NUMBER = re.compile(r'\d[\d,.]*')
_WORD = re.compile(r"[^\W\d_][\w']{3,}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paraphrases(task.OpenEnded):
  """The task of answering an instruction, however it is phrased.

  Attributes:
    num_unseen: the last paraphrases of each row that are kept for evaluation.
  """

  num_unseen: int = 2

  name = 'paraphrases'

  def __post_init__(self):
    if self.num_unseen < 0:
      raise ValueError(f'num_unseen is {self.num_unseen}, a negative number')

  def views(self, row: task.Row) -> list[task.Row]:
    """The row under the instruction and all but the last paraphrases."""
    return self._all(row)[: self._num_seen(row)]

  def unseen_views(self, row: task.Row) -> list[task.Row]:
    """The row under the last paraphrases."""
    return self._all(row)[self._num_seen(row) :]

  def prompt(self, row: task.Row) -> str:
    """The phrasing that the row's view names, 0 is the instruction."""
    return [row['prompt'], *row['paraphrases']][row.get('view', 0)]

  def demonstration(self, row: task.Row) -> str:
    """None, as there are no answers."""
    return ''

  def _all(self, row: task.Row) -> list[task.Row]:
    return [{**row, 'view': i} for i in range(1 + len(row['paraphrases']))]

  def _num_seen(self, row: task.Row) -> int:
    return max(1 + len(row['paraphrases']) - self.num_unseen, 0)


def doubt(texts: Sequence[str]) -> str:
  """Why phrasings may not ask for the same thing; '' if nothing shows it.

  A reader of words, not of meaning: it finds a number that one phrasing has and
  another lacks, and a phrasing without a single word of four letters or more in
  common with the others. Words count by their first five letters, so that
  'tagline' and 'taglines' are the same.

  Args:
    texts: the phrasings.
  """
  numbers = [
    {n.rstrip('.,').replace(',', '') for n in _NUMBER.findall(text)}
    for text in texts
  ]
  if odd := sorted(set.union(*numbers) - set.intersection(*numbers)):
    return f'the number {odd[0]} is not in all of them'
  stems = [{w.lower()[:5] for w in _WORD.findall(text)} for text in texts]
  for i, own in enumerate(stems):
    others = set().union(*stems[:i], *stems[i + 1 :])
    if own and others and not own & others:
      return f'phrasing {i} shares no word with the others'
  return ''
