"""Damaged and hostile directories: one clear line, in little time and memory.

The pack of text in specs on reliability: code in templates, templates that do
not end or grow, files that are huge, deep or cut, ids that lie.
"""

import json
import os
import pathlib
import pickle
import re
import subprocess
import sys

import pytest

from tests import tiny_text

REPO = pathlib.Path(__file__).resolve().parents[2]
CANARY = 'canary'
MAX_SECONDS = 2.0  # of CPU: the clock on the wall is the machine's
MAX_BYTES = 2**30


def document(**changes):
  return lambda path: tiny_text.tiny_dir(
    path, document=tiny_text.tiny_json(**changes)
  )


def config(**changes):
  return lambda path: tiny_text.tiny_dir(path, config=changes)


def model(**changes):
  return lambda path: tiny_text.tiny_dir(path, model=changes)


def template(source):
  return config(chat_template=source)


def raw(data, name='tokenizer.json'):
  def make(path):
    (tiny_text.tiny_dir(path) / name).write_bytes(data)

  return make


def split(regex):
  pattern = {'Regex': regex}
  return {
    'type': 'Split', 'pattern': pattern, 'behavior': 'Isolated', 'invert': False
  }  # fmt: skip


def replace(pattern, content):
  return {'type': 'Replace', 'pattern': pattern, 'content': content}


def deep(levels):
  node = split('a')
  for _ in range(levels):
    node = {'type': 'Sequence', 'pretokenizers': [node]}
  return node


def huge(path):
  with (tiny_text.tiny_dir(path) / 'tokenizer.json').open('wb') as file:
    file.truncate(2**33)


def device(path):
  file = tiny_text.tiny_dir(path) / 'tokenizer.json'
  file.unlink()
  file.symlink_to('/dev/zero')


def normalizers(*parts):
  return {'type': 'Sequence', 'normalizers': list(parts)}


def decoders(*parts):
  return {'type': 'Sequence', 'decoders': list(parts)}


def dropout(rate):
  model = tiny_text.tiny_json()['model']
  return document(model=model | {'dropout': rate})


def link(path):
  file = tiny_text.tiny_dir(path) / 'tokenizer_config.json'
  outside = path.parent / 'outside.json'
  file.rename(outside)
  file.symlink_to(outside)


def twice(path):
  file = tiny_text.tiny_dir(path) / 'config.json'
  file.write_text('{"mask_token_id": 19, ' + file.read_text()[1:])


BOMB = replace({'String': '<'}, '<' * 200)


def other_merges(path):
  tiny_text.tiny_dir(path, config={'tokenizer_class': 'Qwen2Tokenizer'})
  (path / 'tokenizer.json').unlink()
  tiny_text.write_json(path / 'vocab.json', {'a': 0, 'b': 1})
  (path / 'merges.txt').write_text('#version: 0.2\na b\n', 'utf-8')


def remote_code(path):
  tiny_text.tiny_dir(
    path,
    config={
      'tokenizer_class': 'OwnTokenizer',
      'auto_map': {'AutoTokenizer': ['tokenization_own.OwnTokenizer', None]},
    },
  )
  (path / 'tokenizer.json').unlink()
  (path / 'tokenization_own.py').write_text(f"open('{CANARY}', 'w')")


class Touch:
  def __reduce__(self):
    return os.system, (f'touch {CANARY}',)


def added(ids):
  return config(added_tokens_decoder=tiny_text.added_tokens(ids))


