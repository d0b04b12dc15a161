"""Log-likelihoods: recorded, of rows alone, and of shared prompts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dllm_jax
from dllm_jax.eval import likelihood, masked_likelihood
from dllm_jax.models import transformer
from dllm_jax.runtime import sharding
from tests import tiny

L = 3
TABLE = tiny.Table(gen_length=L)
PARAMS = tiny.table_params(0, L)
MESH = sharding.make_mesh(sharding.MeshConfig(data=1))
PROMPT, ANSWER = [5, 9], [7, 2, 11]


def test_a_pair_does_not_depend_on_its_batch():
  """Neither on the pairs beside it, nor on their lengths."""
  table = tiny.Table(gen_length=2 * likelihood.WIDTH)
  params = tiny.table_params(1, table.gen_length, context=0.25)
  rng = np.random.default_rng(0)
  pairs = [
    (rng.integers(0, 28, before).tolist(), rng.integers(0, 28, 40).tolist())
    for before in (3, 40, 1, 7, 5)
  ]
  score = lambda batch_size: (
    likelihood.score(
      table,
      params,
      pairs,
      vocab=tiny.VOCAB,
      mesh=MESH,
      estimate=masked_likelihood.Estimate(num_samples=4),
      seed=3,
      batch_size=batch_size,
    ).logp
  )
  np.testing.assert_allclose(score(2), score(1), rtol=1e-6)
  np.testing.assert_allclose(score(5), score(1), rtol=1e-6)


def test_ragged_continuations_of_a_transformer_are_scored_as_alone():
  """A wider batch draws the same masks."""
  pairs = [([1, 2, 3], [4, 5]), ([6], list(range(7, 27)) * 2), ([8] * 9, [3])]
  score = lambda batch_size: (
    likelihood.score(
      tiny.DENOISER,
      tiny.params(),
      pairs,
      vocab=tiny.VOCAB,
      mesh=MESH,
      estimate=masked_likelihood.Estimate(num_samples=4),
      seed=0,
      batch_size=batch_size,
    ).logp
  )
  np.testing.assert_allclose(score(3), score(1), rtol=1e-5)


@pytest.mark.parametrize(
  'sizes', [{'data': 4}, {'fsdp': 2}, {'data': 2, 'fsdp': 2, 'tensor': 2}]
)
def test_a_mesh_changes_nothing(sizes):
  """Where it does not divide the batch either."""
  pairs = [([1, 2, 3], [4, 5]), ([6], [7, 9, 2]), ([8] * 9, [3])] * 2
  score = lambda **sizes: (
    likelihood.score(
      tiny.DENOISER,
      tiny.params(),
      pairs,
      vocab=tiny.VOCAB,
      mesh=sharding.make_mesh(sharding.MeshConfig(**{'data': 1, **sizes})),
      estimate=masked_likelihood.Estimate(num_samples=2),
      seed=0,
      batch_size=5,
    ).logp
  )
  np.testing.assert_allclose(score(**sizes), score(), rtol=1e-5)


CAUSAL = transformer.of_config(dataclasses.replace(tiny.MODEL, causal=True))
CAUSAL_VOCAB = dataclasses.replace(tiny.VOCAB, mask_token=None)


def scored(pairs, batch_size, **sizes):
  """Exact log-likelihoods of a tiny causal model."""
  params = jax.tree.map(jnp.asarray, tiny.params(CAUSAL.cfg))
  return likelihood.score(
    CAUSAL,
    params,
    pairs,
    vocab=CAUSAL_VOCAB,
    mesh=sharding.make_mesh(sharding.MeshConfig(**{'data': 1, **sizes})),
    estimate=masked_likelihood.Estimate(num_samples=1),
    seed=0,
    batch_size=batch_size,
  ).logp


def uncached(pair):
  """The same by one pass over prompt and continuation, without a cache."""
  before, after = pair
  ids = jnp.array([before + after])
  column = len(before) + jnp.arange(len(after))[None]
  params = tiny.params(CAUSAL.cfg)
  logits = jax.jit(CAUSAL)(params, ids, jnp.ones_like(ids, bool), column)
  logits = logits.at[..., CAUSAL_VOCAB.size :].set(-jnp.inf)
  logp = tiny.log_softmax(logits[0])
  return logp[np.arange(len(after)), after].sum()


# Two prompts, of which one has three continuations and is a single token.
SHARED = [([6], [7, 9, 2]), ([1, 2, 3], [4, 5]), ([6], [4]), ([6], [9, 9])]


def test_continuations_of_a_shared_prompt_are_scored_as_without_a_cache():
  want = [uncached(pair) for pair in SHARED]
  np.testing.assert_allclose(scored(SHARED, 4), want, rtol=1e-5)
  np.testing.assert_allclose(scored(SHARED, 1), want, rtol=1e-5)


def test_long_continuations_are_scored_chunk_by_chunk(monkeypatch):
  want = scored(SHARED, 4)
  monkeypatch.setattr(likelihood, 'CHUNK', 10)  # of 32 columns: not a divisor
  jax.clear_caches()
  np.testing.assert_allclose(scored(SHARED, 4), want, rtol=1e-6)
  jax.clear_caches()


def test_a_shared_prompt_is_read_once():
  """The number of different prompts, rounded up to a power of 2."""
  different, prompt_of = likelihood._different([p for p, _ in SHARED], 1)
  assert different == [(6,), (1, 2, 3)]
  assert prompt_of.tolist() == [0, 1, 0, 0]
  different, _ = likelihood._different([[1], [2], [3]], 2)
  assert different == [(1,), (2,), (3,), (3,)]


@pytest.mark.parametrize(
  'sizes', [{'data': 4}, {'fsdp': 2}, {'data': 2, 'fsdp': 2, 'tensor': 2}]
)
def test_a_mesh_scores_shared_prompts_alike(sizes):
  np.testing.assert_allclose(
    scored(SHARED, 3, **sizes), scored(SHARED, 4), rtol=1e-5
  )


@pytest.mark.parametrize('family', ['llama', 'qwen2', 'qwen3'])
def test_causal_models_give_the_recorded_log_probabilities(shared_dir, family):
  """Ragged pairs, in one batch and one at a time."""
  folder = shared_dir / 'golden' / f'{family}_tiny'
  want = tiny.recorded(folder, 'golden.npz')
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  model = dllm_jax.Model.open(folder, mesh=mesh)
  logp = tiny.log_softmax(want['logits'])
  pairs, sums = [], []
  for row, (start, end) in enumerate([(8, 20), (1, 5), (13, 14)]):
    tokens = want['tokens'][row]
    pairs.append((tokens[:start].tolist(), tokens[start:end].tolist()))
    columns = np.arange(start, end)
    sums.append(logp[row, columns - 1, tokens[columns]].sum())
  got = model.loglikelihood(pairs, batch_size=3)
  np.testing.assert_allclose(got, sums, atol=2e-3, rtol=1e-5)
  alone = model.loglikelihood(pairs, batch_size=1)
  np.testing.assert_allclose(alone, got, rtol=1e-5)
