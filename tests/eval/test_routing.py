"""Ranks of the routers' paths, and what else is reported of routing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.eval import routing
from dllm_jax.rl import routing as rl_routing
from dllm_jax.runtime import sharding
from tests.models import test_experts
from tests.rl import test_routing as made

OTHERS = np.arange(100.0)[None]


def test_ranks_by_hand():
  """T9."""
  best = routing.ranks(np.array([1000.0]), OTHERS)
  assert best == (1.0, 1.0, 1.0, 0.0)
  worst = routing.ranks(np.array([-1.0]), OTHERS)
  assert worst == (pytest.approx(1 / 101), 0.0, 0.0, 0.0)
  tied = routing.ranks(np.array([5.0]), np.full((1, 100), 5.0 + 1e-8))
  assert tied == (pytest.approx(1 / 51), 0.5, 0.0, 1.0)
  # One path is better, one is tied: rank 2.5; 98 of 100 are worse.
  third = routing.ranks(np.array([98.0]), OTHERS)
  assert third == (pytest.approx(1 / 2.5), pytest.approx(0.985), 0.0, 0.01)


def test_exchangeable_paths_are_at_chance():
  """T9: H_101 / 101."""
  assert routing.chance(100) == pytest.approx(0.0515, abs=1e-4)
  scores = np.random.default_rng(0).standard_normal((4000, 101))
  mrr = routing.ranks(scores[:, 0], scores[:, 1:]).mrr
  assert mrr == pytest.approx(routing.chance(100), abs=4 * 0.12 / 4000**0.5)


def measured():
  """Two rows of two labels, two experts, one layer."""
  logp = np.log(np.array([[0.5, 0.5], [0.25, 0.125]]))
  forced = np.log(
    np.array([[[0.5, 0.5], [0.1, 0.2]], [[0.25, 0.1], [0.5, 0.125]]])
  )
  return routing.Measured(
    own=logp.mean(1),
    perturbed=np.stack([logp.mean(1), logp.mean(1) - 1], axis=1),
    sampled=logp.mean(1)[:, None] + np.zeros((2, 2)),
    forced=forced,
    logp=logp,
    chosen=np.array([[[0, 0]], [[0, 1]]]),
    confidence=np.array([[[0.6, 0.8]], [[0.5, 0.9]]]),
  )


def test_the_summary_by_hand():
  credit = np.ones((2, 2), bool)
  cfg = rl_routing.ExploreConfig(num_paths=2, alpha=0.5, replacement='other')
  got = routing.summarise(measured(), credit, np.array([0, 1]), cfg, 'router')
  assert got['loss'] == pytest.approx(7 * np.log(2) / 4)
  # One of two paths is tied, none is better: rank 1.5.
  assert got['mrr']['mrr'] == pytest.approx(1 / 1.5)
  assert got['mrr_by_router']['ties'] == 1.0
  assert got['path_variance'] == pytest.approx(0.25)
  assert got['load'] == [[0.75, 0.25]]
  assert got['map'] == [[[1.0, 0.0]], [[0.5, 0.5]]]
  assert got['confidence'] == pytest.approx(0.7)
  want = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(2)
  assert got['load_entropy'] == pytest.approx(want)
  # Tokens of expert 0: .1, .2 and .5 when expert 1 serves them; of 1: .1.
  zero = -np.log([0.1, 0.2, 0.5]).mean()
  assert got['cross'][0][1] == pytest.approx(zero)
  assert got['cross'][1][1] == pytest.approx(3 * np.log(2))
  assert got['cross_loss'] == pytest.approx((3 * zero - np.log(0.1)) / 4)


def test_labels_without_credit_count_nowhere():
  credit = np.array([[True, True], [True, False]])
  cfg = rl_routing.ExploreConfig(num_paths=2, alpha=0.5)
  got = routing.summarise(measured(), credit, np.array([0, 1]), cfg, 'other')
  assert got['load'] == [[1.0, 0.0]]
  assert got['cross'][1] == [None, None]
  assert got['loss'] == pytest.approx(4 * np.log(2) / 3)


def test_paired_by_hand():
  gap, low, high = routing.paired([1.0, 2.0, 3.0], [0.5, 1.5, 2.5])
  assert (gap, low, high) == (0.5, 0.5, 0.5)
  gap, low, high = routing.paired([1.0, 2.0], [0.0, 0.0])
  assert gap == 1.5 and low == 1.0 and high == 2.0


def test_a_model_is_measured_alike_in_batches_of_any_size():
  texts = jax.tree.map(np.asarray, made.texts())
  texts = jax.tree.map(lambda x: x[:3], texts)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  label = np.array([0, 1, 0], np.int32)
  cfg = rl_routing.ExploreConfig(num_paths=6, alpha=0.5, replacement='other')
  got = [
    routing.evaluate(
      test_experts.LM,
      jax.tree.map(jnp.asarray, test_experts.params()),
      texts,
      label,
      cfg,
      jax.random.key(0),
      vocab=made.VOCAB,
      mesh=mesh,
      batch_size=size,
    )
    for size in (2, 3)
  ]
  assert got[0]['load'] == got[1]['load']
  assert got[0]['mrr'] == pytest.approx(got[1]['mrr'])
  base = made.run(test_experts.params(), None, made.texts())
  credit = np.asarray(made.CREDIT[:3])
  want = -np.asarray(base.logp[:3, 0])[credit].mean()
  assert got[0]['loss'] == pytest.approx(want, rel=1e-4)
