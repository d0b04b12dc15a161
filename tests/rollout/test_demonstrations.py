"""Conversations as arrays: a table by hand, and 200 rows by a slow twin."""

import numpy as np
import pytest

import configs.sft
from dllm_jax import errors
from dllm_jax.rollout import demonstrations, prompts
from dllm_jax.run import base_model, conversations, settings, setup
from tests import tiny_rows, tiny_run

P, L = 64, 48
FAMILIES = ('llada', 'qwen3')
DECODE = {'llada': 'fixed', 'qwen3': 'autoregressive'}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """The folders by family."""
  place = tmp_path_factory.mktemp('folders')
  return {name: tiny_rows.folder(place / name, name) for name in FAMILIES}


def opened(folder, family, rows, place, **changes):
  """(settings, context, the rows of the file, tokenized)."""
  file = tiny_rows.write(place / 'own.jsonl', rows)
  cfg = settings.from_config(
    tiny_rows.values(
      configs.sft,
      file,
      base__path=str(folder),
      rollout__decode=DECODE[family],
      **changes,
    )
  )
  ctx = setup.make_context(cfg, base_model.describe_base(cfg))
  found = setup.load_rows(cfg)
  every = {row['id']: row for row in [*found.prompts, *found.test]}
  order = [f'{file}:{i}' for i in range(1, len(rows) + 1)]
  assert sorted(every) == sorted(order)
  return cfg, ctx, demonstrations.tokenized(ctx, [every[i] for i in order])


# Rows, and of each family the prompt, the completion, and its marks: '+' is
# learnt, '-' is not. An item of a list is a token.
S, E, T = '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'
BOS, IM, END = '<|startoftext|>', '<|im_start|>', '<|im_end|>'
HAND = [
  (
    {'prompt': 'Hi', 'completion': 'Yo'},
    {
      'llada': (
        [BOS, S, *'user', E, *'\n\nHi', T, S, *'assistant', E, *'\n\n'],
        [*'Yo', T],
        '+++',
      ),
      'qwen3': (
        [IM, *'user\nHi', END, *'\n', IM, *'assistant\n'],
        [*'Yo', END],
        '+++',
      ),
    },
  ),
  (
    {
      'messages': tiny_rows.messages(
        'system: x', 'user: a', 'assistant: b', 'user: c', 'assistant: de'
      )
    },
    {
      'llada': (
        [BOS, S, *'system', E, *'\n\nx', T, S, *'user', E, *'\n\na', T]
        + [S, *'assistant', E, *'\n\n'],
        ['b', T, S, *'user', E, *'\n\nc', T, S, *'assistant', E, *'\n\n']
        + [*'de', T],
        '++' + 23 * '-' + '+++',
      ),
      'qwen3': (
        [IM, *'system\nx', END, *'\n', IM, *'user\na', END, *'\n']
        + [IM, *'assistant\n'],
        ['b', END, *'\n', IM, *'user\nc', END, *'\n', IM, *'assistant\n']
        + [*'de', END],
        '++' + 21 * '-' + '+++',
      ),
    },
  ),
  (
    # A thought: Qwen3's template spells it anew. LLaDA's knows none.
    {'messages': tiny_rows.messages('user: 1', 'assistant: <think>2</think>3')},
    {
      'llada': (
        [BOS, S, *'user', E, *'\n\n1', T, S, *'assistant', E, *'\n\n'],
        [*'<think>2</think>3', T],
        18 * '+',
      ),
      'qwen3': (
        [IM, *'user\n1', END, *'\n', IM, *'assistant\n'],
        [*'<think>\n2\n</think>\n\n3', END],
        22 * '+',
      ),
    },
  ),
]


def numbers(family, tokens):
  known = tiny_rows.ids(family)
  return [known[t] if t in known else ord(t) for t in tokens]


@pytest.mark.parametrize('family', FAMILIES)
def test_rows_by_hand(folders, tmp_path, family):
  _, _, rows = opened(
    folders[family], family, [row for row, _ in HAND], tmp_path
  )
  for row, (_, wanted) in zip(rows, HAND, strict=True):
    prompt, completion, marks = wanted[family]
    got = row['conversation']
    assert got.prompt == numbers(family, prompt)
    assert got.completion == numbers(family, completion)
    assert got.learnt == [mark == '+' for mark in marks]


