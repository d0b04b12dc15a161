"""Decoding after several prompts: twins, and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.decoding import autoregressive, ensemble
from dllm_jax.ops import sampling
from tests import tiny, tiny_causal

L = 6
PROMPTS = [[4, 5, 6], [7, 8], [9, 3, 2, 5]]


@functools.partial(jax.jit, static_argnames=('mean',))
def decode(params, keys, prompts, decoder, *, mean='geometric'):
  return ensemble.decode(
    tiny_causal.LM,
    params,
    keys,
    prompts,
    decoder,
    mean=mean,
    vocab=tiny_causal.VOCAB,
  )


def keys(*rows):
  return jax.vmap(jax.random.key)(jnp.array(rows or (0,)))


def views(*rows, width=5):
  """[B, K, P] of B lists of prompts."""
  padded = [tiny.pad(row, width) for row in rows]
  return ensemble.Prompts(*(np.stack(x) for x in zip(*padded, strict=True)))


def decoder(temperature=0.0):
  return autoregressive.Autoregressive(gen_length=L, temperature=temperature)


@pytest.mark.parametrize('mean', ensemble.MEANS)
@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_equal_prompts_decode_as_one(mean, temperature):
  params = tiny_causal.params()
  own = decoder(temperature)
  want = tiny_causal.decode(
    tiny_causal.LM,
    {'model': params},
    keys(0, 1),
    tiny_causal.canvas(PROMPTS[:2], L),
    own,
  )
  prompts = views(*([prompt] * 3 for prompt in PROMPTS[:2]))
  got = decode(params, keys(0, 1), prompts, own, mean=mean)
  for name in ('tokens', 'commit_step', 'num_steps'):
    np.testing.assert_array_equal(getattr(got, name), getattr(want, name), name)
  np.testing.assert_allclose(got.logp, want.logp, rtol=1e-4, atol=1e-5)


def test_a_row_depends_neither_on_padding_nor_on_its_neighbour():
  params, own = tiny_causal.params(), decoder(1.0)
  both = decode(params, keys(0, 1), views(PROMPTS, PROMPTS[::-1]), own)
  alone = decode(params, keys(1), views(PROMPTS[::-1], width=9), own)
  second = jax.tree.map(lambda x: x[1:], both)
  np.testing.assert_array_equal(alone.tokens, second.tokens)
  np.testing.assert_array_equal(alone.commit_step, second.commit_step)
  np.testing.assert_allclose(alone.logp, second.logp, rtol=1e-4, atol=1e-5)


@jax.jit
def _next(params, ids, mask, query):
  logits = tiny_causal.LM(params, ids, mask, query)[0, 0]
  return jax.nn.log_softmax(sampling.allowed_logits(logits, tiny_causal.VOCAB))


def whole_text(params, text, width=12):
  """Log-probabilities of the token after a text."""
  ids, mask = np.zeros((1, width), np.int32), np.zeros((1, width), bool)
  ids[0, : len(text)], mask[0, : len(text)] = text, True
  query = np.array([[len(text)]], np.int32)
  return np.asarray(_next(params, ids, mask, query), np.float64)


@pytest.mark.parametrize('mean', ensemble.MEANS)
def test_greedy_tokens_against_a_loop_over_whole_texts(mean):
  params = tiny_causal.params()
  got = decode(params, keys(), views(PROMPTS), decoder(), mean=mean)
  text, logp = [], []
  for _ in range(L):
    rows = [whole_text(params, [*prompt, *text]) for prompt in PROMPTS]
    if mean == 'geometric':
      mixed = np.mean(rows, axis=0)
      mixed -= np.log(np.exp(mixed).sum())
    else:
      mixed = np.logaddexp.reduce(rows, axis=0) - np.log(len(rows))
    text.append(int(np.argmax(mixed)))
    logp.append(mixed[text[-1]])
  assert got.tokens[0].tolist() == text
  np.testing.assert_allclose(got.logp[0], logp, rtol=1e-4, atol=1e-5)


def test_means_by_hand():
  p = np.array([[0.9, 0.1], [0.4, 0.6]], np.float32)
  logits = jnp.log(jnp.asarray(p))[None]
  got = jnp.exp(ensemble.combine(logits, 'arithmetic'))[0]
  np.testing.assert_allclose(got, [0.65, 0.35], rtol=1e-5)
  raw = np.sqrt(p[0] * p[1])
  got = jnp.exp(ensemble.combine(logits, 'geometric'))[0]
  np.testing.assert_allclose(got, raw / raw.sum(), rtol=1e-5)


def test_nothing_follows_a_stop_token():
  params = tiny_causal.params()
  free = decode(params, keys(), views(PROMPTS), decoder())
  stop = int(free.tokens[0, 2])
  got = decode(
    tiny_causal.renamed(params, stop), keys(), views(PROMPTS), decoder()
  )
  first = free.tokens[0].tolist().index(stop)
  assert int(got.num_steps[0]) == first + 1
  assert got.tokens[0, first:].tolist() == [tiny.EOS] * (L - first)
  assert got.commit_step[0, first + 1 :].tolist() == [first + 1] * (
    L - first - 1
  )
