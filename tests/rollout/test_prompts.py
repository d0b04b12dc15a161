"""Prompts are padded on the left, never cut, and refused in one line."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import errors
from dllm_jax.rollout import prompts
from dllm_jax.tasks import countdown
from dllm_jax.text import chat
from dllm_jax.text import tokenizer as tokenizer_lib
from tests import tiny, tiny_run, tiny_text

TASK = countdown.Countdown(count=3, max_number=9, max_target=20)
TOKENIZER = tokenizer_lib.Tokenizer.from_words(TASK.words())
CTX = dataclasses.replace(
  tiny.context_of(tiny.DENOISER), task=TASK, tokenizer=TOKENIZER
)


def test_pad_left_by_hand():
  got = prompts.pad_left([[1, 2, 3], [], [4]], 4, 9)
  np.testing.assert_array_equal(
    got.ids, [[9, 1, 2, 3], [9, 9, 9, 9], [9, 9, 9, 4]]
  )
  np.testing.assert_array_equal(
    got.mask, [[0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
  )
  assert got.ids.dtype == np.int32
  np.testing.assert_array_equal(got.maskable, got.mask)
  got = prompts.pad_left(
    [[1, 2, 3], []], 4, 9, content=[[False, True, False], []]
  )
  np.testing.assert_array_equal(got.maskable, [[0, 0, 1, 0], [0, 0, 0, 0]])
  np.testing.assert_array_equal(got.mask, [[0, 1, 1, 1], [0, 0, 0, 0]])


def test_take_by_mask_index_and_slice():
  given = prompts.pad_left([[1], [2, 3]], 2, 0)
  got = given.take(np.repeat(np.arange(len(given.ids)), 2))
  np.testing.assert_array_equal(got.ids, [[0, 1], [0, 1], [2, 3], [2, 3]])
  np.testing.assert_array_equal(got.mask.sum(1), [1, 1, 2, 2])
  got = got.take(np.array([False, True, True, False]))
  np.testing.assert_array_equal(got.ids, [[0, 1], [2, 3]])
  given = prompts.pad_left([[1], [2, 3]], 2, 0, content=[[False], [True] * 2])
  for rows in (slice(1, None), np.array([False, True])):
    got = given.take(rows)
    np.testing.assert_array_equal(got.ids, [[2, 3]])
    np.testing.assert_array_equal(got.maskable, [[1, 1]])
  np.testing.assert_array_equal(
    given.take(np.repeat(np.arange(len(given.ids)), 2)).maskable.sum(1),
    [0, 0, 2, 2],
  )


@pytest.mark.parametrize(
  ('longest', 'max_length', 'width'),
  [
    (0, 6, 6),
    (6, 6, 6),
    (6, 896, 32),
    (32, 896, 32),
    (33, 896, 64),
    (512, 896, 512),
    (513, 896, 896),
    (896, 896, 896),
    (33, 40, 40),
  ],
)
def test_width_for_by_hand(longest, max_length, width):
  assert prompts.width_for(longest, max_length) == width


def test_width_for_takes_few_values():
  assert len({prompts.width_for(n, 896) for n in range(897)}) == 6


def test_encode_is_as_wide_as_the_longest_prompt():
  rows = tiny_run.rows('x', numbers=(1,) * 29) + tiny_run.rows('x')
  assert encode(rows, 200).ids.shape == (2, 32)
  wider = tiny_run.rows('x', numbers=(1,) * 30)
  got = encode(rows + wider, 200)
  assert got.ids.shape == (3, 64)
  np.testing.assert_array_equal(got.ids[:2, 32:], encode(rows, 200).ids)
  assert encode(rows + wider, 40).ids.shape == (3, 40)


def encode(rows, max_length, **changes):
  ctx = dataclasses.replace(CTX, max_prompt_length=max_length, **changes)
  return ctx.encode(rows)


def test_encode_by_hand():
  rows = tiny_run.rows('x') + tiny_run.rows('x', numbers=(1, 2))
  got = encode(rows, 8)
  words = lambda *x: [TOKENIZER.encode(word)[0] for word in x]
  eos = TOKENIZER.eos_token
  np.testing.assert_array_equal(
    got.ids,
    [
      [eos] * 2 + words(' 5', ' 3', ' 1', ' =', ' 7', '\n'),
      [eos] * 3 + words(' 1', ' 2', ' =', ' 7', '\n'),
    ],
  )
  np.testing.assert_array_equal(got.mask.sum(1), [6, 5])
  np.testing.assert_array_equal(encode(rows, 6).ids, got.ids[:, 2:])


def test_encode_marks_the_template_unmaskable():
  row = tiny_run.rows('x')[0]
  template = chat.ChatTemplate(before='<|eos|> 1 2', after='<|eos|> =')
  got = encode([row], 14, template=template, prefill=' 3')
  plain = encode([row], 6).ids[0].tolist()
  word = lambda text: TOKENIZER.encode(text)[0]
  eos = TOKENIZER.eos_token
  want = [eos, word(' 1'), word(' 2'), *plain, eos, word(' ='), word(' 3')]
  np.testing.assert_array_equal(got.ids[0], [eos] * 2 + want)
  np.testing.assert_array_equal(got.mask[0], [0] * 2 + [1] * 12)
  np.testing.assert_array_equal(got.maskable[0], [0] * 5 + [1] * 6 + [0] * 3)


def test_encode_real_prompts_with_a_real_tokenizer(shared_dir):
  tokenizer = tiny_text.dream(shared_dir)
  path = shared_dir / 'data' / 'gsm8k' / 'test.jsonl'
  lines = path.read_text('utf-8').splitlines()[:100]
  rows = [{'id': i} | json.loads(line) for i, line in enumerate(lines)]

  got = encode(
    rows,
    300,
    task=tiny.Task(),
    tokenizer=tokenizer,
    template=chat.FAMILIES['dream'],
  )
  pad = tokenizer.special.pad
  np.testing.assert_array_equal(got.ids[~got.mask], pad)
  for i, row in enumerate(rows):
    content = got.ids[i][got.maskable[i]].tolist()
    assert content == tokenizer.encode(row['question'])
    # 14 tokens of the template before the question, and 5 after it.
    assert got.mask[i].sum() == len(content) + 19
    assert not got.maskable[i, -5:].any()


def test_encode_refuses_long_prompts():
  rows = tiny_run.rows('x', 'y', numbers=(1, 2, 3, 4))
  with pytest.raises(errors.UserError) as caught:
    encode(tiny_run.rows('x') + rows[1:], 6)
  line = str(caught.value)
  assert "row 'row1' has 7 tokens" in line and '\n' not in line
  assert 'rollout.max_prompt_length=6: increase it' in line


def test_encode_refuses_unknown_words():
  with pytest.raises(errors.UserError) as caught:
    encode(tiny_run.rows('x', numbers=(1, 2, 777)), 6)
  line = str(caught.value)
  assert "cannot encode a prompt of task 'countdown'" in line
  assert '\n' not in line and 'not in the vocabulary' in line


def test_encode_of_no_rows_is_empty():
  assert encode([], 6).ids.shape == (0, 6)


def test_canvas_by_hand():
  given = prompts.pad_left([[1], [2, 3]], 2, 0)
  got = prompts.canvas(
    jnp.asarray(given.ids), jnp.asarray(given.mask), jnp.array([[7, 8], [8, 9]])
  )
  np.testing.assert_array_equal(got.tokens, [[0, 1, 7, 8], [2, 3, 8, 9]])
  np.testing.assert_array_equal(
    got.attention_mask, [[0, 1, 1, 1], [1, 1, 1, 1]]
  )
