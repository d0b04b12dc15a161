"""A thin wrapper of `tokenizers.Tokenizer`.

The wrapper fixes three things: text round-trips exactly, unknown text is an
error that names the piece, and special tokens are never parsed out of text: a
prompt that spells '<|mask|>' is text, or an error. Where special tokens are
wanted, as in a chat template, the text comes in pieces that say so.
"""

import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers

from dllm_jax import errors
from dllm_jax.text import byte_level, directory, special
from dllm_jax.text import words as words_lib


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


class Tokenizer:
  """Text to ids and back.

  Attributes:
    special: the ids that text cannot spell.
    eos_token: id of the end-of-sequence token.
    mask_token: id of the mask token; None for a causal model's tokenizer.
    vocab_size: number of ids, special tokens included.
  """

  def __init__(
    self,
    tokenizer: tokenizers.Tokenizer,
    special_tokens: special.SpecialTokens,
  ):
    """Wraps `tokenizer`, which it changes.

    Raises:
      ValueError: if text can spell a special token.
    """
    directory.check(tokenizer, special_tokens)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    # It would add special tokens, and trims the spans of tokens.
    tokenizer.post_processor = None
    self._tokenizer = tokenizer
    self.special = special_tokens
    self.eos_token: int = special_tokens.eos
    self.mask_token: int | None = special_tokens.mask
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    self.vocab_size: int = max(vocab.values()) + 1
    added = tokenizer.get_added_tokens_decoder()
    names = {token.content: i for i, token in added.items() if token.special}
    self._special_ids = names
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    self._special_names = re.compile(
      f'({"|".join(map(re.escape, longest_first))})'
    )

  @classmethod
  def from_words(cls, words: Sequence[str]) -> 'Tokenizer':
    """Builds a word-level tokenizer.

    Text is split, from the left, into the longest word that fits; so
    decode(encode(text)) == text for all text that the words cover.

    Args:
      words: distinct non-empty strings, spaces and newlines included. Word i
        gets id i; EOS and mask follow.

    Raises:
      ValueError: if a word is empty, double, or one of the special tokens.
    """
    return cls(*words_lib.build(words))

  @classmethod
  def from_directory(
    cls,
    path: str | pathlib.Path,
    *,
    need_mask: bool = True,
    model: Mapping[str, Any] | None = None,
  ) -> 'Tokenizer':
    """Reads the tokenizer of a Hugging Face directory.

    Args:
      path: it holds tokenizer.json, or vocab.json and merges.txt; and the
        files that name special tokens.
      need_mask: whether a tokenizer without a mask token is an error.
      model: what the model's config.json says, where it is not there.

    Raises:
      errors.UserError: if anything there is missing, damaged or hostile.
    """
    try:
      tokenizer, found = directory.read(pathlib.Path(path), model)
      if need_mask and found.mask is None:
        raise ValueError(
          f'the tokenizer in {path} has no mask token; set mask_token in '
          'tokenizer_config.json or mask_token_id in config.json'
        )
      return cls(tokenizer, found)
    except (ValueError, OSError) as e:
      raise errors.UserError(' '.join(str(e).split())) from e

  @classmethod
  def load(
    cls,
    path: str | pathlib.Path,
    *,
    eos: str = words_lib.EOS,
    mask: str = words_lib.MASK,
  ) -> 'Tokenizer':
    """Reads a `tokenizer.json`.

    Args:
      path: the file.
      eos: text of the end-of-sequence token, also used as padding.
      mask: text of the mask token.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is too large or not a tokenizer, or lacks one of
        the two.
    """
    path = pathlib.Path(path)
    if not path.is_file():
      raise FileNotFoundError(f'no tokenizer file at {path}')
    tokenizer = directory.parse(path)
    return cls(tokenizer, words_lib.named(tokenizer, eos, mask))

  def save(self, path: str | pathlib.Path) -> None:
    """Writes a `tokenizer.json`; parent folders are made."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(self._tokenizer.to_str(pretty=True), encoding='utf-8')

  def check_rows(self, rows: int, where: str) -> None:
    """Refuses a model whose embedding has fewer rows than there are ids.

    A gather beyond a table is silent on a device.

    Args:
      rows: of the table.
      where: the model, for the message.

    Raises:
      errors.UserError: if an id has no row.
    """
    if rows < self.vocab_size:
      raise errors.UserError(
        f'the tokenizer has {self.vocab_size} ids, but the embedding of '
        f'{where} has {rows} rows: take both from one model'
      )

  def encode(self, text: str) -> list[int]:
    """Ids of `text`; no special tokens are added.

    Raises:
      ValueError: naming the first piece that is not in the vocabulary.
    """
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text; see `encode`."""
    encodings = self._encodings(self._tokenizer.encode_batch_fast, texts)
    return [encoding.ids for encoding in encodings]

  def encode_pieces(self, prompts: Sequence[Sequence[Piece]]) -> list[Encoded]:
    """Tokens of prompts that come in pieces.

    Special tokens of templates part the text; what lies between two of them is
    tokenized as one, whoever wrote it, so that ids are those of the joined
    text. A token of both template and content is not content.

    Raises:
      ValueError: naming the first piece that is not in the vocabulary.
    """
    runs = [list(self._runs(pieces)) for pieces in prompts]
    texts = [run for row in runs for run in row if isinstance(run, list)]
    joined = [''.join(piece.text for piece in run) for run in texts]
    encodings = iter(self._encodings(self._tokenizer.encode_batch, joined))
    rows = []
    for row in runs:
      encoded = Encoded([], [])
      for run in row:
        if isinstance(run, int):
          encoded.ids.append(run)
          encoded.is_content.append(False)
        else:
          encoding = next(encodings)
          encoded.ids.extend(encoding.ids)
          encoded.is_content.extend(_content_spans(run, encoding.offsets))
      rows.append(encoded)
    return rows

  def decode(self, ids: Iterable[int]) -> str:
    """Text of `ids`, special tokens left out.

    Raises:
      ValueError: if an id is outside the vocabulary.
    """
    return self.decode_batch([ids])[0]

  def decode_batch(self, rows: Iterable[Iterable[int]]) -> list[str]:
    """Text of each row of ids; see `decode`."""
    rows = [[int(i) for i in ids] for ids in rows]
    for ids in rows:
      if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
        raise ValueError(
          f'ids must be in 0..{self.vocab_size - 1}, found '
          f'{min(ids)}..{max(ids)}'
        )
    try:
      with byte_level.no_panic():
        return self._tokenizer.decode_batch(rows, skip_special_tokens=True)
    except RuntimeError as error:
      raise ValueError(f'the tokenizer fails on ids: {error}') from error

  def _encodings(self, encode, texts: Sequence[str]):
    try:
      with byte_level.no_panic():
        return encode(list(texts), add_special_tokens=False)
    except UnicodeError as error:
      raise ValueError(f'text that is no Unicode: {error}') from error
    except RuntimeError as error:
      raise ValueError(f'the tokenizer fails on a text: {error}') from error
    except Exception as error:  # the library raises plain Exception
      piece = self._first_unknown(texts)
      if piece is None:
        raise
      raise ValueError(f'not in the vocabulary: {piece!r}') from error

  def _runs(self, pieces: Sequence[Piece]) -> Iterable[int | list[Piece]]:
    """Special ids of templates, and the pieces between them."""
    run = []
    for piece in pieces:
      parts = [piece.text]
      if piece.is_template:
        parts = self._special_names.split(piece.text)
      for i, part in enumerate(parts):
        if i % 2:  # the names are every other part
          if run:
            yield run
          run = []
          yield self._special_ids[part]
        elif part:
          run.append(Piece(part, piece.is_template))
    if run:
      yield run

  def _first_unknown(self, texts: Sequence[str]) -> str | None:
    for text in texts:
      pieces = [(text, (0, len(text)))]
      if self._tokenizer.pre_tokenizer is not None:
        pieces = self._tokenizer.pre_tokenizer.pre_tokenize_str(text)
      for piece, _ in pieces:
        if self._tokenizer.model.token_to_id(piece) is None:
          return piece
    return None


def _content_spans(
  run: Sequence[Piece], spans: Sequence[tuple[int, int]]
) -> list[bool]:
  """Which spans of the joined run hold content and nothing else."""
  written = [[piece.is_template] * len(piece.text) for piece in run]
  before = [0, *itertools.accumulate(itertools.chain(*written))]
  return [a < b and before[a] == before[b] for a, b in spans]
