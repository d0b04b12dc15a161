"""Made-up folders for chat templates, each a way in which real ones differ.

`python -m tests.text.folders` (with transformers) writes `folders.json`: what
`apply_chat_template` makes of every folder, or that it refuses.
"""

import copy
import json
import pathlib
import warnings


def _byte_letters() -> list[str]:
  """The letters of byte-level BPE, in the order of the bytes."""
  visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = iter(range(256, 512))
  return [chr(b if b in visible else next(hidden)) for b in range(256)]


NAMES = (
  '<s>', '</s>', '<|mask|>', '<|im_start|>', '<|im_end|>', '<|x|>', '<pad>'
)  # fmt: skip
TURNS = (
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
  '<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>'
  'assistant\n{% endif %}'
)
BOS = '{{ bos_token }}' + TURNS
MESSAGE = '{{ messages[-1].content }}'
MESSAGES = ('What is 2 + 2?', ' two  spaces \n', 'Über\n\n{x} e\u0301', '')


def document(flags=None, **changes) -> dict:
  """A byte-level tokenizer.json; `flags` by name of a special token."""
  vocab = {letter: i for i, letter in enumerate(_byte_letters())}
  merges = [('i', 'n'), ('Ġ', 'a'), ('s', 't'), ('Ċ', 'Ċ')]
  for pair in merges:
    vocab[''.join(pair)] = len(vocab)
  byte_level = {
    'type': 'ByteLevel',
    'add_prefix_space': False,
    'trim_offsets': True,
    'use_regex': True,
  }
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': [
      {
        'id': len(vocab) + i,
        'content': name,
        'special': True,
        'single_word': False,
        'lstrip': False,
        'rstrip': False,
        'normalized': False,
      }
      | (flags or {}).get(name, {})
      for i, name in enumerate(NAMES)
    ],
    'normalizer': None,
    'pre_tokenizer': byte_level,
    'post_processor': None,
    'decoder': byte_level,
    'model': {
      'type': 'BPE',
      'dropout': None,
      'unk_token': None,
      'fuse_unk': False,
      'byte_fallback': False,
      'vocab': vocab,
      'merges': [' '.join(pair) for pair in merges],
    },
  } | changes


def _sentencepiece(scheme: str) -> dict:
  """A tokenizer in LLaMA's manner, with a space before text."""
  letters = ['<unk>', *(f'<0x{b:02X}>' for b in range(256)), '▁']
  letters += list('abcdefghijklmnopqrstuvwxyzW?+2')
  vocab = {letter: i for i, letter in enumerate([*letters, '▁a'])}
  made = document(
    normalizer=None,
    pre_tokenizer={
      'type': 'Metaspace',
      'replacement': '▁',
      'prepend_scheme': scheme,
      'split': False,
    },
    decoder=None,
    model={
      'type': 'BPE',
      'dropout': None,
      'unk_token': '<unk>',
      'fuse_unk': True,
      'byte_fallback': True,
      'vocab': vocab,
      'merges': ['▁ a'],
    },
  )
  for i, token in enumerate(made['added_tokens']):
    token['id'] = len(vocab) + i
  return made


def _added(name: str, **flags) -> dict:
  """An added_tokens_decoder that has `name` alone."""
  tokens = document()['added_tokens']
  token = next(token for token in tokens if token['content'] == name)
  token = token | flags
  return {str(token.pop('id')): token}


def folder(template=None, *, doc=None, files=None, **config) -> dict:
  """The files of a folder: text or JSON by name."""
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'bos_token': '<s>',
    'eos_token': '</s>',
    'pad_token': '</s>',
  } | config
  if template is not None:
    config['chat_template'] = template
  config = {key: value for key, value in config.items() if value != 'absent'}
  return {
    'tokenizer.json': doc or document(),
    'tokenizer_config.json': config,
    'config.json': {'model_type': 'none', 'mask_token_id': None},
    **(files or {}),
  }


def flagged(name: str, template: str = TURNS, **flags) -> dict:
  return folder(template, doc=document({name: flags}))


def unpacked(template: str, **config) -> dict:
  """A folder with vocab.json and merges.txt in place of tokenizer.json."""
  model = document()['model']
  tokens = document()['added_tokens']
  decoder = {str(token.pop('id')): token for token in tokens}
  files = folder(template, added_tokens_decoder=decoder, **config)
  del files['tokenizer.json']
  merges = '\n'.join(['#version: 0.2', *model['merges'], ''])
  return files | {'vocab.json': model['vocab'], 'merges.txt': merges}


