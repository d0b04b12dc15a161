"""How a completion was unmasked, frame by frame."""

import io
import math

from dllm_jax.rollout import completions
from dllm_jax.run import replay
from dllm_jax.runtime import console
from dllm_jax.text import tokenizer as tokenizer_lib
from tests import tiny_text

SPELL = lambda ids: ''.join('abc'[i] for i in ids)


def test_frames_by_hand():
  row = {
    'completion_ids': [0, 1, 2, 2],
    'commit_step': [1, 0, 1, 2],
    'num_steps': 3,
  }
  assert list(replay.frames(row, SPELL)) == [
    [('░', 'dim'), ('b', 'bold green'), ('░░', 'dim')],
    [('a', 'bold green'), ('b', ''), ('c', 'bold green'), ('░', 'dim')],
    [('abc', ''), ('c', 'bold green')],
  ]


def test_the_last_frame_shows_what_no_step_committed():
  row = {'completion_ids': [0, 2], 'commit_step': [0, 2], 'num_steps': 2}
  assert list(replay.frames(row, SPELL)) == [
    [('a', 'bold green'), ('░', 'dim')],
    [('ac', '')],
  ]


def test_drafts_are_accepted_or_struck_out():
  """Two rounds of a causal row: what is to come is not shown."""
  row = {
    'completion_ids': [0, 1, 2, 0, 1],
    'commit_step': [0, 0, 1, 1, 2],
    'num_steps': 2,
    'drafted': [0, 2, 2, -1, -1],
  }
  assert list(replay.frames(row, SPELL, '')) == [
    [('a', 'bold cyan'), ('c', 'red strike'), ('b', 'bold green'), ('', 'dim')],
    [('ab', ''), ('c', 'bold cyan'), ('a', 'bold green'), ('b', '')],
  ]
  row |= {'id': 'x', 'logp': [0.0] * 5}
  file = io.StringIO()
  words = tokenizer_lib.Tokenizer.from_words(['a', 'b', 'c'])
  replay.play(row, words, console.Console(file=file), '')
  assert [line.split()[-1] for line in file.getvalue().splitlines()] == [
    'ab',
    'abcab',
  ]


def test_ids_without_a_tokenizer():
  assert completions.spell(None, [3, 20]) == '3 20 '


def test_what_stands_before_the_canvas():
  row = {
    'id': 'a',
    'completion_ids': [0, 1, 2],
    'commit_step': [1, 0, 1],
    'num_steps': 2,
    'logp': [math.log(0.5), math.log(0.25), math.log(0.7)],
  }
  assert replay.title(row, 1) == 'a  1/2  1 token, confidence 0.25  '
  assert replay.title(row, 2) == 'a  2/2  2 tokens, confidence 0.60  '


def test_away_from_a_terminal_each_step_is_a_plain_line():
  row = {
    'id': 'a',
    'completion_ids': [7, 20],
    'commit_step': [1, 0],
    'num_steps': 2,
    'logp': [0.0, 0.0],
  }
  file = io.StringIO()
  replay.play(row, None, console.Console(file=file))
  assert file.getvalue().splitlines() == [
    'a  1/2  1 token, confidence 1.00  ░20 ',
    'a  2/2  1 token, confidence 1.00  7 20 ',
  ]


def test_pieces_of_words():
  words = tokenizer_lib.Tokenizer.from_words(['ab', ' c', '\n'])
  assert replay.pieces(words, [1, 0, 2, words.eos_token]) == [
    ' c',
    'ab',
    '\n',
    '',
  ]


def test_pieces_of_bytes_are_the_text(shared_dir, tmp_path):
  dream = tokenizer_lib.Tokenizer.from_directory(
    tiny_text.dream_dir(shared_dir, tmp_path)
  )
  split = 'ꙮ𓂀'  # characters that several tokens spell
  assert len(dream.encode(split)) > 2
  for text in ('日本語, 🙂👍🏽!', f'{split} ☃\n{split}', ' plain', '\ufffd🙂'):
    ids = dream.encode(text)
    found = replay.pieces(dream, ids)
    assert len(found) == len(ids) and ''.join(found) == text
  # Bytes that are no text do not swallow what follows.
  broken = dream.encode(split)[:1] * 4 + dream.encode('plain text')
  found = replay.pieces(dream, broken)
  assert ''.join(found).endswith('plain text') and found[-1] == ' text'
