"""A tokenizer from a Hugging Face directory, none of whose files is trusted.

Either `tokenizer.json`, or `vocab.json` and `merges.txt` for the families whose
pre-tokenizer is known here; tokens that other files add get the ids and flags
that these say. No file is code, and no code that comes along is run.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from dllm_jax.text import byte_level, json_file, special, tokenizer_json

MAX_PLACEHOLDERS = 4096


def read(
  directory: pathlib.Path, model: Mapping[str, Any] | None = None
) -> tuple[tokenizers.Tokenizer, special.SpecialTokens]:
  """The tokenizer of a directory, and its special tokens.

  Args:
    directory: the folder of the files.
    model: content of config.json, if that file is not in the folder.

  Raises:
    errors.UserError, ValueError: in one line that names the file.
  """
  if not directory.is_dir():
    raise ValueError(f'{directory} is not a directory')
  optional = lambda name: json_file.read_optional(directory / name)
  config = optional('tokenizer_config.json')
  token_map = optional('special_tokens_map.json')
  if model is None:
    model = optional('config.json')
  path = directory / 'tokenizer.json'
  if path.exists():
    tokenizer = tokenizer_json.read(path)
  else:
    tokenizer = byte_level.read(directory, config)
  try:
    if config.get('split_special_tokens'):
      raise ValueError(
        'split_special_tokens makes text of the special tokens of prompts'
      )
    names, others = special.names(config, token_map)
    texts = [*names.values(), *others]
    legacy = optional('added_tokens.json')
    _add(tokenizer, _listed(tokenizer, config, legacy, texts))
    _add_mask(tokenizer, model)
    _mark(tokenizer, texts)
    added = tokenizer.get_added_tokens_decoder()
    tokens = special.find(
      [names, token_map],
      [model, optional('generation_config.json')],
      tokenizer.token_to_id,
      lambda value: value in added and added[value].special,
    )
    check(tokenizer, tokens, rows=_rows(model))
  except ValueError as e:
    raise ValueError(f'the tokenizer in {directory}: {e}') from e
  return tokenizer, tokens


def _listed(
  tokenizer: tokenizers.Tokenizer,
  config: Mapping[str, Any],
  legacy: Mapping[str, Any],
  special_texts: Sequence[str],
) -> dict[int, tokenizers.AddedToken]:
  """Tokens that files add to the tokenizer's own, by id.

  Args:
    tokenizer: of tokenizer.json; its flags win over `legacy`.
    config: tokenizer_config.json, whose flags win over the tokenizer's.
    legacy: added_tokens.json, which has no flags.
    special_texts: those that files call special.
  """
  tokens = {}
  decoder = config.get('added_tokens_decoder') or {}
  if not isinstance(decoder, dict):
    raise ValueError('added_tokens_decoder is not a JSON object')
  known = {
    token.content: value
    for value, token in tokenizer.get_added_tokens_decoder().items()
  }
  items = [(key, flags, flags) for key, flags in decoder.items()]
  items += [
    (key, name, {'special': name in special_texts})
    for name, key in legacy.items()
    if known.get(name, -1) != key
  ]
  for key, name, flags in items:
    what = f'added token {key!r:.80}'
    if not re.fullmatch('[0-9]{1,10}', str(key)):
      raise ValueError(f'{what} has an id that is not a number')
    name, value = special.name_of(name, what), int(key)
    if name is None or value >= tokenizer_json.MAX_ID:
      raise ValueError(f'{what} has no text, or an id that is too large')
    before = tokens.setdefault(value, _token(name, flags)).content
    if before != name:
      raise ValueError(f'{what} is both {before!r} and {name!r}')
  return dict(sorted(tokens.items()))


def _token(name: str, flags: Any) -> tokenizers.AddedToken:
  """A token with the flags that a file gives it."""
  flags = flags if isinstance(flags, dict) else {}
  flag = lambda key, default=False: flags.get(key, default) is True
  return tokenizers.AddedToken(
    name,
    special=flag('special'),
    lstrip=flag('lstrip'),
    rstrip=flag('rstrip'),
    single_word=flag('single_word'),
    normalized=flag('normalized', not flag('special')),
  )


def _add(
  tokenizer: tokenizers.Tokenizer,
  added: Mapping[int, tokenizers.AddedToken],
) -> None:
  """Gives every token the id that it is to have; gaps get placeholders."""
  vocab = tokenizer.get_vocab(with_added_tokens=True)
  top = max(vocab.values(), default=-1)
  for value, token in added.items():
    name = token.content
    if value - top > MAX_PLACEHOLDERS:
      raise ValueError(
        f'added token {name!r} has id {value}, far beyond the last id {top}'
      )
    if name not in vocab:
      gap = [f'<|unused_{i}|>' for i in range(top + 1, value)]
      tokenizer.add_special_tokens(gap)
    tokenizer.add_tokens([token])  # of a known one, the flags
    if tokenizer.token_to_id(name) != value:
      raise ValueError(
        f'added token {name!r} should have id {value}, but the tokenizer gives '
        f'it {tokenizer.token_to_id(name)}'
      )
    top = max(top, value)


def _add_mask(
  tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any]
) -> None:
  """A token for a mask id that the model has beyond its tokenizer's ids."""
  for value in special.ids_of(config.get('mask_token_id'), 'mask_token_id')[:1]:
    name = special.KNOWN['mask'][1]
    if (
      tokenizer.id_to_token(value) is None
      and tokenizer.token_to_id(name) is None
    ):
      _add(tokenizer, {value: _token(name, {'special': True})})


