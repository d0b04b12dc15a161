"""A thin wrapper of `tokenizers.Tokenizer`.

The wrapper fixes three things: text round-trips exactly, unknown text is an
error that names the piece, and special tokens are never parsed out of text
unless asked for (a prompt that spells '<|mask|>' is text, or an error).
"""

import pathlib
import re
from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

EOS = '<|eos|>'
MASK = '<|mask|>'
MAX_FILE_BYTES = 64 * 2**20


class Tokenizer:
  """Text to ids and back.

  Attributes:
    eos_token: id of the end-of-sequence token, also used as padding.
    mask_token: id of the mask token.
    vocab_size: number of ids, special tokens included.
  """

  def __init__(
    self,
    tokenizer: tokenizers.Tokenizer,
    *,
    eos: str = EOS,
    mask: str = MASK,
    parse_special: bool = False,
  ):
    """Wraps `tokenizer`.

    Args:
      tokenizer: it must know `eos` and `mask`.
      eos: text of the end-of-sequence token.
      mask: text of the mask token.
      parse_special: whether special tokens are recognised in encoded text.

    Raises:
      ValueError: if a special token is missing.
    """
    for name in (eos, mask):
      if tokenizer.token_to_id(name) is None:
        raise ValueError(f'the tokenizer has no token {name!r}')
    if tokenizer.token_to_id(eos) == tokenizer.token_to_id(mask):
      raise ValueError(f'EOS {eos!r} and mask {mask!r} share one id')
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = not parse_special
    self._tokenizer = tokenizer
    self.eos_token: int = tokenizer.token_to_id(eos)
    self.mask_token: int = tokenizer.token_to_id(mask)
    self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)

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
    seen = set()
    for word in words:
      if not word or word in seen or word in (EOS, MASK):
        raise ValueError(f'empty, double or reserved word: {word!r}')
      seen.add(word)
    # EOS and mask stay out of the model, so that no text can spell them.
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token='\0'))
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    pattern = '|'.join(_escape(word) for word in longest_first)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
      tokenizers.Regex(pattern), behavior='isolated'
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([EOS, MASK])
    return cls(tokenizer)

  @classmethod
  def load(
    cls,
    path: str | pathlib.Path,
    *,
    eos: str = EOS,
    mask: str = MASK,
    parse_special: bool = False,
  ) -> 'Tokenizer':
    """Reads a `tokenizer.json`; the arguments are those of the class.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is too large or not a tokenizer.
    """
    path = pathlib.Path(path)
    if not path.is_file():
      raise FileNotFoundError(f'no tokenizer file at {path}')
    if path.stat().st_size > MAX_FILE_BYTES:
      raise ValueError(f'{path} is larger than {MAX_FILE_BYTES} bytes')
    text = path.read_text(encoding='utf-8')
    try:
      tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
      raise ValueError(f'{path} is not a tokenizer: {error}') from error
    return cls(tokenizer, eos=eos, mask=mask, parse_special=parse_special)

  def save(self, path: str | pathlib.Path) -> None:
    """Writes a `tokenizer.json`; parent folders are made."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(self._tokenizer.to_str(pretty=True), encoding='utf-8')

  def encode(self, text: str) -> list[int]:
    """Ids of `text`; no special tokens are added.

    Raises:
      ValueError: naming the first piece that is not in the vocabulary.
    """
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text; see `encode`."""
    try:
      encodings = self._tokenizer.encode_batch_fast(
        list(texts), add_special_tokens=False
      )
    except Exception as error:  # the library raises plain Exception
      piece = self._first_unknown(texts)
      if piece is None:
        raise
      raise ValueError(f'not in the vocabulary: {piece!r}') from error
    return [encoding.ids for encoding in encodings]

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
    return self._tokenizer.decode_batch(rows, skip_special_tokens=True)

  def _first_unknown(self, texts: Sequence[str]) -> str | None:
    for text in texts:
      pieces = [(text, (0, len(text)))]
      if self._tokenizer.pre_tokenizer is not None:
        pieces = self._tokenizer.pre_tokenizer.pre_tokenize_str(text)
      for piece, _ in pieces:
        if self._tokenizer.model.token_to_id(piece) is None:
          return piece
    return None


def _escape(word: str) -> str:
  """Escapes `word` for the Oniguruma syntax of `tokenizers.Regex`."""
  return re.sub(r'([\\^$.|?*+()\[\]{}])', r'\\\1', word)
