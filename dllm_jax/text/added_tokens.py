"""Tokens that files add to those of a model, at the ids that they say."""

import re
from collections.abc import Mapping
from typing import Any

import tokenizers

from dllm_jax.text import byte_level, special

MAX_PLACEHOLDERS = 4096


def listed(
  config: Mapping[str, Any], added: Mapping[str, Any]
) -> dict[int, tuple[str, Mapping[str, Any]]]:
  """Tokens that files add to the model's, by id: text and flags."""
  found = {}
  decoder = config.get('added_tokens_decoder') or {}
  if not isinstance(decoder, dict):
    raise ValueError('added_tokens_decoder is no JSON object')
  pairs = [(key, value, value) for key, value in decoder.items()]
  pairs += [(key, name, {}) for name, key in added.items()]
  for key, name, flags in pairs:
    what = f'added token {key!r:.80}'
    if not re.fullmatch('[0-9]{1,10}', str(key)):
      raise ValueError(f'{what} has an id that is no number')
    name, value = special.name_of(name, what), int(key)
    if name is None or value >= byte_level.MAX_ID:
      raise ValueError(f'{what} has no text, or an id that is too large')
    if found.setdefault(value, (name, flags))[0] != name:
      raise ValueError(f'{what} is both {found[value][0]!r} and {name!r}')
  return dict(sorted(found.items()))


def add(
  tokenizer: tokenizers.Tokenizer,
  added: Mapping[int, tuple[str, Mapping[str, Any]]],
) -> None:
  """Gives every token the id that it is to have; gaps get placeholders."""
  vocab = tokenizer.get_vocab(with_added_tokens=True)
  top = max(vocab.values(), default=-1)
  known = tokenizer.get_added_tokens_decoder()
  for value, (name, flags) in added.items():
    if value - top > MAX_PLACEHOLDERS:
      raise ValueError(
        f'added token {name!r} has id {value}, far beyond the last id {top}'
      )
    if name not in vocab:
      gap = [f'<|unused_{i}|>' for i in range(top + 1, value)]
      tokenizer.add_special_tokens(gap)
    if name not in vocab or value not in known:
      made = token(name, flags)
      put = (
        tokenizer.add_special_tokens if made.special else tokenizer.add_tokens
      )
      put([made])
    if tokenizer.token_to_id(name) != value:
      raise ValueError(
        f'added token {name!r} is to have id {value}, but the tokenizer gives '
        f'it {tokenizer.token_to_id(name)}'
      )
    top = max(top, value)


def add_mask(
  tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any]
) -> None:
  """A token for a mask id that the model has beyond its tokenizer's ids."""
  for value in special.ids_of(config.get('mask_token_id'), 'mask_token_id')[:1]:
    name = special.KNOWN['mask'][1]
    if (
      tokenizer.id_to_token(value) is None
      and tokenizer.token_to_id(name) is None
    ):
      add(tokenizer, {value: (name, {'special': True})})


def token(name: str, flags: Mapping[str, Any]) -> tokenizers.AddedToken:
  """A token with the flags that a file gives it."""
  flag = lambda key: flags.get(key) is True
  return tokenizers.AddedToken(
    name,
    special=flag('special'),
    lstrip=flag('lstrip'),
    rstrip=flag('rstrip'),
    single_word=flag('single_word'),
    normalized=flag('normalized'),
  )


def special_ids(tokenizer: tokenizers.Tokenizer) -> frozenset[int]:
  """Ids of the tokens that the tokenizer calls special."""
  decoder = tokenizer.get_added_tokens_decoder()
  return frozenset(i for i, token in decoder.items() if token.special)