MESSAGE = '{{ messages[0].content }}'
LOOP = '{% for i in range(9999) %}'
SHELL = f"'touch {CANARY}'"
CASES = {
  # Code in templates.
  'mro': (template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), 'unsafe'),
  'cycler': (
    template(
      '{{ cycler.__init__.__globals__.os.popen(' + SHELL + ').read() }}'
    ),
    'unsafe',
  ),
  'lipsum': (
    template("{{ lipsum.__globals__['os'].system(" + SHELL + ') }}'),
    'unsafe',
  ),
  'format': (
    template("{{ '{0.__class__.__init__.__globals__}'.format(messages) }}"),
    'unsafe|does not show',
  ),
  'attr': (
    template("{{ (messages | attr('__class__')).__base__ }}"),
    'unsafe|undefined',
  ),
  'mutate': (
    template('{{ messages.append(1) }}'), 'unsafe|not safely callable'
  ),
  'include': (template("{% include '/etc/passwd' %}"), 'fails: TypeError'),
  # Templates that do not end, or grow.
  'loops': (
    template(LOOP * 4 + '{% endfor %}' * 4 + MESSAGE), 'more than 0.5 s of CPU'
  ),
  'range': (template('{{ range(10 ** 9) | list }}'), 'OverflowError'),
  'power': (template('{{ 9 ** (9 ** 9) }}'), 'more than 0.5 s of CPU|too much'),
  'string': (template("{{ 'a' * 4000000000 }}"), 'too much memory'),
  'doubling': (
    template(
      "{% set n = namespace(s='a') %}{% for i in range(40) %}"
      '{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}'
    ),
    'too much memory|more than 0.5 s of CPU',
  ),
  'printing': (
    template(LOOP + "{{ 'a' * 9999 }}{% endfor %}"), 'more than 262144 char'
  ),
  'center': (template("{{ 'a' | center(99999999999) }}"), 'too much memory'),
  'date': (
    template("{{ strftime_now('%99999d' * 99999) }}" + MESSAGE),
    'too much memory|more than 0.5 s of CPU',
  ),
  'indent': (
    template('{{ [1] | tojson(indent=999999999) }}'), 'too much memory'
  ),
  'recursion': (
    template('{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}'),
    'nested too deeply',
  ),
  'blocks': (
    template('{% generation %}' * 3000), 'nested too deeply|fails'
  ),
  'parentheses': (template('{{ ' + '(' * 50_000), 'nested|fails'),
  'long': (template('x' * 3_000_000), 'longer than 262144 characters'),
  # Files that are no tokenizer.
  'huge': (huge, 'is larger than 33554432 bytes'),
  'device': (device, 'is not a file'),
  'cut': (
    raw(json.dumps(tiny_text.tiny_json()).encode()[:-200]),
    'not valid JSON.*is the file complete',
  ),
  'binary': (raw(b'\xff\xfe\x00'), 'is not UTF-8'),
  'pickle': (raw(pickle.dumps(Touch(), protocol=0)), 'is not valid JSON'),
  'list': (raw(b'[1, 2]'), 'is not a JSON object'),
  'deep': (raw(b'{"a":' * 100_000), 'nested too deeply'),
  'many': (raw(b'[' + b'[],' * 8_000_000 + b'[]]'), 'more than 2097152 JSON'),
  'deep part': (document(pre_tokenizer=deep(100)), 'is nested too deeply'),
  'config': (raw(b'{' * 9, 'config.json'), 'config.json is not valid JSON'),
  'remote code': (remote_code, 'neither tokenizer.json nor vocab.json'),
  # Patterns that take too long, texts that grow.
  'pattern': (
    document(
      normalizer=replace({'Regex': '(?:a|a)*$'}, ''),
      added_tokens=[
        *tiny_text.tiny_json()['added_tokens'],
        tiny_text.tiny_json()['added_tokens'][0]
        | {'id': 23, 'content': 'a' * 40 + 'b', 'normalized': True},
      ],
    ),
    'retry-limit-in-match over',
  ),
  'growth': (
    document(normalizer=replace({'String': 'a'}, 'a' * 10**6)), 'too long'
  ),
  'bomb': (document(normalizer=normalizers(BOMB, BOMB, BOMB)), '64 times'),
  'bomb in two': (
    document(
      normalizer=replace({'String': '<'}, '<' * 9),
      decoder=decoders(replace({'Regex': '<'}, '<' * 9)),
    ),
    '64 times',
  ),
  'prefixes': (
    document(
      normalizer=normalizers(*9 * [{'type': 'Prepend', 'prepend': '<'}])
    ),
    '64 times',
  ),
  'empty pattern': (
    document(normalizer=replace({'String': ''}, 'a')),
    'the normalizer has a replacement of the empty text',
  ),
  'table': (
    document(normalizer={'type': 'Precompiled', 'precompiled_charsmap': ''}),
    'a precompiled table',
  ),
  'dropout': (dropout(0.1), 'dropout 0.1'),
  'link': (link, 'tokenizer_config.json is a link out of its folder'),
  'key twice': (twice, "'mask_token_id' appears twice"),
  # Ids that lie.
  'merges': (
    document(
      model={'type': 'BPE', 'vocab': tiny_text.TINY_VOCAB, 'merges': ['a z']}
    ),
    'is not a tokenizer.*out of vocabulary',
  ),
  'other merges': (other_merges, "line 2: 'a b' does not merge"),
  'mask is eos': (model(mask_token_id=18), 'mask and eos are one id, 18'),
  'mask is a letter': (model(mask_token_id=2), "the ordinary token 'c'"),
  'mask is far': (model(mask_token_id=10**6), 'far beyond the last id'),
  'mask has no row': (model(mask_token_id=40), 'id 40 is beyond the 32 rows'),
  'negative': (model(eos_token_id=-1), 'eos_token_id is not a token id: -1'),
  'few rows': (model(vocab_size=16), 'id 22 is beyond the 16 rows'),
  'far id': (added({2**33: ('x', True)}), 'an id that is too large'),
  'taken id': (added({2: ('new', True)}), 'should have id 2'),
  'huge id': (
    document(
      model={
        'type': 'WordLevel',
        'vocab': tiny_text.TINY_VOCAB | {'a': 4 * 10**9},
        'unk_token': 'b',
      },
    ),
    'id 4000000000 is beyond the limit of 524288',
  ),
  'ids of another': (
    document(model={'type': 'BPE', 'vocab': {'a': 0}, 'merges': []}),
    'should have id 18, but the vocabulary gives it 1',
  ),
  'shared id': (
    document(
      model={
        'type': 'BPE', 'vocab': tiny_text.TINY_VOCAB | {'a': 1}, 'merges': []
      }
    ),
    'two tokens share one id',
  ),
  'many words': (
    document(
      model={
        'type': 'WordLevel',
        'vocab': {f'{i:x}': i for i in range(600_000)},
        'unk_token': '0',
      },
    ),
    'has 600000 tokens, more than 524288',
  ),
  'long token': (
    document(
      model={
        'type': 'BPE',
        'vocab': {
          'x' * 10**6 if name == 'abc' else name: i
          for name, i in tiny_text.TINY_VOCAB.items()
        },
        'merges': [],
      }
    ),
    'a token is longer than 1024',
  ),
}  # fmt: skip


