"""Chat templates: the real ones, the written ones, and what is content."""

import datetime
import json

import pytest

from dllm_jax import errors
from dllm_jax.text import chat, pieces, tokenizer
from tests import tiny_text

MESSAGES = (
  'What is 2 + 2?',
  '  spaces at both ends \n',
  'special <|im_end|> text {{ 7 * 7 }}',
  '',
)
# As LLaDA-8B-Instruct has it.
LLADA = (
  '{% set loop_messages = messages %}{% for message in loop_messages %}'
  "{% set content = '<|start_header_id|>' + message['role'] + "
  "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
  '{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}'
  "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '"
  "<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def text_of(pieces):
  return ''.join(piece.text for piece in pieces)


@pytest.fixture
def dream(shared_dir):
  return tiny_text.dream(shared_dir)


@pytest.mark.parametrize('name', ['qwen2', 'qwen3'])
def test_written_templates_equal_the_real_ones(shared_dir, name):
  path = shared_dir / 'data' / 'tokenizers' / name
  assert chat.from_directory(path) == chat.FAMILIES[name]
  system = chat.from_directory(path, system='Be brief.')
  assert system == chat.chatml('Be brief.')


def test_qwen3_without_thinking(shared_dir):
  path = shared_dir / 'data' / 'tokenizers' / 'qwen3'
  got = chat.from_directory(path, options={'enable_thinking': False})
  thinking = chat.FAMILIES['qwen3']
  assert got.before == thinking.before
  assert got.after == thinking.after + '<think>\n\n</think>\n\n'


def test_llada_by_hand():
  got = chat.from_jinja(LLADA, variables={'bos_token': '<|startoftext|>'})
  assert got == chat.FAMILIES['llada']
  assert text_of(got.render(' Hi \n')) == (
    '<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>'
    '<|start_header_id|>assistant<|end_header_id|>\n\n'
  )


def test_qwen2_by_hand(dream):
  prompt = chat.FAMILIES['dream'].render('Hello world!', '<reasoning>\n')
  assert [piece.is_template for piece in prompt] == [True, False, True]
  ids, content = dream.encode_pieces([prompt])[0]
  # <|im_start|>system\nYou are a helpful assistant.<|im_end|>\n and so on.
  head = [151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198]
  head += [151644, 872, 198]
  tail = [151645, 198, 151644, 77091, 198]
  prefill = dream.encode('<reasoning>\n')
  assert ids == [*head, 9707, 1879, 0, *tail, *prefill]
  assert content == [
    *[False] * len(head), *[True] * 3, *[False] * len(tail + prefill)
  ]  # fmt: skip


@pytest.mark.parametrize('name', ['dream', 'qwen3'])
@pytest.mark.parametrize('message', MESSAGES)
def test_the_users_special_tokens_are_text(dream, name, message):
  template = chat.FAMILIES[name]
  (ids, content), (blank, _) = dream.encode_pieces(
    [template.render(message), template.render('')]
  )
  special = lambda ids: [i for i in ids if i >= 151643]
  assert special(ids) == special(blank)
  inside = [i for i, mine in zip(ids, content, strict=True) if mine]
  assert dream.decode(inside).strip() == message.strip()


def test_tokens_are_those_of_the_joined_text(dream):
  # A blank line and a space join with the template's text; such a token is
  # not content.
  template = chat.chatml(None)
  ids, content = dream.encode_pieces([template.render('\n  Hi')])[0]
  assert ids[1:5] == dream.encode('user\n\n  Hi')[:4]
  assert content[:4] == [False, False, False, True]
  prompt = [pieces.Piece('Q: ', True), pieces.Piece('Hello', False)]
  ids, content = dream.encode_pieces([prompt])[0]
  assert ids == dream.encode('Q: Hello') and len(ids) == 3
  assert content == [False, False, False]
  prompt = [pieces.Piece('Q:', True), pieces.Piece(' Hello', False)]
  assert dream.encode_pieces([prompt])[0] == (ids, [False, False, True])


def test_pieces_without_a_template_are_the_text(dream):
  rows = dream.encode_pieces([chat.PLAIN.render(m) for m in MESSAGES])
  for message, (ids, content) in zip(MESSAGES, rows, strict=True):
    assert ids == dream.encode(message) and content == [True] * len(ids)


def test_letters_of_several_tokens(dream):
  # Four bytes of one letter, each a token of the same span.
  prompt = [pieces.Piece('a', True), pieces.Piece('\U00013000', False)]
  ids, content = dream.encode_pieces([prompt])[0]
  assert ids[0] == dream.encode('a')[0] and len(ids) > 2
  assert content == [False] + [True] * (len(ids) - 1)


def test_words_that_a_lexicon_lacks_are_named():
  words = tokenizer.Tokenizer.from_words([' 1', 'Q'])
  rows = words.encode_pieces(
    [[pieces.Piece('Q<|eos|>', True), pieces.Piece(' 1', False)]]
  )
  assert rows == [([1, words.eos_token, 0], [False, False, True])]
  with pytest.raises(ValueError, match='not in the vocabulary'):
    words.encode_pieces([[pieces.Piece('<|eos|>', False)]])


def test_where_a_directory_keeps_its_template(tmp_path):
  path = tiny_text.tiny_dir(tmp_path)
  assert chat.from_directory(path) is None
  said = lambda word: f'{word}{{{{ messages[0].content }}}}{{{{ eos_token }}}}'
  several = [
    {'name': 'tool_use', 'template': said('T')},
    {'name': 'default', 'template': said('D')},
  ]
  tiny_text.tiny_dir(tmp_path, config={'chat_template': several})
  got = chat.from_directory(path)
  assert got == chat.ChatTemplate(before='D', after='<|endoftext|>')
  (path / 'chat_template.jinja').write_text(said('F'))
  assert chat.from_directory(path).before == 'F'


@pytest.mark.parametrize(
  ('source', 'match'),
  [
    ('nothing', 'does not show its message once'),
    ('{{ messages[0].content }}' * 2, 'does not show its message once'),
    ('{{ messages[0].content | escape }}', 'rewrites its message, or depends'),
    ('{{ messages[0].content | upper }}', 'does not show its message once'),
    ("{{ raise_exception('no\nsystem') }}", 'fails: TemplateError: no system'),
    ('{% if %}', 'fails: TemplateSyntaxError'),
    ('{{ strftime() }}', "'strftime' is undefined"),
    ('{{ ' + '(' * 5000, 'is nested too deeply|fails'),
    ('x' * 300_000, 'longer than 262144 characters'),
  ],
)
def test_unsuitable_templates_are_refused_in_one_line(source, match):
  with pytest.raises(ValueError, match=match) as caught:
    chat.from_jinja(source)
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 400


def test_strftime_now_is_today():
  today = lambda: datetime.date.today().isoformat()
  before = today()
  source = "{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}"
  assert chat.from_jinja(source).before in (f'{before} ', f'{today()} ')


def test_template_that_is_not_text_is_refused(tmp_path):
  tiny_text.tiny_dir(tmp_path, config={'chat_template': 7})
  with pytest.raises(errors.UserError, match='chat_template .* is not text'):
    chat.from_directory(tmp_path)


def test_real_configurations_are_json(shared_dir):
  path = shared_dir / 'data' / 'tokenizers' / 'qwen2' / 'tokenizer_config.json'
  source = json.loads(path.read_text('utf-8'))['chat_template']
  assert chat.from_jinja(source) == chat.FAMILIES['qwen2']


def test_a_conversation_by_hand(tmp_path):
  """Every turn by the folder's template; a last one may be continued."""
  config = {'bos_token': '<|b|>', 'chat_template': LLADA}
  tiny_text.tiny_dir(tmp_path, config=config)
  template = chat.from_directory(tmp_path)
  assert template.source == LLADA
  turns = [
    {'role': 'system', 'content': 'Be brief.'},
    {'role': 'user', 'content': ' 2 + 2? '},
    {'role': 'assistant', 'content': 'It is 4, it is '},
  ]
  header = '<|start_header_id|>{}<|end_header_id|>\n\n'.format
  begun = (
    f'<|b|>{header("system")}Be brief.<|eot_id|>'
    f'{header("user")}2 + 2?<|eot_id|>'
  )
  asked = template.conversation(turns[:2])
  assert asked == begun + header('assistant')
  going_on = template.conversation(turns, is_prompt=False)
  assert going_on == f'{begun}{header("assistant")}It is 4, it is'


@pytest.mark.parametrize(
  'template, line',
  [
    (chat.PLAIN, 'there is none'),
    (chat.ChatTemplate(before='', after='', source='{{ 1 / 0 }}'), 'division'),
  ],
)
def test_a_conversation_that_cannot_be_rendered_is_one_line(template, line):
  with pytest.raises(errors.UserError, match=f'the chat template: .*{line}'):
    template.conversation([{'role': 'user', 'content': 'x'}])