def _mark(tokenizer: tokenizers.Tokenizer, names: Sequence[str]) -> None:
  """Makes special tokens of the texts that files name, their flags kept."""
  added = tokenizer.get_added_tokens_decoder()
  for name in names:
    value = tokenizer.token_to_id(name)
    if value is None:
      raise ValueError(f'the special token {name!r} is not in the tokenizer')
    if value not in added:
      tokenizer.add_special_tokens([_token(name, {'special': True})])


def check(
  tokenizer: tokenizers.Tokenizer,
  tokens: special.SpecialTokens,
  *,
  rows: int | None = None,
) -> None:
  """Refuses ids that a model cannot hold, and special tokens that text spells.

  Also marks the special tokens as such, so that they are.

  Args:
    tokenizer: its tokens.
    tokens: their special ones.
    rows: size of the model's embedding table, if known.

  Raises:
    ValueError: in one line.
  """
  vocab = tokenizer.get_vocab(with_added_tokens=True)
  top = max(vocab.values(), default=-1)
  if top >= tokenizer_json.MAX_ID:
    raise ValueError(f'id {top} is beyond the limit of {tokenizer_json.MAX_ID}')
  if len(set(vocab.values())) < len(vocab):
    raise ValueError('two tokens share one id')
  longest = tokenizer_json.MAX_TOKEN_LENGTH
  if max(map(len, vocab), default=0) > longest:
    raise ValueError(f'a token is longer than {longest} characters')
  if rows is not None and top >= rows:
    raise ValueError(
      f'id {top} is beyond the {rows} rows of the embedding that config.json '
      'gives; are they from one model?'
    )
  added = tokenizer.get_added_tokens_decoder()
  for value in sorted(tokens.ids()):
    name = tokenizer.id_to_token(value)
    if name is None:
      raise ValueError(f'special id {value} is not a token')
    token = added.get(value) or _token(name, {'special': True})
    token.special = True
    tokenizer.add_special_tokens([token])
    if _spells(tokenizer, value, name):
      raise ValueError(
        f'special id {value} is the ordinary token {name!r}, which text spells'
      )


def _spells(tokenizer: tokenizers.Tokenizer, value: int, name: str) -> bool:
  """Whether a user's text of that token would be the token."""
  before = tokenizer.encode_special_tokens
  tokenizer.encode_special_tokens = True
  try:
    with tokenizer_json.no_panic():
      texts = {name, tokenizer.decode([value], skip_special_tokens=False)}
      return any(
        value in tokenizer.encode(text, add_special_tokens=False).ids
        for text in texts
      )
  except RuntimeError as e:
    raise ValueError(f'the tokenizer fails on the text {name!r}: {e}') from e
  except Exception:  # a word that the model lacks: the library raises Exception
    return False
  finally:
    tokenizer.encode_special_tokens = before


def _rows(config: Mapping[str, Any]) -> int | None:
  rows = config.get('embedding_size') or config.get('vocab_size')
  if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int)):
    raise ValueError(f'vocab_size of config.json is not a number: {rows!r:.80}')
  return rows
