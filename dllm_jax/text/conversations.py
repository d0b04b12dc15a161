"""Conversations as tokens: what a chat template writes, and what is learnt.

A conversation is cut where the turns of the assistant begin: behind the header
that the template writes before an answer. The first piece is a prompt; each
other one begins with a turn of the assistant, which is learnt through the first
special token behind it, that which ends the turn, and goes on with what
precedes the next turn. Pieces are tokenized one by one, as a prompt and its
completion are when the model is used.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dllm_jax.text import chat, render
from dllm_jax.text import tokenizer as tokenizer_lib

Conversation = Sequence[Mapping[str, str]]
ASSISTANT = 'assistant'
_RUNS = 512  # texts that one process renders
_WORD = re.compile(r'\w+')


class Tokens(NamedTuple):
  """The tokens of a conversation.

  Attributes:
    prompt: all before the first turn of the assistant.
    completion: that turn and all behind it.
    learnt: True on the turns of the assistant, with the tokens that end them.
  """

  prompt: list[int]
  completion: list[int]
  learnt: list[bool]


def encode(
  conversations: Sequence[Conversation],
  template: chat.ChatTemplate,
  tokenizer: tokenizer_lib.Tokenizer,
) -> list[Tokens | str]:
  """The tokens of conversations, up to the first that has none.

  Without a template's source a conversation is a message of the user's and an
  answer, which EOS ends.

  Args:
    conversations: messages with `role` and `content`; the last is the
      assistant's.
    template: of the model.
    tokenizer: encodes text.

  Returns:
    An entry a conversation; if one has no tokens, the last entry says why, and
    is of that one.
  """
  pieces = itertools.repeat([])
  if template.source:
    pieces = _all_pieces(conversations, template)
  found = []
  for messages, cut in zip(conversations, pieces, strict=False):
    if not template.source:
      entry = _plain(messages, template, tokenizer)
    else:
      entry = _special_in(messages, tokenizer) or cut
    if isinstance(entry, list):
      entry = _tokens(messages, entry, tokenizer)
    found.append(entry)
    if isinstance(entry, str):
      break
  return found


def _plain(
  messages: Conversation,
  template: chat.ChatTemplate,
  tokenizer: tokenizer_lib.Tokenizer,
) -> Tokens | str:
  if [m['role'] for m in messages] != ['user', ASSISTANT]:
    return (
      'the model has no chat template, and without one a row is a message of '
      "the user's and an answer: add chat_template.jinja to its folder"
    )
  question, answer = (m['content'] for m in messages)
  try:
    [prompt] = tokenizer.encode_pieces([template.render(question)])
    ids = [*tokenizer.encode(answer), tokenizer.eos_token]
  except ValueError as e:
    return str(e)
  return Tokens(prompt.ids, ids, [True] * len(ids))


def _special_in(
  messages: Conversation, tokenizer: tokenizer_lib.Tokenizer
) -> str:
  """Which special token a message spells; '' for none.

  The template would make a token of it.
  """
  for number, message in enumerate(messages, 1):
    if name := tokenizer.find_special(message['content']):
      return f'message {number} spells the special token {name!r}: remove it'
  return ''


def _all_pieces(
  conversations: Sequence[Conversation], template: chat.ChatTemplate
) -> Iterator[list[str] | str]:
  group, count = [], 0
  for messages in conversations:
    group.append(messages)
    count += 1 + len(_answers(messages))
    if count >= _RUNS:
      yield from _pieces(group, template)
      group, count = [], 0
  if group:
    yield from _pieces(group, template)


def _pieces(
  group: Sequence[Conversation], template: chat.ChatTemplate
) -> list[list[str] | str]:
  """The pieces of some conversations, up to the first that has none."""
  variables = dict(template.variables)
  runs = [
    chat.run_of(messages[:end], variables, is_prompt=end < len(messages))
    for messages in group
    for end in (*_answers(messages), len(messages))
  ]
  try:
    texts = iter(render.render(template.source, runs))
  except ValueError as e:
    if len(group) == 1:
      return [str(e)]
    half = len(group) // 2
    found = _pieces(group[:half], template)
    if isinstance(found[-1], str):
      return found
    return found + _pieces(group[half:], template)
  return [_cut([next(texts) for _ in _answers(m)], next(texts)) for m in group]


def _answers(messages: Conversation) -> list[int]:
  return [i for i, m in enumerate(messages) if m['role'] == ASSISTANT]


def _cut(prompts: Sequence[str], text: str) -> list[str] | str:
  """The text cut behind each of the prompts, which it must begin with."""
  pieces, start = [], 0
  for number, prompt in enumerate(prompts, 1):
    if len(prompt) < start or not text.startswith(prompt):
      return (
        "the chat template changes what precedes the assistant's turn "
        f'{number} once more messages follow: use one row a turn'
      )
    pieces.append(text[start : len(prompt)])
    start = len(prompt)
  return [*pieces, text[start:]]


def _end_of_answer(
  piece: str,
  message: Mapping[str, str],
  following: Mapping[str, str] | None = None,
) -> int | None:
  """Where the answer ends in a piece; None if it is not there.

  Templates may spell its thoughts anew, but keep its last word.
  """
  content = message['content'].strip()
  if (shown := piece.find(content)) >= 0:
    return shown + len(content)
  if following:
    piece = piece.partition(following['content'].strip())[0]
  last_word = (_WORD.findall(content) or [content])[-1]
  shown = piece.rfind(last_word)
  return shown + len(last_word) if shown >= 0 else None


def _tokens(
  messages: Conversation,
  pieces: Sequence[str],
  tokenizer: tokenizer_lib.Tokenizer,
) -> Tokens | str:
  try:
    encoded = tokenizer.encode_templates(pieces)
  except ValueError as e:
    return str(e)
  completion, learnt = [], []
  for number, index in enumerate(_answers(messages), 1):
    piece, encoding = pieces[number], encoded[number]
    stop = _end_of_answer(piece, *messages[index : index + 2])
    if stop is None:
      return f"the chat template does not show the assistant's turn {number}"
    ends = [
      value in tokenizer.special_ids and start >= stop
      for value, (start, _) in zip(encoding.ids, encoding.offsets, strict=True)
    ]
    if True not in ends:
      return (
        f"no special token ends the assistant's turn {number} in the chat "
        'template: nothing would say where an answer stops'
      )
    last = ends.index(True)
    completion += encoding.ids
    learnt += [i <= last for i in range(len(ends))]
  # What the template writes behind the last turn is no part of the row.
  end = len(learnt) - learnt[::-1].index(True)
  return Tokens(encoded[0].ids, completion[:end], learnt[:end])
