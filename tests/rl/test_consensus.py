"""Rewards from agreement: by hand, and relations that hold of any scores."""

import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.rl import consensus

N, K, M, L = 2, 3, 4, 5
SOURCE = jnp.array([0, 1, 2, 0])


def draw(*shape, seed=0):
  return jnp.asarray(
    -np.random.default_rng(seed).gamma(1.0, size=shape), jnp.float32
  )


def test_scores_are_means_over_the_tokens_of_a_candidate():
  logp = jnp.array([[[[-1.0, -2.0, -9.0], [-4.0, -5.0, -6.0]]]])
  mask = jnp.array([[[True, True, False], [True, True, True]]])
  got = consensus.scores(logp, mask)
  np.testing.assert_allclose(got, [[[-1.5, -5.0]]])


def test_scores_do_not_read_what_follows_a_candidate():
  logp, mask = draw(N, K, M, L), jnp.arange(L) < 3
  mask = jnp.broadcast_to(mask, (N, M, L))
  want = consensus.scores(logp, mask)
  got = consensus.scores(logp.at[..., 3:].set(jnp.nan), mask)
  np.testing.assert_array_equal(got, want)


def test_two_views_by_hand():
  """K = M = 2: each candidate is judged by the view that did not write it."""
  scores = jnp.array([[[-1.0, -4.0], [-2.0, -3.0]]])  # [i, m]
  weight = consensus.view_weights(jnp.array([0, 1]), 2)
  assert weight.tolist() == [[0, 1], [1, 0]]
  got = consensus.rewards(scores, weight)
  assert got.tolist() == [[-2.0, -4.0]]
  both = consensus.view_weights(jnp.array([0, 1]), 2, include_self=True)
  assert consensus.rewards(scores, both).tolist() == [[-1.5, -3.5]]
  everyone = consensus.view_weights(jnp.array([-1, -1]), 2)
  assert everyone.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
  ('aggregate', 'want'),
  [
    ('mean', -2.0),
    ('log_mean_exp', np.log((np.exp(-1) + np.exp(-3)) / 2)),
    ('worst', -3.0),
    ('probability', (np.exp(-1) + np.exp(-3)) / 2),
  ],
)
def test_aggregates_by_hand(aggregate, want):
  scores = jnp.array([[[-1.0], [-3.0], [-jnp.inf]]])
  weight = jnp.array([[1.0], [1.0], [0.0]])
  got = consensus.rewards(scores, weight, aggregate)
  np.testing.assert_allclose(got, [[want]], rtol=1e-6)


@pytest.mark.parametrize('aggregate', consensus.AGGREGATES)
def test_the_own_view_does_not_judge(aggregate):
  scores = draw(N, K, M)
  weight = consensus.view_weights(SOURCE, K)
  own = jnp.arange(K)[:, None] == SOURCE[None]
  own = jnp.broadcast_to(own[None], scores.shape)
  moved = jnp.where(own, scores - 7.0, scores)
  np.testing.assert_array_equal(
    consensus.rewards(moved, weight, aggregate),
    consensus.rewards(scores, weight, aggregate),
  )


@pytest.mark.parametrize('aggregate', consensus.AGGREGATES)
def test_rewards_follow_permutations(aggregate):
  scores, order = draw(N, K, M), np.array([2, 0, 1])
  renamed = jnp.asarray(np.argsort(order))[SOURCE]
  want = consensus.rewards(scores, consensus.view_weights(SOURCE, K), aggregate)
  got = consensus.rewards(
    scores[:, order], consensus.view_weights(renamed, K), aggregate
  )
  np.testing.assert_allclose(got, want, rtol=1e-6)  # of views
  turn = np.array([3, 1, 0, 2])
  got = consensus.rewards(
    scores[..., turn], consensus.view_weights(SOURCE[turn], K), aggregate
  )
  np.testing.assert_allclose(got, want[:, turn], rtol=1e-6)  # of candidates


def test_a_mean_over_tokens_becomes_one_over_candidates():
  num_tokens, advantage = jnp.array([[1, 2], [3, 2]]), draw(2, 2)
  loss = draw(2, 2, 3)
  mask = jnp.arange(3)[None, None] < num_tokens[..., None]
  scaled = consensus.per_candidate(advantage, num_tokens)
  got = jnp.sum(scaled[..., None] * loss * mask) / jnp.sum(mask)
  own = jnp.sum(loss * mask, axis=-1) / num_tokens
  np.testing.assert_allclose(got, jnp.mean(advantage * own), rtol=1e-6)


def test_negative_advantages_stay_with_the_view_that_wrote():
  advantage = jnp.array([[1.0, -2.0, -3.0]])
  source = jnp.array([0, 1, -1])
  pairs = lambda factor: consensus.pair_advantages(
    advantage, source, 2, cross_negative=factor
  )
  assert pairs(0.0).tolist() == [[[1, 0, 0], [1, -2, 0]]]
  assert pairs(0.5).tolist() == [[[1, -1, -1.5], [1, -2, -1.5]]]
  assert pairs(1.0).tolist() == [[[1, -2, -3], [1, -2, -3]]]


def test_correlation_against_numpy():
  x, y = draw(3, 6, seed=1), draw(3, 6, seed=2)
  want = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])
  np.testing.assert_allclose(consensus.correlation(x, y), want, rtol=1e-5)
  tied = jnp.concatenate([x, jnp.ones((1, 6))])
  other = jnp.concatenate([y, y[:1]])
  np.testing.assert_allclose(
    consensus.correlation(tied, other), want, rtol=1e-5
  )
  unknown = other.at[3, 0].set(jnp.nan)  # a set without a verdict
  np.testing.assert_allclose(consensus.correlation(other, unknown), 1.0)
  assert np.isnan(consensus.correlation(jnp.ones((2, 3)), draw(2, 3)))
