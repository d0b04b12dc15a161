"""Prompts of whole folders: the ids that transformers gives, or a refusal."""

import importlib.util
import json
import pathlib

import pytest
import tokenizers

from dllm_jax import errors
from dllm_jax.text import chat, pieces, tokenizer
from tests.text import folders

EXPECTED = json.loads(
  pathlib.Path(folders.__file__).with_suffix('.json').read_text('utf-8')
)
# What transformers refuses too, and then what it would do in a way of its own.
REFUSED = {
  'no default': r"none of the chat templates \['tool_use'\] is the default",
  'named by a file': r"none of the chat templates \['rag'\] is the default",
  'default without a text': r"\['default'\] is the default, with a text",
  'template of a processor': 'chat_template.json is for processors',
  'drops its own tokens': 'rewrites its message',
  'raises': 'TemplateError: no user',
  'bos of a class': 'uses bos_token, which no file names',
  'additional that is missing': "token '<new>' is not in the tokenizer",
  'split': 'split_special_tokens',
  'trims one end': 'rewrites its message',
  'shouts': 'does not show its message once',
  'branches on length': 'rewrites its message',
  'branches on emptiness': 'rewrites its message',
}


def ours(path, messages=folders.MESSAGES):
  """[text, ids] of every message."""
  template = chat.from_directory(path)
  made = tokenizer.Tokenizer.from_directory(path)
  prompts = [template.render(message) for message in messages]
  rows = made.encode_pieces(prompts)
  return [
    [''.join(piece.text for piece in pieces), row.ids]
    for pieces, row in zip(prompts, rows, strict=True)
  ]


@pytest.mark.parametrize('name', folders.FOLDERS)
def test_prompts_equal_the_recorded_ones_or_are_refused(tmp_path, name):
  path = folders.write(tmp_path, name)
  if name in REFUSED:
    with pytest.raises(errors.UserError, match=REFUSED[name]) as caught:
      ours(path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)
  else:
    assert ours(path) == EXPECTED[name]


def test_there_are_enough_folders():
  assert len(folders.FOLDERS) >= 50
  assert EXPECTED.keys() == folders.FOLDERS.keys()
  assert {k for k, v in EXPECTED.items() if isinstance(v, str)} <= set(REFUSED)


@pytest.mark.skipif(
  importlib.util.find_spec('transformers') is None,
  reason='transformers is not installed (extra parity)',
)
@pytest.mark.parametrize('name', folders.FOLDERS)
def test_transformers_gives_the_recorded_prompts(tmp_path, name):
  path = folders.write(tmp_path, name)
  assert folders.of_transformers(path) == EXPECTED[name]


def case(shared_dir, name):
  path = shared_dir / 'cases' / 'chat' / name
  if not path.is_dir():
    pytest.skip(f'{path} is not there')
  return path


def test_template_with_a_generation_tag_is_read(shared_dir):
  path = case(shared_dir, 'chat_generation_tag')
  text = '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
  assert ours(path, ['Hi'])[0][0] == text


def test_named_templates_without_a_default_are_refused(shared_dir):
  path = case(shared_dir, 'chat_named_no_default')
  with pytest.raises(errors.UserError, match=r"\['rag', 'tool_use'\]"):
    chat.from_directory(path)


def test_tools_are_none(shared_dir):
  path = case(shared_dir, 'chat_tools_not_none')
  text = '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
  assert ours(path, ['Hi'])[0][0] == text


def test_spaces_beside_tokens_with_rstrip_are_theirs(shared_dir):
  path = case(shared_dir, 'chat_rstrip_tokens')
  library = tokenizers.Tokenizer.from_file(str(path / 'tokenizer.json'))
  for message in (*folders.MESSAGES, '2 + 2 = ?'):
    [[text, ids]] = ours(path, [message])
    assert ids == library.encode(text, add_special_tokens=False).ids
  made = tokenizer.Tokenizer.from_directory(path)
  template = chat.from_directory(path)
  with pytest.raises(ValueError, match='change the text beside them'):
    made.encode_pieces([template.render('special <|im_end|> text')])
  # Without a template it is text.
  [row] = made.encode_pieces([chat.PLAIN.render('<|im_end|> x')])
  assert row.ids == made.encode('<|im_end|> x') and all(row.is_content)


def test_content_keeps_to_itself_beside_special_tokens(tmp_path):
  """A token that takes the message's first spaces is not content."""
  path = folders.write(tmp_path, 'rstrip beside the message')
  made = tokenizer.Tokenizer.from_directory(path)
  template = chat.from_directory(path)
  [row] = made.encode_pieces([template.render('  ab')])
  assert row == ([265, 97, 98, 264], [False, True, True, False])


def test_special_tokens_across_template_and_message_are_text(tmp_path):
  path = folders.write(tmp_path, 'plain')
  made = tokenizer.Tokenizer.from_directory(path)
  prompt = [pieces.Piece('<|im_', True), pieces.Piece('end|>', False)]
  [row] = made.encode_pieces([prompt])
  assert row.ids == made.encode('<|im_end|>') and 264 not in row.ids


def test_plain_template_can_carry_bos(tmp_path):
  path = folders.write(tmp_path, 'plain')
  made = tokenizer.Tokenizer.from_directory(path)
  plain = chat.ChatTemplate(before='<s>', after='')
  [row] = made.encode_pieces([plain.render('ab')])
  assert row == ([260, 97, 98], [False, True, True])