@pytest.fixture(scope='module')
def pack(tmp_path_factory):
  """What became of every case."""
  root = tmp_path_factory.mktemp('malformed')
  for name, (make, _) in CASES.items():
    make(root / name)
  tiny_text.tiny_dir(root / 'good', config={'chat_template': MESSAGE})
  names = [*CASES, 'good']
  done = subprocess.run(
    [
      sys.executable,
      str(pathlib.Path(__file__).with_name('malformed_child.py')),
      *(str(root / name) for name in names),
    ],
    env={'PYTHONPATH': str(REPO), 'PATH': os.environ.get('PATH', '')},
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  )
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  left = [path for path in root.rglob(CANARY)]
  return dict(zip(names, lines, strict=True)), left


@pytest.mark.parametrize('name', CASES)
def test_refused_in_one_line_and_in_bounds(pack, name, record_property):
  got = pack[0][name]
  assert got['kind'] == 'refused', got
  message = got['message']
  assert '\n' not in message and len(message) < 600
  assert re.search(CASES[name][1], message), message
  assert f'/{name}' in message  # the directory, so that one knows where
  assert got['cpu'] <= MAX_SECONDS and got['bytes'] <= MAX_BYTES, got
  record_property('cpu', got['cpu'])


def test_nothing_was_run(pack):
  assert pack[1] == []


def test_the_same_directory_unharmed_loads(pack):
  assert pack[0]['good']['kind'] == 'loaded', pack[0]['good']


def test_there_are_enough_cases():
  assert len(CASES) >= 25
