"""Sampling: hand-computed, NumPy twins, and distributions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dllm_jax import types
from dllm_jax.ops import sampling
from tests import tiny

gumbel_argmax = jax.jit(sampling.gumbel_argmax)


def test_allowed_logits_excludes_mask_and_vocabulary_padding():
  vocab = types.Vocabulary(size=4, mask_token=1, eos_token=2)
  logits = jnp.array([[5.0, 9.0, 6.0, 7.0, 8.0, 8.0]], jnp.bfloat16)
  got = sampling.allowed_logits(logits, vocab)
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(
    got, [[5.0, -np.inf, 6.0, 7.0, -np.inf, -np.inf]]
  )


def test_token_logp_by_hand():
  logits = jnp.log(jnp.array([[1.0, 3.0, 4.0], [2.0, 2.0, 4.0]]))
  got = sampling.token_logp(logits, jnp.array([2, 0]))
  np.testing.assert_allclose(np.exp(got), [0.5, 0.25], rtol=1e-6)


def test_token_logp_of_huge_logits_is_finite():
  logits = jnp.array([[1e4, 0.0, -jnp.inf], [1e4, 1e4, -1e4]])
  value, grad = jax.value_and_grad(
    lambda x: sampling.token_logp(x, jnp.array([0, 1])).sum()
  )(logits)
  np.testing.assert_allclose(value, np.log(0.5), atol=1e-3)  # of 1e4
  np.testing.assert_allclose(
    grad, [[0.0, 0.0, 0.0], [-0.5, 0.5, 0.0]], atol=1e-6
  )


def test_temperature_0_is_the_argmax_and_ties_take_the_lowest_id():
  logits = jnp.array([[[0.0, 3.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0]]])
  got = gumbel_argmax(tiny.row_keys(0, [0]), logits, jnp.float32(0.0))
  np.testing.assert_array_equal(got, [[1, 0]])


def test_excluded_tokens_are_never_drawn():
  logits = jnp.array([[[-jnp.inf, -jnp.inf, -50.0, -jnp.inf]]])
  for t in (0.0, 1e-6, 1.0, 1e6):
    got = gumbel_argmax(tiny.row_keys(1, [0]), logits, jnp.float32(t))
    assert got == 2, t


@pytest.mark.parametrize('temperature', [0.5, 0.9, 1.0, 2.0])
def test_draws_follow_the_tempered_softmax(temperature):
  # 8000 draws; fixed keys, p > 0.001.
  logits = np.array([1.0, -0.5, 0.3, -np.inf, 1.4, -2.0], np.float32)
  rows = jnp.asarray(np.broadcast_to(logits, (1000, 8, 6)))
  draws = gumbel_argmax(
    tiny.row_keys(2, np.arange(1000)), rows, jnp.float32(temperature)
  )
  count = np.bincount(np.asarray(draws).ravel(), minlength=6)
  p = np.exp(tiny.log_softmax(logits / temperature))
  assert count[3] == 0
  keep = p > 0
  assert stats.chisquare(count[keep], 8000 * p[keep]).pvalue > 1e-3


def test_columns_and_rows_draw_independently():
  draws = np.asarray(
    gumbel_argmax(
      tiny.row_keys(3, np.arange(2000)),
      jnp.zeros((2000, 2, 3)),
      jnp.float32(1.0),
    )
  )
  pairs = np.zeros((3, 3))
  np.add.at(pairs, (draws[:, 0], draws[:, 1]), 1)
  assert stats.chi2_contingency(pairs).pvalue > 1e-3
  assert stats.chisquare(pairs.ravel()).pvalue > 1e-3


def test_draws_of_a_row_do_not_depend_on_the_batch():
  logits = jax.random.normal(jax.random.key(0), (5, 3, 7))
  draw = lambda rows, at: gumbel_argmax(
    tiny.row_keys(4, rows), logits[at], jnp.float32(1.0)
  )
  whole = draw([9, 3, 5, 1, 2], slice(None))
  np.testing.assert_array_equal(whole[2:3], draw([5], slice(2, 3)))
  assert (whole[:2] != draw([5, 5], slice(2))).any()


def test_best_is_the_likeliest_token_that_is_allowed():
  vocab = types.Vocabulary(size=5, mask_token=1, eos_token=2)
  logits = jnp.array(
    [
      [0.0, 9.0, 1.0, 3.0, 3.0, 8.0],  # [MASK], and an id beyond the text
      [-2.0, -1.0, -3.0, -4.0, -5.0, 0.0],
      [-jnp.inf, 0.0, -jnp.inf, -jnp.inf, -50.0, 0.0],
    ],
    jnp.bfloat16,
  )
  got = sampling.best(logits, vocab)
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, [3, 0, 4])  # the lowest of ids 3 and 4
  unmasked = dataclasses.replace(vocab, mask_token=None)
  np.testing.assert_array_equal(sampling.best(logits, unmasked), [1, 1, 1])


def test_top_k_by_hand():
  logits = jnp.array([[1.0, 5.0, 3.0, 5.0, -jnp.inf, 3.0], [6, 5, 4, 3, 2, 1]])
  keep = lambda k: [
    np.flatnonzero(np.isfinite(row)).tolist()
    for row in sampling.top_k(logits, k)
  ]
  assert keep(1) == [[1, 3], [0]]  # a tie with the least of them stays
  assert keep(2) == [[1, 3], [0, 1]]
  assert keep(3) == [[1, 2, 3, 5], [0, 1, 2]]
  assert keep(4) == [[1, 2, 3, 5], [0, 1, 2, 3]]
  assert keep(5) == [[0, 1, 2, 3, 5], [0, 1, 2, 3, 4]]
  for k in (6, 7, 1000):  # all of them; an excluded token stays excluded
    np.testing.assert_array_equal(sampling.top_k(logits, k), logits)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=7, max_size=7), st.integers(1, 8))
def test_top_k_keeps_what_fewer_than_k_tokens_are_above(logits, k):
  got = sampling.top_k(jnp.array([logits], jnp.float32), k)[0]
  for value, kept in zip(logits, got, strict=True):
    stays = sum(other > value for other in logits) < k
    assert kept == (value if stays else -np.inf)


@pytest.mark.parametrize(
  ('top_p', 'temperature', 'kept'),
  [
    (0.3, 1.0, [3]),
    (0.45, 1.0, [1, 3, 4]),  # 0.4, then one of the two with 0.2, and its tie
    (0.79, 1.0, [1, 3, 4]),
    (0.81, 1.0, [1, 2, 3, 4]),
    (0.95, 1.0, [0, 1, 2, 3, 4]),
    (1.0, 1.0, [0, 1, 2, 3, 4]),
    # Squares of the probabilities: 16 of 26, 4, 4, 1, 1.
    (0.6, 0.5, [3]),
    (0.62, 0.5, [1, 3, 4]),
  ],
)
def test_nucleus_by_hand(top_p, temperature, kept):
  probs = np.array([0.07, 0.2, 0.13, 0.4, 0.2, 0.0])
  if temperature == 0.5:
    probs = np.array([0.1, 0.2, 0.1, 0.4, 0.2, 0.0])
  with np.errstate(divide='ignore'):
    logits = jnp.asarray(np.log(probs)[None], jnp.float32)
  got = sampling.nucleus(logits, top_p, jnp.float32(temperature))
  assert np.flatnonzero(np.isfinite(got[0])).tolist() == kept
  np.testing.assert_array_equal(
    got[0][np.array(kept)], logits[0][np.array(kept)]
  )


def test_top_quota_takes_nan_last_but_before_what_is_not_eligible():
  """Otherwise a step would commit nothing, and decoding never end."""
  score = jnp.array([[jnp.nan, 0.5, -2.0, jnp.nan]])
  eligible = jnp.array([[True, False, True, True]])
  pick = lambda q: sampling.top_quota(score, eligible, jnp.array([q]))
  np.testing.assert_array_equal(pick(1), [[0, 0, 1, 0]])
  np.testing.assert_array_equal(pick(2), [[1, 0, 1, 0]])
  np.testing.assert_array_equal(pick(3), [[1, 0, 1, 1]])


def test_top_quota_by_hand():
  score = jnp.array([[0.1, 0.9, 0.5, 0.9], [0.4, 0.4, 0.4, 0.4]])
  eligible = jnp.array([[True, True, True, False], [False, True, True, True]])
  pick = lambda *q: sampling.top_quota(score, eligible, jnp.array(q))
  np.testing.assert_array_equal(pick(1, 2), [[0, 1, 0, 0], [0, 1, 1, 0]])
  np.testing.assert_array_equal(pick(2, 0), [[0, 1, 1, 0], [0, 0, 0, 0]])
  np.testing.assert_array_equal(pick(9, 9), eligible)


@settings(max_examples=200, deadline=None)
@given(
  st.lists(st.sampled_from([-2.0, -1.0, 0.0]), min_size=6, max_size=6),
  st.lists(st.booleans(), min_size=6, max_size=6),
  st.integers(0, 7),
)
def test_top_quota_equals_a_sort(score, eligible, quota):
  got = sampling.top_quota(
    jnp.array([score]), jnp.array([eligible]), jnp.array([quota])
  )
  ranked = sorted((-s, i) for i, s in enumerate(score) if eligible[i])
  want = {i for _, i in ranked[:quota]}
  assert set(np.flatnonzero(got[0])) == want


def test_margin_by_hand():
  p = np.array([[0.5, 0.2, 0.3, 0.0], [0.25, 0.25, 0.25, 0.25]], np.float32)
  with np.errstate(divide='ignore'):
    logits = jnp.log(p)
  np.testing.assert_allclose(sampling.margin(logits), [0.2, 0.0], atol=1e-6)
