"""A completion as a person reads it: its text, and how it was unmasked."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dllm_jax.rollout import completions
from dllm_jax.runtime import console
from dllm_jax.text import tokenizer as tokenizer_lib

MASK_MARK = '░'
BROKEN = '\ufffd'  # what a decoder makes of a part of a character
MAX_CHARACTER = 4  # tokens that spell one: bytes of UTF-8
MASKED, NEW, OLD = 'dim', 'bold green', ''
# Of a decoder that drafts: what the model accepted, and what it rejected.
ACCEPTED, REJECTED = 'bold cyan', 'red strike'


def pieces(tokenizer: tokenizer_lib.Tokenizer, ids: Sequence[int]) -> list[str]:
  """The text of each token; together they are the text of all.

  A character that several tokens spell is the last one's. Special tokens have
  no text.
  """
  texts = tokenizer.decode_batch([i] for i in ids)
  began = None  # of the tokens that spell a part of a character
  for i, piece in enumerate(texts):
    if began is None and BROKEN not in piece:
      continue
    began = i if began is None else began
    piece = tokenizer.decode(ids[began : i + 1])
    whole = BROKEN not in piece or i + 1 - began == MAX_CHARACTER
    texts[i] = piece if whole else ''
    began = None if whole else began
  if began is not None:
    texts[-1] = tokenizer.decode(ids[began:])
  return texts


def frames(
  row: Mapping[str, Any],
  spell: Callable[[Sequence[int]], str],
  mask_mark: str = MASK_MARK,
) -> Iterator[list[tuple[str, str]]]:
  """The canvas after each step of a row, as (text, style) parts.

  No decoder remasks, so the steps follow from `commit_step`; what no step
  committed (behind an early end) is shown by the last. A rejected draft stands
  before the token that the model chose in its place, in that step alone.

  Args:
    row: completion as `launch/generate.py` writes it.
    spell: gives the text of adjacent ids.
    mask_mark: shown for each token that is undecided.
  """
  ids, steps = row['completion_ids'], row['commit_step']
  drafted = row.get('drafted', [-1] * len(ids))
  for t in range(1, row['num_steps'] + 1):

    def style_of(i, t=t):
      if steps[i] >= t and t < row['num_steps']:
        return MASKED
      if steps[i] != t - 1:
        return OLD
      return ACCEPTED if drafted[i] == ids[i] else NEW

    parts = []
    for style, run in itertools.groupby(range(len(ids)), style_of):
      run = list(run)
      draft = drafted[run[0]]
      if style == NEW and draft >= 0:
        parts.append((spell([draft]), REJECTED))
      run = [ids[i] for i in run]
      text = mask_mark * len(run) if style == MASKED else spell(run)
      parts.append((text, style))
    yield parts


def play(
  row: Mapping[str, Any],
  tokenizer: tokenizer_lib.Tokenizer | None,
  screen: console.Console,
  mask_mark: str = MASK_MARK,
) -> None:
  """Shows how a row was decoded; its last frame stays. As `frames`."""
  written = functools.partial(completions.spell, tokenizer)
  with screen.frames() as show:
    for t, parts in enumerate(frames(row, written, mask_mark), 1):
      show([(title(row, t), 'bold'), *parts])


def title(row: Mapping[str, Any], step: int) -> str:
  """What stands before the canvas after `step` steps.

  The step, how many tokens it committed, and how sure the model was of them:
  the mean of their probabilities.
  """
  new = [
    math.exp(logp)
    for logp, at in zip(row['logp'], row['commit_step'], strict=True)
    if at == step - 1
  ]
  tokens = f'{len(new)} token{"s" * (len(new) != 1)}'
  sure = f', confidence {sum(new) / len(new):.2f}' if new else ''
  return f'{row["id"]}  {step}/{row["num_steps"]}  {tokens}{sure}  '
