"""A tokenizer from a Hugging Face directory, none of whose files is trusted.

Either `tokenizer.json`, or `vocab.json` and `merges.txt` for the families whose
pre-tokenizer is known here; tokens that tokenizer_config.json adds get the ids
that it says. No file is code, and no code that comes along is run.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

from dllm_jax.text import added_tokens, byte_level, json_file, pattern, special

MAX_CONFIG_BYTES = 4 * 2**20
MAX_ADDED = 2**15
MAX_TOKEN_LENGTH = 1024
MAX_DEPTH = 32
MAX_GROWTH = 64  # of a text, by all replacements together


def read(
  directory: pathlib.Path, model: Mapping[str, Any] | None = None
) -> tuple[tokenizers.Tokenizer, special.SpecialTokens]:
  """The tokenizer of a directory, and its special tokens.

  Args:
    directory: of the files.
    model: what its config.json says, where that file is not there.

  Raises:
    ValueError: in one line that names the file.
  """
  if not directory.is_dir():
    raise ValueError(f'{directory} is no directory')
  optional = lambda name: _optional(directory / name)
  config = optional('tokenizer_config.json')
  names = [config, optional('special_tokens_map.json')]
  if model is None:
    model = optional('config.json')
  numbers = [model, optional('generation_config.json')]
  path = directory / 'tokenizer.json'
  if path.exists():
    tokenizer = parse(path)
  else:
    tokenizer = byte_level.read(directory, config)
  try:
    added = added_tokens.listed(config, optional('added_tokens.json'))
    added_tokens.add(tokenizer, added)
    added_tokens.add_mask(tokenizer, numbers[0])
    found = special.find(
      names,
      numbers,
      tokenizer.token_to_id,
      added_tokens.special_ids(tokenizer).__contains__,
    )
    check(tokenizer, found, rows=_rows(numbers[0]))
  except ValueError as e:
    raise ValueError(f'the tokenizer in {directory}: {e}') from e
  return tokenizer, found


def parse(path: pathlib.Path) -> tokenizers.Tokenizer:
  """The tokenizer of a `tokenizer.json`.

  Raises:
    ValueError: in one line, if it is not one, or might not end on some text.
  """
  text = json_file.read_text(path, byte_level.MAX_BYTES)
  document = json_file.parse_object(text, path)
  for part in ('normalizer', 'pre_tokenizer', 'post_processor', 'decoder'):
    for key, value in _strings(document.get(part), f'{path}: {part}'):
      try:
        if key == 'Regex':
          pattern.check(value)
      except ValueError as e:
        raise ValueError(f'{path}: the {part} has {e}') from e
      # A short text must not become a long one.
      if key in ('content', 'prepend') and len(value) > MAX_TOKEN_LENGTH:
        raise ValueError(f'{path}: the {part} inserts a text that is too long')
  growth = 1.0
  for part in ('normalizer', 'pre_tokenizer', 'decoder'):
    try:
      growth *= _growth(document.get(part))
    except ValueError as e:
      raise ValueError(f'{path}: the {part} has {e}') from e
  if growth > MAX_GROWTH:
    raise ValueError(
      f'{path}: its replacements make a text more than {MAX_GROWTH} times as '
      'long'
    )
  added = document.get('added_tokens')
  model = document.get('model')
  if isinstance(model, dict) and model.get('dropout'):
    raise ValueError(
      f'{path}: the model has dropout {model["dropout"]!r:.80}, so that a text '
      'would get other ids each time; set it to null'
    )
  vocab = model.get('vocab') if isinstance(model, dict) else None
  for tokens, most in ((vocab, byte_level.MAX_ID), (added, MAX_ADDED)):
    if isinstance(tokens, (dict, list)) and len(tokens) > most:
      raise ValueError(f'{path} has {len(tokens)} tokens, more than {most}')
  del document, model, vocab
  tokenizer = byte_level.built(
    lambda: tokenizers.Tokenizer.from_str(text), path
  )
  # The library numbers them itself, and warns at most.
  for token in added or ():
    found = tokenizer.token_to_id(token['content'])
    if found != token['id']:
      raise ValueError(
        f'{path}: added token {token["content"]!r:.80} is to have id '
        f'{token["id"]}, which the vocabulary makes {found}'
      )
  return tokenizer


def check(
  tokenizer: tokenizers.Tokenizer,
  found: special.SpecialTokens,
  *,
  rows: int | None = None,
) -> None:
  """Refuses ids that a model cannot hold, and special tokens that text spells.

  Also marks the special tokens as such, so that they are.

  Args:
    tokenizer: its tokens.
    found: their special ones.
    rows: of the model's embedding table, where known.

  Raises:
    ValueError: in one line.
  """
  vocab = tokenizer.get_vocab(with_added_tokens=True)
  top = max(vocab.values(), default=-1)
  if top >= byte_level.MAX_ID:
    raise ValueError(f'id {top} is beyond the limit of {byte_level.MAX_ID}')
  if len(set(vocab.values())) < len(vocab):
    raise ValueError('two tokens share one id')
  if max(map(len, vocab), default=0) > MAX_TOKEN_LENGTH:
    raise ValueError(f'a token is longer than {MAX_TOKEN_LENGTH} characters')
  found.check_below(top + 1)
  if rows is not None and top >= rows:
    raise ValueError(
      f'id {top} is beyond the {rows} rows of the embedding that config.json '
      'gives; are they from one model?'
    )
  for value in sorted(found.ids()):
    name = tokenizer.id_to_token(value)
    if name is None:
      raise ValueError(f'special id {value} is no token')
    tokenizer.add_special_tokens([added_tokens.token(name, {'special': True})])
    if _spells(tokenizer, value, name):
      raise ValueError(
        f'special id {value} is the ordinary token {name!r}, which text spells'
      )


def _spells(tokenizer: tokenizers.Tokenizer, value: int, name: str) -> bool:
  """Whether a user's text of that token would be the token."""
  before = tokenizer.encode_special_tokens
  tokenizer.encode_special_tokens = True
  try:
    with byte_level.no_panic():
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


