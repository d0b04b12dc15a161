"""Byte-level BPE from `vocab.json` and `merges.txt`, which are not trusted."""

import pathlib
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from dllm_jax.text import json_file, tokenizer_json

# Pre-tokenizers of the families that come as vocab.json and merges.txt.
QWEN2_PATTERN = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
FAMILIES = {
  'Qwen2Tokenizer': 'qwen2',
  'Qwen2TokenizerFast': 'qwen2',
  'DreamTokenizer': 'qwen2',
  'GPT2Tokenizer': 'gpt2',
  'GPT2TokenizerFast': 'gpt2',
}


def read(
  directory: pathlib.Path, config: Mapping[str, Any]
) -> tokenizers.Tokenizer:
  """The tokenizer of a directory that has no tokenizer.json.

  Args:
    directory: it holds vocab.json and merges.txt.
    config: its tokenizer_config.json, which names the family.

  Raises:
    errors.UserError, ValueError: in one line that names the file.
  """
  path = directory / 'vocab.json'
  if not path.exists():
    raise ValueError(f'{directory} holds neither tokenizer.json nor vocab.json')
  family = FAMILIES.get(str(config.get('tokenizer_class')))
  if family is None:
    raise ValueError(
      f'{directory / "tokenizer_config.json"} names the tokenizer_class '
      f'{config.get("tokenizer_class")!r:.80}; without a tokenizer.json it '
      f'must be one of {", ".join(FAMILIES)}'
    )
  vocab = json_file.read_object(path, json_file.MAX_BYTES)
  for name, value in vocab.items():
    if type(value) is not int or not 0 <= value < tokenizer_json.MAX_ID:
      raise ValueError(f'{path} gives {name!r:.80} the id {value!r:.80}')
  merges = _merges(directory / 'merges.txt', vocab)
  tokenizer = tokenizer_json.build(
    lambda: tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges)), path
  )
  split_bytes = pre_tokenizers.ByteLevel(
    add_prefix_space=config.get('add_prefix_space') is True,
    use_regex=family == 'gpt2',
  )
  if family == 'qwen2':
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(
      tokenizers.Regex(QWEN2_PATTERN), behavior='isolated'
    )
    split_bytes = pre_tokenizers.Sequence([split, split_bytes])
  tokenizer.pre_tokenizer = split_bytes
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def _merges(
  path: pathlib.Path, vocab: Mapping[str, int]
) -> list[tuple[str, str]]:
  """The merges of a file, one a line after a line of its version."""
  lines = json_file.read_text(path).split('\n')
  first = 1 if lines[0].startswith('#version') else 0
  merges = []
  for number, line in enumerate(lines[first:], first + 1):
    line = line.removesuffix('\r')
    if not line:
      continue
    left, space, right = line.partition(' ')
    if not space or not {left, right, left + right} <= vocab.keys():
      raise ValueError(
        f'{path}, line {number}: {line!r:.80} does not merge two tokens of '
        'vocab.json into a third; are the two files from one model?'
      )
    merges.append((left, right))
  return merges
