"""A thin wrapper of `tokenizers.Tokenizer`.

The wrapper fixes three things: text round-trips exactly, unknown text is an
error that names the piece, and special tokens are never parsed out of text: a
prompt that spells '<|mask|>' is text, or an error. Where special tokens are
wanted, as in a chat template, the text comes in pieces that say so.
"""

import functools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers

from dllm_jax import errors, types
from dllm_jax.text import directory, special, tokenizer_json
from dllm_jax.text import pieces as pieces_lib
from dllm_jax.text import words as words_lib


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
    self._post_processor = tokenizer.post_processor
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
    self._special_pattern = re.compile(
      f'({"|".join(map(re.escape, longest_first))})'
    )

  @classmethod
  def from_words(
    cls, words: Sequence[str], *, has_mask: bool = True
  ) -> 'Tokenizer':
    """Builds a word-level tokenizer.

    Text is split, from the left, into the longest word that fits; so
    decode(encode(text)) == text for all text that the words cover.

    Args:
      words: distinct non-empty strings, spaces and newlines included. Word i
        gets id i; EOS and mask follow.
      has_mask: whether there is a mask token; causal models have none.

    Raises:
      ValueError: if a word is empty, duplicate, or one of the special tokens.
    """
    return cls(*words_lib.build(words, has_mask=has_mask))

  @classmethod
  def from_directory(
    cls,
    path: str | pathlib.Path,
    *,
    model: Mapping[str, Any] | None = None,
  ) -> 'Tokenizer':
    """Reads the tokenizer of a Hugging Face directory.

    Args:
      path: it holds tokenizer.json, or vocab.json and merges.txt; and the
        files that name special tokens.
      model: what the model's config.json says, where it is not there.

    Raises:
      errors.UserError: if anything there is missing, damaged or hostile.
    """
    try:
      with tokenizer_json.no_panic():
        return cls(*directory.read(pathlib.Path(path), model))
    except (ValueError, OSError, RuntimeError) as e:
      raise errors.UserError(' '.join(str(e).split())) from e

  def save(self, path: str | pathlib.Path) -> None:
    """Writes a `tokenizer.json`; parent folders are made."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(self._tokenizer.to_str(pretty=True), encoding='utf-8')

  def vocabulary(self) -> types.Vocabulary:
    """What decoders and losses must know of the ids."""
    return self.special.vocabulary(self.vocab_size)

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

  @functools.cached_property
  def opening(self) -> str:
    """Special tokens that the folder's tokenizer puts before a text.

    Such as LLaMA 3's '<|begin_of_text|>'; '' where it puts none.

    Raises:
      ValueError: they are no special tokens of it.
    """
    if self._post_processor is None:
      return ''
    names = {value: name for name, value in self._special_ids.items()}
    self._tokenizer.post_processor = self._post_processor
    try:
      with tokenizer_json.no_panic():
        ids = self._tokenizer.encode('').ids
        if ids:  # some may belong behind the text
          probe = self._tokenizer.encode('a')
          ids = ids[: (*probe.special_tokens_mask, 0).index(0)]
      return ''.join(names[value] for value in ids)
    except Exception as e:  # the library raises plain Exception
      raise ValueError(f'what opens a text is no special token: {e}') from e
    finally:
      self._tokenizer.post_processor = None

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

  def encode_pieces(
    self, prompts: Sequence[pieces_lib.Prompt]
  ) -> list[pieces_lib.Encoded]:
    """Tokens of prompts that come in pieces.

    They are those that `tokenizers` gives the joined text, special tokens
    parsed, unless content has a part in one: then what lies between the
    templates' special tokens is tokenized as text. A token of both template and
    content is not content.

    Raises:
      ValueError: naming the first piece that is not in the vocabulary; or
        content spells a special token, and this tokenizer's change the text
        beside them.
    """
    try:
      encodings = self._parsed(prompts)
    except ValueError:  # what follows names the piece
      return [self._encode_parts(prompt) for prompt in prompts]
    return [
      self._encode_parts(prompt)
      if pieces_lib.spells(prompt, encoding, self.special_ids)
      else pieces_lib.Encoded(
        encoding.ids, pieces_lib.content_spans(prompt, encoding.offsets)
      )
      for prompt, encoding in zip(prompts, encodings, strict=True)
    ]

  def encode_templates(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
    """Ids and offsets of texts whose special tokens are tokens.

    Raises:
      ValueError: naming the first piece that is not in the vocabulary.
    """
    return self._parsed([[pieces_lib.Piece(text, True)] for text in texts])

  def find_special(self, text: str) -> str | None:
    """The first special token that a text spells, by its name."""
    found = self._special_pattern.search(text) if self._special_ids else None
    return found and found[0]

  @functools.cached_property
  def special_ids(self) -> frozenset[int]:
    """Ids of all special tokens."""
    return frozenset(self._special_ids.values())

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
      with tokenizer_json.no_panic():
        return self._tokenizer.decode_batch(rows, skip_special_tokens=True)
    except RuntimeError as error:
      raise ValueError(f'the tokenizer fails on ids: {error}') from error

  def _encodings(self, encode, texts: Sequence[str]):
    try:
      with tokenizer_json.no_panic():
        return encode(list(texts), add_special_tokens=False)
    except UnicodeError as error:
      raise ValueError(f'text is not valid Unicode: {error}') from error
    except RuntimeError as error:
      raise ValueError(f'the tokenizer fails on a text: {error}') from error
    except Exception as error:  # the library raises plain Exception
      piece = self._first_unknown(texts)
      if piece is None:
        raise
      raise ValueError(f'not in the vocabulary: {piece!r}') from error

  def _parsed(self, prompts: Sequence[pieces_lib.Prompt]):
    """Encodings of the joined texts, their special tokens parsed."""
    self._tokenizer.encode_special_tokens = False
    try:
      texts = [pieces_lib.joined(prompt) for prompt in prompts]
      return self._encodings(self._tokenizer.encode_batch, texts)
    finally:
      self._tokenizer.encode_special_tokens = True

  def _encode_parts(self, prompt: pieces_lib.Prompt) -> pieces_lib.Encoded:
    """Tokens of a prompt, its parts between special tokens encoded as text."""
    blank = [piece for piece in prompt if piece.is_template]
    if len(blank) < len(prompt):
      ids = self._encode_parts(blank).ids
      if ids != self._parsed([blank])[0].ids:
        raise ValueError(
          'the prompt spells a special token, which is text there, but this '
          'tokenizer has special tokens that change the text beside them'
        )
    encoded = pieces_lib.Encoded([], [])
    for part in self._parts(prompt):
      if isinstance(part, int):
        encoded.ids.append(part)
        encoded.is_content.append(False)
      else:
        texts = [pieces_lib.joined(part)]
        [encoding] = self._encodings(self._tokenizer.encode_batch, texts)
        spans = pieces_lib.content_spans(part, encoding.offsets)
        encoded.ids.extend(encoding.ids)
        encoded.is_content.extend(spans)
    return encoded

  def _parts(
    self, prompt: pieces_lib.Prompt
  ) -> Iterable[int | list[pieces_lib.Piece]]:
    """Special ids of templates, and the pieces between them."""
    run = []
    for piece in prompt:
      texts = [piece.text]
      if piece.is_template:
        texts = self._special_pattern.split(piece.text)
      for i, text in enumerate(texts):
        if i % 2:  # the names are every other part
          if run:
            yield run
          run = []
          yield self._special_ids[text]
        elif text:
          run.append(piece._replace(text=text))
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
