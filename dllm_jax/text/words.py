"""Word-level tokenizers: a list of words, and text split into the longest."""

import re
from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from dllm_jax.text import special

EOS = '<|eos|>'
MASK = '<|mask|>'


def build(
  words: Sequence[str], *, has_mask: bool
) -> tuple[tokenizers.Tokenizer, special.SpecialTokens]:
  """The tokenizer of `Tokenizer.from_words`, and its special tokens.

  Raises:
    ValueError: a word is empty, duplicate, or one of the special tokens.
  """
  seen = set()
  for word in words:
    if not word or word in seen or word in (EOS, MASK):
      raise ValueError(f'empty, duplicate or reserved word: {word!r}')
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
  tokenizer.add_special_tokens([EOS, MASK] if has_mask else [EOS])
  eos, mask = len(vocab), len(vocab) + 1 if has_mask else None
  return tokenizer, special.SpecialTokens(mask=mask, eos=eos)


def _escape(word: str) -> str:
  """Escapes `word` for the Oniguruma syntax of `tokenizers.Regex`."""
  return re.sub(r'([\\^$.|?*+()\[\]{}])', r'\\\1', word)