def _optional(path: pathlib.Path) -> dict[str, Any]:
  return json_file.read_object(path, MAX_CONFIG_BYTES) if path.exists() else {}


def _rows(config: Mapping[str, Any]) -> int | None:
  rows = config.get('embedding_size') or config.get('vocab_size')
  if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int)):
    raise ValueError(f'vocab_size of config.json is no number: {rows!r:.80}')
  return rows


def _strings(
  node: Any, where: str, depth: int = 0
) -> Iterator[tuple[str, str]]:
  """Every (key, text) below `node`; texts of a list have the key ''."""
  if depth > MAX_DEPTH:
    raise ValueError(f'{where} is nested too deeply')
  items = node.items() if isinstance(node, dict) else ()
  if isinstance(node, list):
    items = (('', value) for value in node)
  for key, value in items:
    if isinstance(value, str):
      yield key, value
    else:
      yield from _strings(value, where, depth + 1)


def _growth(node: Any) -> float:
  """How much longer the replacements below `node` can make a text.

  Raises:
    ValueError: if one has no bound that is known here.
  """
  growth = 1.0
  for value in node.values() if isinstance(node, dict) else node or ():
    if isinstance(value, (dict, list)):
      growth *= _growth(value)
  if not isinstance(node, dict):
    return growth
  if 'precompiled_charsmap' in node:
    raise ValueError('a precompiled table, which is not supported')
  before = node.get('prepend')
  growth *= 1 + len(before) if isinstance(before, str) else 1
  content, old = node.get('content'), node.get('pattern')
  if isinstance(content, str) and isinstance(old, dict):
    if old.get('String') == '':
      raise ValueError('a replacement of the empty text')
    # A Regex can match one character, or none before and after each.
    size = len(old['String']) if isinstance(old.get('String'), str) else 0
    growth *= max(1.0, len(content) / size if size else 1 + 2 * len(content))
  return growth
