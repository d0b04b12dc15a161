"""Model folders with one character a token, and rows of one's own for them."""

import json
import pathlib

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from dllm_jax.hf import config as hf_config
from tests import tiny_pretrained, tiny_run, tiny_text

SPECIAL = {
  'llada': (
    '<|startoftext|>',
    '<|endoftext|>',
    '<|start_header_id|>',
    '<|end_header_id|>',
    '<|eot_id|>',
    '<|mdm_mask|>',
  ),
  'qwen3': ('<|endoftext|>', '<|im_start|>', '<|im_end|>'),
}
EOS = {'llada': '<|endoftext|>', 'qwen3': '<|im_end|>'}
# As Qwen3's does, it shows thoughts in the last answer alone.
QWEN3 = """{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set said = m.content.split('</think>')[-1].lstrip('\\n') %}
{%- set thought = m.content.split('</think>')[0].split('<think>')[-1] %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.last and '</think>' in m.content %}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- said + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
SHAPE = {'hidden_size': 32, 'num_layers': 2, 'head_dim': 16, 'mlp_size': 64}
WORDS = ('ab', 'cd', 'ef', 'gh')


def letters() -> dict[str, int]:
  """The ids of ASCII characters, which are their codes."""
  letter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  return {letter.pre_tokenize_str(chr(code))[0][0]: code for code in range(128)}


def ids(family: str) -> dict[str, int]:
  """The ids of special tokens, which follow the characters."""
  return {name: 128 + i for i, name in enumerate(SPECIAL[family])}


def tokenizer(family: str) -> tokenizers.Tokenizer:
  """One token a character."""
  made = tokenizers.Tokenizer(models.BPE(letters(), []))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  made.add_special_tokens(list(SPECIAL[family]))
  return made


def folder(path: pathlib.Path, family: str) -> pathlib.Path:
  """A LLaDA folder with its family's template, or a Qwen3 with its own."""
  path.mkdir(parents=True)
  tokenizer(family).save(str(path / 'tokenizer.json'))
  known = ids(family)
  names = {'eos_token': EOS[family]}
  if family == 'llada':
    names |= {'bos_token': '<|startoftext|>', 'mask_token': '<|mdm_mask|>'}
  else:
    (path / 'chat_template.jinja').write_text(QWEN3)
  tiny_text.write_json(path / 'tokenizer_config.json', names)
  special = hf_config.Special(
    mask_token=known.get('<|mdm_mask|>'), eos_tokens=(known[EOS[family]],)
  )
  changes = SHAPE | {'vocab_size': 160}
  if family == 'qwen3':
    changes |= {'causal': True, 'qk_norm': True}
  tiny_pretrained.save(path, family, special, changes)
  return path


def messages(*turns: str) -> list[dict[str, str]]:
  """Turns of 'role: content'."""
  found = []
  for turn in turns:
    role, _, content = turn.partition(': ')
    found.append({'role': role, 'content': content})
  return found


def conversations(count: int = 200) -> list[dict]:
  """Rows of one or two answers, with and without a system message."""
  found = []
  for i in range(count):
    word, other = WORDS[i % 4], WORDS[i // 4 % 4]
    turns = [f'user: {i} {word}', f'assistant: {word}!']
    if i % 3 == 1:
      turns = ['system: So.', *turns]
    if i % 5 == 2:
      turns += [f'user: {other}', f'assistant: {other}!']
    if i % 7 == 3:
      found.append({'prompt': f'{i} {word}', 'completion': f'{word}!'})
    else:
      found.append({'messages': messages(*turns)})
  return found


def write(path: pathlib.Path, rows) -> pathlib.Path:
  """A file of JSON lines."""
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def values(config, file, **changes) -> dict:
  """The preset `rows` of a config file at tiny size, as nested dicts."""
  own = {
    'data__train': str(file),
    'mesh__data': 1,
    'rollout__max_prompt_length': 64,
    'rollout__gen_length': 48,
    'rollout__block_length': 48,
    'rollout__num_steps': 24,
    'eval__num_steps': (24,),
  }
  made = config.get_config('rows')
  return tiny_run.changed(made, **(own | changes))
