"""Prompts in pieces: what a template wrote, and what is the user's."""

import itertools
from collections.abc import Sequence, Set
from typing import NamedTuple

import tokenizers

# What the library takes for a space beside a token with lstrip or rstrip.
_SPACES = (
  '\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007'
  '\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000'
)


class Piece(NamedTuple):
  """A part of a prompt.

  Attributes:
    text: what it says.
    is_template: whether a template wrote it: its special tokens are tokens,
      and no estimator masks it. Content is the user's, and text throughout.
  """

  text: str
  is_template: bool


class Encoded(NamedTuple):
  """The tokens of a prompt.

  Attributes:
    ids: one a token.
    is_content: True where all of the token's text is content.
  """

  ids: list[int]
  is_content: list[bool]


Prompt = Sequence[Piece]


def joined(prompt: Prompt) -> str:
  """The text of a prompt."""
  return ''.join(piece.text for piece in prompt)


def _template_before(prompt: Prompt) -> list[int]:
  """How many characters of templates precede each of the joined text's."""
  written = [[piece.is_template] * len(piece.text) for piece in prompt]
  return [0, *itertools.accumulate(itertools.chain(*written))]


def content_spans(
  prompt: Prompt, spans: Sequence[tuple[int, int]]
) -> list[bool]:
  """Which spans of the joined text hold content and nothing else."""
  before = _template_before(prompt)
  return [a < b and before[a] == before[b] for a, b in spans]


def spells(
  prompt: Prompt, encoding: tokenizers.Encoding, special_ids: Set[int]
) -> bool:
  """Whether content has a part in the name of a special token.

  Args:
    prompt: the pieces whose joined text was encoded.
    encoding: its tokens; special ones may span spaces beside their names.
    special_ids: ids of the special tokens.
  """
  text, before = joined(prompt), _template_before(prompt)
  for value, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
    if value in special_ids:
      span = text[start:stop]
      name = span.strip(_SPACES) or span
      start += span.index(name)
      if before[start + len(name)] - before[start] < len(name):
        return True
  return False