def spelled(family, row):
  """(prompt, completion, marks), token by token, without any tokenizer."""
  found = []
  say = lambda tokens, learnt: found.extend((t, learnt) for t in tokens)
  messages = row.get('messages') or tiny_rows.messages(
    f'user: {row["prompt"]}', f'assistant: {row["completion"]}'
  )
  if family == 'llada':
    say([BOS], False)
  for message in messages:
    is_own = message['role'] == 'assistant'
    if family == 'llada':
      say([S, *message['role'], E, *'\n\n'], False)
      say([*message['content'], T], is_own)
    else:
      say([IM, *message['role'], '\n'], False)
      say([*message['content'], END], is_own)
      say('\n', False)
  marks = [learnt for _, learnt in found]
  first, last = marks.index(True), len(marks) - 1 - marks[::-1].index(True)
  tokens = numbers(family, [token for token, _ in found])
  return tokens[:first], tokens[first : last + 1], marks[first : last + 1]


@pytest.mark.parametrize('eos_padding', [True, False])
@pytest.mark.parametrize('family', FAMILIES)
def test_200_rows_equal_their_twins(folders, tmp_path, family, eos_padding):
  rows = tiny_rows.conversations()
  _, ctx, tokenized = opened(folders[family], family, rows, tmp_path)
  got = demonstrations.encode(ctx, tokenized, L, eos_padding=eos_padding)
  eos = tiny_rows.ids(family)[tiny_rows.EOS[family]]
  is_filled = eos_padding and family == 'llada'
  assert len(rows) == len(got.tokens) == 200
  widths = set()
  for i, row in enumerate(rows):
    prompt, completion, marks = spelled(family, row)
    widths.add(len(prompt))
    padding = L - len(completion)
    assert got.prompt_mask[i].sum() == len(prompt)
    assert got.prompt_ids[i][-len(prompt) :].tolist() == prompt
    assert got.tokens[i].tolist() == completion + padding * [eos]
    assert got.learnt[i].tolist() == marks + padding * [is_filled]
    assert got.mask[i].tolist() == len(marks) * [True] + padding * [is_filled]
  assert got.prompt_ids.shape == (200, prompts.width_for(max(widths), P))


def test_missing_rows_are_padding_of_which_nothing_is_learnt(folders, tmp_path):
  rows = tiny_rows.conversations(4)
  _, ctx, tokenized = opened(folders['llada'], 'llada', rows, tmp_path)
  whole = demonstrations.encode(ctx, tokenized[:3], L)
  got = demonstrations.encode(ctx, tokenized[:3], L, num_rows=5)
  for of, padded in zip(whole, got, strict=True):
    np.testing.assert_array_equal(padded[:3], of)
  assert not got.learnt[3:].any() and got.mask[3:].all()


def test_demonstrations_of_tasks_may_end_with_their_first_eos(tmp_path):
  """The default learns all of the padding: no masks are made."""
  _, ctx = tiny_run.parts()
  rows = tiny_run.rows('5 + 3 - 1')
  whole = demonstrations.encode(ctx, rows, 14)
  assert whole.learnt is None and whole.mask is None
  got = demonstrations.encode(ctx, rows, 14, eos_padding=False)
  np.testing.assert_array_equal(got.tokens, whole.tokens)
  want = [[True] * 12 + [False] * 2]  # 11 tokens and an EOS
  assert got.learnt.tolist() == got.mask.tolist() == want


def test_rows_that_do_not_fit_are_counted(folders, tmp_path):
  rows = [{'prompt': f'{i}', 'completion': 'y' * (40 + i)} for i in range(12)]
  cfg, ctx, _ = opened(folders['qwen3'], 'qwen3', rows, tmp_path)
  found = conversations.tokenize(ctx, setup.load_rows(cfg))
  with pytest.raises(errors.UserError) as caught:
    conversations.check_lengths(cfg, found)
  line = str(caught.value)
  # 'y' 48 times and more, and the end of the turn.
  assert 'rollout.gen_length=48 (4 of 12 rows do; the longest has 52)' in line
  assert 'own.jsonl:' in line and '\n' not in line
  rows = [{'prompt': 'x' * 60, 'completion': 'y'}, *rows[:2]]
  cfg, ctx, _ = opened(folders['qwen3'], 'qwen3', rows, tmp_path)
  found = conversations.tokenize(ctx, setup.load_rows(cfg))
  with pytest.raises(errors.UserError, match='max_prompt_length=64 .1 of 3'):
    conversations.check_lengths(cfg, found)


def test_what_the_template_does_not_take_names_the_line(folders, tmp_path):
  rows = [
    {'prompt': 'a', 'completion': 'b'},
    {'prompt': END, 'completion': 'b'},
  ]
  with pytest.raises(errors.UserError) as caught:
    opened(folders['qwen3'], 'qwen3', rows, tmp_path)
  assert str(caught.value).endswith(
    "own.jsonl:2: message 1 spells the special token '<|im_end|>': remove it"
  )
