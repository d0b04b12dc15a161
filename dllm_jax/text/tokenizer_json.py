"""A `tokenizer.json`, which is not trusted: its growth and sizes are limited.

Its patterns run on an engine that gives up after a number of steps: see
`no_panic`.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import tokenizers
from tokenizers import normalizers

from dllm_jax import errors
from dllm_jax.text import json_file

MAX_ID = 2**19
MAX_ADDED = 2**15
MAX_TOKEN_LENGTH = 1024
MAX_DEPTH = 32
MAX_GROWTH = 64  # of a text, by all replacements together


def read(path: pathlib.Path) -> tokenizers.Tokenizer:
  """The tokenizer of the file.

  Raises:
    errors.UserError, ValueError: in one line, if it is not one, or might not
      end on some text.
  """
  text = json_file.read_text(path)
  document = json_file.parse_object(text, path)
  growth = 1.0
  for part in ('normalizer', 'pre_tokenizer', 'post_processor', 'decoder'):
    try:
      growth *= _growth(document.get(part))
    except ValueError as e:
      raise ValueError(f'{path}: the {part} {e}') from e
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
  for tokens, most in ((vocab, MAX_ID), (added, MAX_ADDED)):
    if isinstance(tokens, (dict, list)) and len(tokens) > most:
      raise ValueError(f'{path} has {len(tokens)} tokens, more than {most}')
  del document, model, vocab
  tokenizer = build(lambda: tokenizers.Tokenizer.from_str(text), path)
  # The library numbers them itself, and warns at most.
  for token in added or ():
    value = tokenizer.token_to_id(token['content'])
    if value != token['id']:
      raise ValueError(
        f'{path}: added token {token["content"]!r:.80} should have id '
        f'{token["id"]}, but the vocabulary gives it {value}'
      )
  return tokenizer


def build(
  make: Callable[[], tokenizers.Tokenizer], path: pathlib.Path
) -> tokenizers.Tokenizer:
  """What `make` returns; the library's errors as one line."""
  try:
    with no_panic():
      return make()
  except MemoryError:
    raise
  except Exception as e:  # the library raises plain Exception
    line = ' '.join(str(e).split())[:200]
    raise ValueError(f'{path} is not a tokenizer: {line}') from e


@contextlib.contextmanager
def no_panic() -> Iterator[None]:
  """Turns the library's panics, which are no `Exception`, into errors.

  Raises:
    RuntimeError: the library panicked, as at a pattern that takes too long.
  """
  try:
    yield
  except BaseException as e:
    if type(e).__name__ != 'PanicException':
      raise
    raise RuntimeError(' '.join(str(e).split())[:200]) from None


def full_match(pattern: str, where: str) -> Callable[[str], bool]:
  """Whether a pattern, which is not trusted, matches the whole of a text.

  Python's own engine would not give up; see `no_panic`.

  Args:
    pattern: in Oniguruma's syntax.
    where: the pattern's place, for messages.

  Raises:
    errors.UserError: it is not a pattern; or, from the function, takes too
      long.
  """

  def run(call, *args):
    try:
      with no_panic():
        return call(*args)
    except Exception as e:  # the library raises plain Exception
      raise errors.UserError(f'{where} is {pattern!r:.80}: {e}') from e

  regex = run(tokenizers.Regex, rf'\A(?:{pattern})\z')
  removed = normalizers.Replace(regex, '')
  return lambda text: not run(removed.normalize_str, text)


def _growth(node: Any, depth: int = 0) -> float:
  """How much longer the replacements below `node` can make a text.

  Raises:
    ValueError: if one has no bound that is known here.
  """
  if depth > MAX_DEPTH:
    raise ValueError('is nested too deeply')
  if isinstance(node, list):
    node = dict(enumerate(node))
  if not isinstance(node, dict):
    return 1.0
  growth = 1.0
  for value in node.values():
    growth *= _growth(value, depth + 1)
  if 'precompiled_charsmap' in node:
    raise ValueError('has a precompiled table, which is not supported')
  content, before = (
    node[key] if isinstance(node.get(key), str) else ''
    for key in ('content', 'prepend')
  )
  if len(content + before) > MAX_TOKEN_LENGTH:
    raise ValueError('inserts a text that is too long')
  old = node.get('pattern')
  if content and isinstance(old, dict):
    if old.get('String') == '':
      raise ValueError('has a replacement of the empty text')
    # A Regex can match one character, or none before and after each.
    size = len(old['String']) if isinstance(old.get('String'), str) else 0
    growth *= max(1.0, len(content) / size if size else 1 + 2 * len(content))
  return growth * (1 + len(before))
