"""Directories of tokenizers: Dream's on real files, and a tiny one's."""

import functools
import json
import pathlib
import shutil
import tempfile

from dllm_jax.text import tokenizer

# What Dream adds to Qwen2's vocabulary, and LLaDA-like names on a tiny one.
DREAM_ADDED = {
  151665: ('<|beginoftext|>', True),
  151666: ('<|mask|>', True),
  151657: ('<tool_call>', False),
}


def write_json(path: pathlib.Path, value) -> None:
  path.write_text(json.dumps(value), encoding='utf-8')


def added_tokens(named) -> dict:
  return {
    str(i): {
      'content': name,
      'special': special,
      'lstrip': False,
      'rstrip': False,
      'normalized': False,
      'single_word': False,
    }
    for i, (name, special) in named.items()
  }


def dream_dir(shared: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """Qwen2's files with the tokens that Dream adds: a Dream directory."""
  path.mkdir(exist_ok=True)
  source = shared / 'data' / 'tokenizers' / 'qwen2'
  for name in ('vocab.json', 'merges.txt'):
    shutil.copy(source / name, path / name)
  config = json.loads((source / 'tokenizer_config.json').read_text('utf-8'))
  config['added_tokens_decoder'] |= added_tokens(DREAM_ADDED)
  config |= {
    'tokenizer_class': 'DreamTokenizer',
    'auto_map': {'AutoTokenizer': ['tokenization_dream.DreamTokenizer', None]},
    'eos_token': '<|endoftext|>',
    'bos_token': '<|beginoftext|>',
    'mask_token': {'content': '<|mask|>', 'special': True},
  }
  write_json(path / 'tokenizer_config.json', config)
  write_json(
    path / 'config.json',
    {'vocab_size': 152064, 'mask_token_id': 151666, 'eos_token_id': 151643},
  )
  return path


@functools.cache
def dream(shared: pathlib.Path) -> tokenizer.Tokenizer:
  """The tokenizer of `dream_dir`; it takes a second to load."""
  with tempfile.TemporaryDirectory() as path:
    return tokenizer.Tokenizer.from_directory(
      dream_dir(shared, pathlib.Path(path))
    )


TINY_VOCAB = {c: i for i, c in enumerate('abcdefghij<>|_Ġ')}
TINY_MERGES = [('a', 'b'), ('ab', 'c'), ('Ġ', 'a')]
TINY_VOCAB |= {
  text: len(TINY_VOCAB) + i for i, text in enumerate(('ab', 'abc', 'Ġa'))
}


def tiny_json(**changes) -> dict:
  """A byte-level tokenizer.json in LLaDA's manner, with ids 18..22 added."""
  names = ('<|endoftext|>', '<|mdm_mask|>', '<|eot_id|>', '<|b|>', '<think>')
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': [
      {
        'id': 18 + i,
        'content': name,
        'special': name != '<think>',
        'single_word': False,
        'lstrip': False,
        'rstrip': False,
        'normalized': False,
      }
      for i, name in enumerate(names)
    ],
    'normalizer': None,
    'pre_tokenizer': {
      'type': 'ByteLevel',
      'add_prefix_space': False,
      'trim_offsets': True,
      'use_regex': True,
    },
    'post_processor': {
      'type': 'ByteLevel',
      'add_prefix_space': False,
      'trim_offsets': True,
      'use_regex': True,
    },
    'decoder': {
      'type': 'ByteLevel',
      'add_prefix_space': True,
      'trim_offsets': True,
      'use_regex': True,
    },
    'model': {
      'type': 'BPE',
      'vocab': TINY_VOCAB,
      'merges': [' '.join(pair) for pair in TINY_MERGES],
    },
  } | changes


TINY_CONFIG = {
  'bos_token': '<|b|>',
  'eos_token': '<|endoftext|>',
  'pad_token': '<|endoftext|>',
  'tokenizer_class': 'PreTrainedTokenizerFast',
}
TINY_MODEL = {
  'vocab_size': 32,
  'mask_token_id': 19,
  'eos_token_id': 18,
  'pad_token_id': 18,
}


def tiny_dir(path: pathlib.Path, *, document=None, config=None, model=None):
  """A directory in LLaDA's manner; the arguments replace what files hold."""
  path.mkdir(exist_ok=True)
  write_json(path / 'tokenizer.json', document or tiny_json())
  write_json(path / 'tokenizer_config.json', TINY_CONFIG | (config or {}))
  write_json(path / 'config.json', TINY_MODEL | (model or {}))
  return path