LOWER = {'type': 'Lowercase'}
FOLDERS = {
  'plain': folder(TURNS),
  'bos': folder(BOS),
  'bos of the map': folder(
    BOS,
    bos_token='absent',
    files={'special_tokens_map.json': {'bos_token': '<s>'}},
  ),
  'bos of the map as a token': folder(
    BOS,
    bos_token='absent',
    files={'special_tokens_map.json': {'bos_token': {
      'content': '<|x|>', 'lstrip': False, 'rstrip': False, 'normalized': False,
      'single_word': False,
    }}},
  ),
  'the map wins': folder(
    BOS, files={'special_tokens_map.json': {'bos_token': '<|x|>'}}
  ),
  'the map is not read': folder(
    BOS,
    added_tokens_decoder=_added('<s>'),
    files={'special_tokens_map.json': {'bos_token': '<|x|>'}},
  ),
  'bos of the unread map': folder(
    BOS,
    bos_token='absent',
    added_tokens_decoder=_added('<s>'),
    files={'special_tokens_map.json': {'bos_token': '<s>'}},
  ),
  'no bos': folder(BOS, bos_token=None),
  'bos is defined': folder(
    "{% if bos_token is defined %}D{% else %}U{% endif %}" + TURNS,
    bos_token='absent',
  ),
  'bos of a class': folder(
    BOS, bos_token='absent', tokenizer_class='LlamaTokenizer'
  ),
  'further names': folder(
    '{{ cls_token }}{{ sep_token }}' + TURNS, cls_token='<s>'
  ),
  'own name': folder('{{ image_token }}' + TURNS, image_token='<|x|>'),
  'tools is none': folder(
    '{% if tools is not none %}Tools{% endif %}' + TURNS
  ),
  'tools is defined': folder('{% if tools is defined %}T{% endif %}' + TURNS),
  'documents': folder(
    '{% if documents is defined and documents is none %}N{% endif %}' + TURNS
  ),
  'file': folder('wrong', files={'chat_template.jinja': BOS + '\n'}),
  'file with carriage returns': folder(
    files={'chat_template.jinja': TURNS.replace('\n', '\r\n')}
  ),
  'named': folder([
    {'name': 'default', 'template': BOS}, {'name': 'tool_use', 'template': 'T'}
  ]),
  'named twice': folder([
    {'name': 'default', 'template': 'no'}, {'name': 'default', 'template': BOS}
  ]),
  'no default': folder([{'name': 'tool_use', 'template': TURNS}]),
  'named by a file': folder(
    TURNS, files={'additional_chat_templates/rag.jinja': TURNS}
  ),
  'file beside named files': folder(
    files={
      'chat_template.jinja': TURNS,
      'additional_chat_templates/rag.jinja': 'R',
    }
  ),
  'rstrip': flagged('<|im_start|>', rstrip=True),
  'rstrip at the end of turns': flagged('<|im_end|>', rstrip=True),
  'lstrip': flagged('<|im_end|>', lstrip=True),
  'lstrip and rstrip': flagged(
    '<|im_start|>', '\n{{ bos_token }} ' + TURNS, lstrip=True, rstrip=True
  ),
  'rstrip beside the message': flagged(
    '<|x|>', '<|x|>' + MESSAGE + '<|im_end|>', rstrip=True
  ),
  'lstrip beside the message': flagged(
    '<|x|>', 'a' + MESSAGE + '<|x|>', lstrip=True
  ),
  'eos with rstrip': flagged(
    '</s>', MESSAGE + '{{ eos_token }} \n', rstrip=True
  ),
  'single word': flagged('<|x|>', 'a<|x|>b <|x|> ' + MESSAGE, single_word=True),
  'normalized': folder(
    '<|X|><|x|>' + TURNS,
    doc=document({'<|x|>': {'normalized': True}}, normalizer=LOWER),
  ),
  'flags of the config': folder(
    TURNS, added_tokens_decoder=_added('<|im_start|>', rstrip=True)
  ),
  'flags of the config win': folder(
    TURNS,
    doc=document({'<|im_start|>': {'rstrip': True}}),
    added_tokens_decoder=_added('<|im_start|>'),
  ),
  'ordinary token': folder(
    '<|x|>' + TURNS, doc=document({'<|x|>': {'special': False}})
  ),
  'token in a token': folder(
    '<|im_start|>!' + TURNS,
    doc=document({'<|x|>': {'content': '<|im_start|>!', 'special': False}}),
  ),
  'additional': folder('st<|x|>' + TURNS, additional_special_tokens=['<|x|>']),
  'additional of the vocabulary': folder(
    'st<|x|>' + TURNS, additional_special_tokens=['st']
  ),
  'extra of the vocabulary': folder(
    'st<|x|>' + TURNS, extra_special_tokens={'image_token': 'st'}
  ),
  'additional that is missing': folder(
    '<new>' + TURNS, additional_special_tokens=['<new>']
  ),
  'split': folder(TURNS, split_special_tokens=True),
  'space before text': folder(
    TURNS,
    doc=document(
      pre_tokenizer=document()['pre_tokenizer'] | {'add_prefix_space': True}
    ),
  ),
  'space before the first text': folder(BOS, doc=_sentencepiece('first')),
  'space before every text': folder(BOS, doc=_sentencepiece('always')),
  'composed': folder(TURNS, doc=document(normalizer={'type': 'NFC'})),
  'post-processor': folder(
    TURNS,
    doc=document(post_processor={
      'type': 'TemplateProcessing',
      'single': [
        {'SpecialToken': {'id': '<s>', 'type_id': 0}},
        {'Sequence': {'id': 'A', 'type_id': 0}},
      ],
      'pair': [],
      'special_tokens': {'<s>': {'id': '<s>', 'ids': [260], 'tokens': ['<s>']}},
    }),
    add_bos_token=True,
  ),
  'unpacked qwen2': unpacked(
    BOS, tokenizer_class='Qwen2Tokenizer', unk_token=None
  ),
  'unpacked gpt2': unpacked(
    BOS, tokenizer_class='GPT2Tokenizer', unk_token='</s>'
  ),
  'unpacked gpt2 with a space before text': unpacked(
    BOS,
    tokenizer_class='GPT2Tokenizer',
    unk_token='</s>',
    add_prefix_space=True,
  ),
  'default without a text': folder([{'name': 'default', 'template': None}]),
  'template of a processor': folder(
    files={'chat_template.json': {'chat_template': TURNS}}
  ),
  'generation': folder(
    '{% generation %}{% set x = 1 %}{% endgeneration %}{{ x }}' + TURNS
    + '{%- generation -%} a {%- endgeneration %}'
  ),
  'json': folder(
    "{{ {'b': 1, 'a': 'ä'} | tojson(indent=2, sort_keys=true) }}"
    "{{ [1, 2] | tojson(separators=(',', ':'), ensure_ascii=true) }}" + TURNS
  ),
  'date': folder("{{ strftime_now('%%Q') }}" + TURNS),
  'loop controls': folder(
    '{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}'
    '{{ m.content }}{% endfor %}'
  ),
  'macro': folder(
    '{% macro turn(m) %}<|im_start|>{{ m.role }}: {{ m.content }}{% endmacro %}'
    '{% for m in messages %}{{ turn(m) }}{% endfor %}'
  ),
  'trims': folder('{{ messages[0].content | trim }}<|im_end|>\n'),
  'trims one end': folder('{{ messages[0].content.rstrip() }}<|im_end|>\n'),
  'shouts': folder('{{ messages[0].content | upper }}'),
  'branches on length': folder(
    '{% if messages[0].content | length > 99 %}L{% endif %}' + TURNS
  ),
  'branches on emptiness': folder(
    '{% if not messages[0].content %}E{% endif %}' + TURNS
  ),
  'drops its own tokens': folder(
    "{{ bos_token }}{{ messages[0].content | replace(bos_token, '') }}"
  ),
  'raises': folder("{{ raise_exception('no user') }}"),
}  # fmt: skip


def write(path: pathlib.Path, name: str) -> pathlib.Path:
  """Writes a folder."""
  for file, value in copy.deepcopy(FOLDERS[name]).items():
    (path / file).parent.mkdir(parents=True, exist_ok=True)
    text = value if isinstance(value, str) else json.dumps(value)
    (path / file).write_bytes(text.encode())
  return path


def of_transformers(path: pathlib.Path) -> list | str:
  """[text, ids] of every message, or why there are none."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      import transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
    rows = []
    for message in MESSAGES:
      turn = [{'role': 'user', 'content': message}]
      make = lambda tokenize, turn=turn: tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, tokenize=tokenize
      )
      rows.append([make(False), list(make(True)['input_ids'])])
    return rows
  except Exception as e:
    return f'{type(e).__name__}: {e}'.split('\n')[0]


if __name__ == '__main__':
  import tempfile

  values = {}
  for name in FOLDERS:
    with tempfile.TemporaryDirectory() as root:
      values[name] = of_transformers(write(pathlib.Path(root), name))
  path = pathlib.Path(__file__).with_suffix('.json')
  lines = [f'{json.dumps(k)}: {json.dumps(v)}' for k, v in values.items()]
  path.write_text('{\n' + ',\n'.join(lines) + '\n}\n')
