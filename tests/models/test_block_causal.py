"""Models that are causal over blocks, against themselves and smaller calls."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import types
from dllm_jax.models import transformer
from tests import tiny

N = 3
MODEL = dataclasses.replace(tiny.MODEL, block_causal=N)
S = 11
TOKENS = jax.random.randint(jax.random.key(3), (3, S), 0, 28)
# Whole rows of 11, 9 and 6 tokens.
MASK = jnp.arange(S)[None] >= jnp.array([[0], [2], [5]])
QUERY = jnp.broadcast_to(jnp.arange(S)[None], TOKENS.shape)
call = jax.jit(
  lambda cfg, *args: transformer.TransformerDenoiser(cfg=cfg)(*args),
  static_argnums=0,
)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def logits(cfg, tokens=TOKENS, mask=MASK):
  rows, size = tokens.shape
  query = QUERY[:rows, :size]
  return np.asarray(call(cfg, tiny.params(), tokens, mask, query))


@pytest.mark.parametrize('block', range(4))
def test_tokens_read_their_own_block_and_those_before_it(block):
  """Changing one block changes the logits of its row from there on."""
  whole = jnp.ones_like(MASK)
  inside = np.arange(S) // N == block
  other = jnp.where(inside, (TOKENS + 1) % 28, TOKENS)
  a, b = logits(MODEL, TOKENS, whole), logits(MODEL, other, whole)
  start = N * block
  np.testing.assert_array_equal(a[:, :start], b[:, :start])
  assert (np.abs(a - b).max(axis=-1)[:, start:] > 1e-4).all()


def test_padding_moves_no_block():
  """A row alone, padded on the left, on the right, and in the middle."""
  row = TOKENS[:1, :7]
  alone = logits(MODEL, row, jnp.ones_like(row, bool))
  for columns in ([4, 5, 6, 7, 8, 9, 10], range(7), [1, 2, 6, 7, 8, 9, 10]):
    at = jnp.array(columns)
    padded = jnp.full((1, S), 9).at[:, at].set(row)
    mask = jnp.zeros((1, S), bool).at[:, at].set(True)
    close(logits(MODEL, padded, mask)[:, at], alone)


def test_ragged_rows_are_the_rows_alone():
  got = logits(MODEL)
  for i, first in enumerate((0, 2, 5)):
    row = TOKENS[i : i + 1, first:]
    close(got[i, first:], logits(MODEL, row, jnp.ones_like(row, bool))[0])


def test_one_block_is_bidirectional_and_blocks_of_one_are_causal():
  size = lambda n: dataclasses.replace(tiny.MODEL, block_causal=n)
  real = np.asarray(MASK)
  both = logits(tiny.MODEL)[real]
  for n in (S, S + 5):
    np.testing.assert_array_equal(logits(size(n))[real], both)
  assert np.abs(logits(size(S - 1))[real] - both).max() > 1e-3
  causal = dataclasses.replace(tiny.MODEL, causal=True)
  close(logits(size(1))[real], logits(causal)[real])


def test_config_refuses():
  for wrong in ({'block_causal': -1}, {'causal': True, 'block_causal': 4}):
    with pytest.raises(ValueError, match='block_causal'):
      dataclasses.replace(tiny.MODEL, **wrong)


def test_models_say_whether_they_are_causal_over_blocks():
  causal = dataclasses.replace(tiny.MODEL, causal=True)
  for cfg, n in ((MODEL, N), (tiny.MODEL, 0), (causal, 0)):
    denoiser = transformer.of_config(cfg)
    assert isinstance(denoiser, types.BlockCausal)
    assert denoiser.block_causal == n
  assert not isinstance(tiny.Table(gen_length=4), types.BlockCausal)


@functools.partial(jax.jit, static_argnames='cfg')
def two_streams(params, context, tokens, *, cfg):
  denoiser = transformer.of_config(cfg)
  states = denoiser.two_stream_states(params, context, tokens, MASK, QUERY)
  return denoiser.unembed(params, states)


NOISED = jnp.where(
  jax.random.bernoulli(jax.random.key(1), 0.5, TOKENS.shape), tiny.MASK, TOKENS
)


@pytest.mark.parametrize('shift', [False, True])
def test_two_streams_are_every_block_after_clean_ones(shift):
  """Each block alone: clean blocks before it, noised itself, nothing after."""
  cfg = dataclasses.replace(MODEL, logit_shift=shift)
  got = np.asarray(two_streams(tiny.params(), TOKENS, NOISED, cfg=cfg))
  number = (np.cumsum(MASK, axis=1) - 1) // N
  checked = 0
  for block in range(-(-S // N)):
    mask = np.asarray(MASK) & (number <= block)
    row = jnp.where(number == block, NOISED, TOKENS)
    want = logits(cfg, row, jnp.asarray(mask))
    own = np.asarray(MASK) & (number == block)
    if shift and block == 0:
      own &= np.cumsum(MASK, axis=1) > 1  # no token is before the first
    close(got[own], want[own])
    checked += own.sum()
  assert checked == MASK.sum() - 3 * shift


def test_two_streams_of_one_text_are_the_ordinary_call():
  """Without masks, a column reads the same tokens in both streams."""
  real = np.asarray(MASK)
  got = two_streams(tiny.params(), TOKENS, TOKENS, cfg=MODEL)
  close(np.asarray(got)[real], logits(MODEL)[real])


def test_padding_of_two_streams_is_not_read():
  real = np.asarray(MASK)
  other = jnp.where(MASK, TOKENS, 5), jnp.where(MASK, NOISED, 6)
  a = two_streams(tiny.params(), TOKENS, NOISED, cfg=MODEL)
  b = two_streams(tiny.params(), *other, cfg=MODEL)
  np.testing.assert_array_equal(np.asarray(a)[real], np.asarray(b)[real])


def test_gradients_reach_the_clean_stream():
  """A block's loss moves what the clean blocks before it are made of."""

  @jax.jit
  @jax.grad
  def grads(table):
    params = {**tiny.params(), 'embed_tokens': table}
    logits = two_streams(params, TOKENS, jnp.full_like(TOKENS, 29), cfg=MODEL)
    return jnp.sum(logits[0, N : 2 * N] ** 2)

  got = np.abs(np.asarray(grads(tiny.params()['embed_tokens']))).max(axis=1)
  read = set(TOKENS[0, :N].tolist()) | {tiny.MASK}
  assert set(np.flatnonzero(got)) == read
