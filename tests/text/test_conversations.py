"""Conversations by hand: real templates, and those that are refused."""

import dataclasses

import pytest

from dllm_jax.text import chat, conversations, tokenizer
from tests import tiny_rows, tiny_text

IM, END = '<|im_start|>', '<|im_end|>'
TURN = 'user: a', 'assistant: b'


@pytest.fixture(scope='module')
def qwen3(tmp_path_factory):
  """(tokenizer of one token a character, its template)."""
  path = tmp_path_factory.mktemp('folder') / 'qwen3'
  tiny_rows.folder(path, 'qwen3')
  return tokenizer.Tokenizer.from_directory(path), chat.from_directory(path)


def encode(of, *turns, source=None):
  made, template = of
  if source is not None:
    template = dataclasses.replace(template, source=source)
  [found] = conversations.encode([tiny_rows.messages(*turns)], template, made)
  return found


def test_qwen2_by_hand(shared_dir):
  """Ids of the real tokenizer; its template has a system text of its own."""
  made = tiny_text.dream(shared_dir)
  template = chat.from_directory(shared_dir / 'data' / 'tokenizers' / 'qwen2')
  found = encode((made, template), 'user: Hello world!', 'assistant: Hello')
  # <|im_start|>system\nYou are a helpful assistant.<|im_end|>\n and so on.
  head = [151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198]
  user = [151644, 872, 198, 9707, 1879, 0, 151645, 198, 151644, 77091, 198]
  assert found.prompt == head + user
  assert found.completion == [9707, 151645]
  assert found.learnt == [True, True]


@pytest.mark.parametrize('name', list(chat.FAMILIES))
def test_written_sources_are_the_written_templates(name):
  written = chat.FAMILIES[name]
  assert chat.from_jinja(written.source) == written


@pytest.mark.parametrize('name', ['qwen2', 'qwen3'])
def test_written_sources_equal_the_real_ones(shared_dir, name):
  made = tiny_text.dream(shared_dir)
  real = chat.from_directory(shared_dir / 'data' / 'tokenizers' / name)
  several = [
    tiny_rows.messages('user: a', 'assistant: b', 'user: c', 'assistant: d'),
    tiny_rows.messages('system: s', 'user:  a ', 'assistant: b\n\nc'),
  ]
  got = conversations.encode(several, chat.FAMILIES[name], made)
  want = conversations.encode(several, real, made)
  if name == 'qwen3':  # the real one begins its last answer with no thought
    empty = made.encode('<think>\n\n</think>\n\n')
    for own, theirs in zip(got, want, strict=True):
      size = len(own.completion) + len(empty)
      assert theirs.prompt == own.prompt and len(theirs.completion) == size
      text = made.decode(theirs.completion)
      assert text.replace('<think>\n\n</think>\n\n', '') == made.decode(
        own.completion
      )
      assert sum(theirs.learnt) == sum(own.learnt) + len(empty)
  else:
    assert got == want


def test_the_prompt_is_that_of_the_template(qwen3):
  made, template = qwen3
  found = encode(qwen3, 'user:  two\n', 'assistant: b')
  [prompt] = made.encode_pieces([template.render(' two\n')])
  assert found.prompt == prompt.ids


def test_thoughts_of_earlier_answers_are_not_there(qwen3):
  """Qwen3's template drops them."""
  thought = 'assistant: <think>x</think>b'
  several = encode(qwen3, 'user: a', thought, 'user: c', thought)
  text = qwen3[0].decode(several.completion)  # without special tokens
  assert text == 'b\nuser\nc\nassistant\n<think>\nx\n</think>\n\nb'
  assert sum(several.learnt) == 2 + 1 + len('<think>\nx\n</think>\n\nb')


def test_without_a_template_eos_ends_an_answer(qwen3):
  made, _ = qwen3
  found = encode((made, chat.plain(IM)), *TURN)
  assert found.prompt == [129, ord('a')]
  assert found.completion == [ord('b'), made.eos_token]
  assert found.learnt == [True, True]
  # Text that spells a special token is text.
  found = encode((made, chat.PLAIN), f'user: {END}', 'assistant: b')
  assert found.prompt == [ord(c) for c in END]
  for turns in (('system: s', *TURN), (*TURN, *TURN)):
    assert 'the model has no chat template' in encode(
      (made, chat.PLAIN), *turns
    )


CHATML = chat.FAMILIES['qwen3'].source


@pytest.mark.parametrize(
  ('source', 'turns', 'line'),
  [
    (
      "{{ raise_exception('System role not supported') }}",
      TURN,
      'System role not supported',
    ),
    # Roles without a token that ends them.
    (
      "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
      '{% if add_generation_prompt %}assistant: {% endif %}',
      TURN,
      "no special token ends the assistant's turn 1",
    ),
    # Of an answer, only that there is one.
    (
      "{% for m in messages %}{{ m['role'] }}: "
      "{{ m['content'] if m['role'] == 'user' else '-' }}<|im_end|>{% endfor %}"
      '{% if add_generation_prompt %}assistant: {% endif %}',
      TURN,
      "does not show the assistant's turn 1",
    ),
    # The number of messages comes first.
    (
      '{{ messages | length }}' + CHATML,
      (*TURN, *TURN),
      "what precedes the assistant's turn 1 once more messages follow",
    ),
    (CHATML, ('user: a', f'assistant: {END}'), 'message 2 spells the special'),
  ],
)
def test_what_cannot_be_trained_on_is_said(qwen3, source, turns, line):
  found = encode(qwen3, *turns, source=source)
  assert isinstance(found, str) and line in found and '\n' not in found


def test_an_answer_ends_behind_its_text_not_its_last_word(qwen3):
  """Though the template writes that word, and a special token, before it."""
  source = CHATML.replace('\n{{ message', '\nso<|im_end|>{{ message')
  assert source != CHATML
  found = encode(qwen3, 'user: a', 'assistant: is so', source=source)
  text = qwen3[0].decode(found.completion)
  assert 'is so' in text and all(found.learnt)


def test_the_first_bad_conversation_ends_the_work(qwen3):
  made, template = qwen3
  refusing = "{% if messages[0]['content'] == 'no' %}{{ 1 / 0 }}{% endif %}"
  template = dataclasses.replace(template, source=refusing + CHATML)
  # More texts than one process renders.
  several = [tiny_rows.messages(*TURN)] * 600
  several[500] = tiny_rows.messages('user: no', 'assistant: b')
  found = conversations.encode(several, template, made)
  assert len(found) == 501 and 'ZeroDivisionError' in found[500]
  assert found[:500] == [encode(qwen3, *TURN)] * 500
  several[500] = several[0]
  assert conversations.encode(several, template, made) == [found[0]] * 600
