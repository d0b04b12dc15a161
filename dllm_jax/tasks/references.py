"""Short texts that are compared with references: SciTLDR and SQuAD.

A completion is read up to the end of its first line that is not blank, so that
models which were not trained to stop are judged too.

Deviations from MoE-ERL, which has tasks of this kind: prompts in words of our
own, SciTLDR instead of SAMSum and XSUM, decoding without beams, ROUGE-L over
the whole text instead of by sentence, and no choice of an epoch by ROUGE-2. Of
SQuAD there is only XQuAD's English part, of which a fifth is tested. An answer
without words counts as SQuAD 2.0's evaluation has it.

References:
  Cachola et al. 2020, SciTLDR, arXiv:2004.15011.
  Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250.
  Artetxe et al. 2020, XQuAD, arXiv:1910.11856.
"""

import dataclasses
import functools
import importlib.util
import re
import string
from collections import Counter
from collections.abc import Sequence

from dllm_jax.tasks import tags, task

_ROUGE = ('rouge1', 'rouge2', 'rougeL')
_MAX_CHARS = 2048  # of an answer: ROUGE-L takes quadratic time
_ARTICLES = re.compile(r'\b(a|an|the)\b')
_PUNCTUATION = str.maketrans('', '', string.punctuation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _References:
  """What both tasks share; a row has its references as `references`."""

  def words(self) -> tuple[str, ...]:
    """Tags and ASCII characters; other text needs a real tokenizer."""
    return tags.lexicon()

  def demonstration(self, row: task.Row) -> str:
    """A space and the first reference."""
    return f' {self.gold(row)}'

  def gold(self, row: task.Row) -> str:
    """The first reference."""
    return row['references'][0]

  def reasoning_has_gold(self, row: task.Row, completion: str) -> bool:
    """False: there is no reasoning."""
    return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summaries(_References):
  """SciTLDR: a sentence that says what a paper does, given its abstract.

  A row is {'id': str, 'text': str, 'references': list[str]}.
  """

  name = 'scitldr'

  def __post_init__(self):
    if importlib.util.find_spec('rouge_score') is None:
      raise ValueError(
        "task 'scitldr' needs the package rouge-score: "
        "pip install -e '.[rouge]'"
      )

  def prompt(self, row: task.Row) -> str:
    """The abstract and 'TL;DR:'."""
    return f'{row["text"]}\nTL;DR:'

  def score(self, row: task.Row, completion: str) -> task.Score:
    """Compares the summary with the nearest reference.

    Terms: the F1 of ROUGE-1, ROUGE-2 and ROUGE-L with the reference of the
    largest ROUGE-1, with stemming, of the package rouge-score. Correct means
    equal to a reference, apart from what `normalised` drops.
    """
    answer = first_line(completion)
    scores = [_scorer().score(text, answer) for text in row['references']]
    best = max(scores, key=lambda found: found['rouge1'].fmeasure)
    terms = {kind: best[kind].fmeasure for kind in _ROUGE}
    correct = is_exact(answer, row['references'])
    return task.Score(terms, correct, {}, answer or None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading(_References):
  """SQuAD 1.1: a question whose answer is a span of a paragraph.

  A row is {'id': str, 'title': str, 'context': str, 'question': str,
  'references': list[str]}.
  """

  name = 'squad'

  def prompt(self, row: task.Row) -> str:
    """The paragraph, the question and 'Answer:'."""
    return f'{row["context"]}\nQuestion: {row["question"]}\nAnswer:'

  def score(self, row: task.Row, completion: str) -> task.Score:
    """Compares the answer with the references.

    Terms: `exact` is 1 for the same words as a reference, `f1` the F1 of the
    words, the best of the references; both after `normalised`. Correct means
    exact.
    """
    answer = first_line(completion)
    correct = is_exact(answer, row['references'])
    f1 = max(word_f1(answer, text) for text in row['references'])
    terms = {'exact': float(correct), 'f1': f1}
    return task.Score(terms, correct, {}, answer or None)


@functools.cache
def _scorer():
  from rouge_score import rouge_scorer  # late: it is optional

  return rouge_scorer.RougeScorer(_ROUGE, use_stemmer=True)


def first_line(completion: str) -> str:
  """The first line that is not blank, stripped; its start if it is long."""
  text = completion[: tags.MAX_CHARS].lstrip()[:_MAX_CHARS]
  return text.partition('\n')[0].rstrip()


def normalised(text: str) -> str:
  """Lower case, without ASCII punctuation, articles and repeated spaces."""
  text = text.lower().translate(_PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', text).split())


def is_exact(answer: str, references: Sequence[str]) -> bool:
  """Whether the answer is one of the references, both normalised."""
  return normalised(answer) in map(normalised, references)


def word_f1(answer: str, reference: str) -> float:
  """F1 of the normalised words of two texts, as multisets.

  With c words in common, `2 c / (words of both)`; 1 where neither has any.
  """
  words = [normalised(text).split() for text in (answer, reference)]
  common = sum((Counter(words[0]) & Counter(words[1])).values())
  total = len(words[0]) + len(words[1])
  return 2 * common / total if total else 1.0
