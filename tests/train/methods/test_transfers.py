"""What `collect` moves: prompts up, completions down, rewards up, each once."""

import collections

import jax
import numpy as np
import pytest

from dllm_jax.rollout import answer_free, answer_guided, batch
from dllm_jax.runtime import process_rows
from dllm_jax.text import tokenizer as tokenizer_lib
from dllm_jax.train.methods import ta_grpo_d
from tests import tiny_run

ROWS = tiny_run.rows('5 + 3 - 1', '3 + 5 - 1', '5 - 1 + 3', '3 - 1 + 5')
LONG = '1 + 1 + 1 + 1'  # an anchor that is not short enough
B, P, L = 16, 6, 12  # rows, prompt, completion
GUIDED, A = 8, 7  # answer-guided rows, anchor
NUMBERS = np.dtype('int32')
FLAGS = np.dtype('bool')
FLOATS = np.dtype('float32')
PROMPTS = [
  ((B, P), NUMBERS),
  ((B, P), FLAGS),
  ((B,), NUMBERS),
  ((B, P), FLAGS),
]
TRAJECTORY = [
  ((B, L), NUMBERS),
  ((B, L), FLOATS),
  ((B, L), NUMBERS),
  ((B,), NUMBERS),
]
REWARDS = [((B,), FLOATS), ((B,), NUMBERS), ((B,), FLAGS)]


def anchors(num_rows):
  """Arrays of as many anchors."""
  return [((num_rows, A), NUMBERS), ((num_rows, A), FLAGS)]


def arrays(tree):
  """(shape, dtype) of the arrays of a tree that are on the host."""
  return [
    (x.shape, x.dtype)
    for x in jax.tree.leaves(tree)
    if isinstance(x, np.ndarray)
  ]


def size(kinds):
  """Bytes."""
  return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in kinds)


class Traffic:
  """Host arrays on their way to the devices and back, in order.

  Attributes:
    moved: (what moved them, (shape, dtype) of each).
    encoded: how many prompts were tokenised.
  """

  def __init__(self, monkeypatch):
    self.moved, self.encoded = [], 0
    watch = lambda owner, name, *how: monkeypatch.setattr(
      owner, name, self._watched(name, getattr(owner, name), *how)
    )
    watch(process_rows, 'place')
    watch(process_rows, 'fetch', True)
    watch(process_rows, 'replicate')
    watch(jax, 'device_put')
    watch(jax, 'device_get', True)
    watch(answer_free, 'sample')
    watch(answer_guided, 'sample')
    watch(batch, 'assemble')
    watch(ta_grpo_d, '_shape')
    for name in ('_take', '_compare'):
      make = getattr(batch, name)
      monkeypatch.setattr(
        batch,
        name,
        lambda *args, name=name, make=make: self._watched(name, make(*args)),
      )
    encode = tokenizer_lib.Tokenizer.encode_pieces

    def encode_pieces(tokenizer, pieces):
      self.encoded += len(pieces)
      return encode(tokenizer, pieces)

    monkeypatch.setattr(tokenizer_lib.Tokenizer, 'encode_pieces', encode_pieces)

  def _watched(self, name, function, down=False):
    def call(*args, **kwargs):
      result = function(*args, **kwargs)
      if kinds := arrays(result if down else (args, kwargs)):
        self.moved.append((name, kinds))
      return result

    return call

  def of(self, name):
    return [kinds for by, kinds in self.moved if by == name]


@pytest.fixture(params=[1, 8])
def collected(request, monkeypatch):
  """Traffic of one `collect`, after one that compiles."""

  def collect(arg, rows=ROWS):
    cfg, ctx = tiny_run.parts(arg, devices=request.param)
    method, state = tiny_run.start(cfg, ctx)
    method.collect(state, rows, 0)
    traffic = Traffic(monkeypatch)
    made, _ = method.collect(state, rows, 1)
    assert all(isinstance(x, jax.Array) for x in made)
    return traffic

  return collect


def check(traffic, *, beside=(), index=(), after=()):
  """One trip up for prompts, one down for completions, one up for rewards.

  Args:
    traffic: of one `collect`.
    beside: arrays that are placed after the prompts.
    index: lengths of the row numbers that gather rows on the devices.
    after: arrays that go up after the rewards.
  """
  assert traffic.encoded == len(ROWS)
  assert traffic.of('place') == [PROMPTS, *beside]
  assert traffic.of('fetch') == [TRAJECTORY]
  assert traffic.of('device_get') == [TRAJECTORY]  # within `fetch`
  assert traffic.of('replicate') == [REWARDS]
  indices = [shape for kinds in traffic.of('_take') for shape, _ in kinds]
  assert indices == [(n,) for n in index]
  assert traffic.of('_shape') == list(after)
  for program in ('sample', '_compare', 'assemble'):
    assert traffic.of(program) == []
  # Nothing of the size of a completion goes back up.
  names = [name for name, _ in traffic.moved]
  up_again = traffic.moved[names.index('fetch') + 1 :]
  assert all(len(shape) == 1 for _, kinds in up_again for shape, _ in kinds)
  assert sum(size(kinds) for _, kinds in up_again) <= 17 * B
  assert names.index('place') < names.index('fetch')


def test_diffu_grpo_transfers_completions_once(collected):
  traffic = collected('diffu_grpo')
  check(traffic)
  assert collections.Counter(name for name, _ in traffic.moved) == {
    'place': 1,
    'fetch': 1,
    'device_get': 1,
    'replicate': 1,
  }


def test_ag_grpo_transfers_completions_of_both_kinds_once(collected):
  check(
    collected('ag_grpo'),
    beside=[anchors(GUIDED)],
    index=[B - GUIDED, GUIDED, B],
  )


def test_ag_grpo_transfers_as_much_with_long_anchors(collected):
  rows = [ROWS[0] | {'solution': LONG}, *ROWS[1:]]
  # Rows are padded on the devices: the free ones to all, the guided to as many
  # as before; two have no anchor.
  check(
    collected('ag_grpo', rows),
    beside=[anchors(GUIDED - 2)],
    index=[B, GUIDED, B],
  )


def test_ta_grpo_d_transfers_completions_once_and_reward_sums_back(collected):
  check(collected('ta_grpo_d'), after=[[((B,), FLOATS)] * 2])
