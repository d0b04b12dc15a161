"""Log-likelihoods: hand-computed, enumerated, recorded, and of rows alone."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dllm_jax
from dllm_jax.eval import likelihood
from dllm_jax.models import transformer
from dllm_jax.runtime import sharding
from tests import tiny

L = 3
TABLE = tiny.Table(gen_length=L)
PARAMS = tiny.table_params(0, L)
MESH = sharding.make_mesh(sharding.MeshConfig(data=1))
PROMPT, ANSWER = [5, 9], [7, 2, 11]


def bound(params, answer, *, num_samples, seed=0, padding=0):
  """The estimate for `PROMPT` and one continuation, both padded."""
  width = padding + len(PROMPT)
  ids = np.full((1, width), tiny.EOS, np.int32)
  ids[0, padding:] = PROMPT
  tokens = np.full((1, L), tiny.EOS, np.int32)
  tokens[0, : len(answer)] = answer
  [value] = likelihood.bound(
    TABLE,
    params,
    tiny.row_keys(seed, [0]),
    likelihood.Pairs(
      jnp.asarray(ids),
      jnp.arange(width)[None] >= padding,
      jnp.asarray(tokens),
      jnp.arange(L)[None] < len(answer),
    ),
    vocab=tiny.VOCAB,
    num_samples=num_samples,
  )
  return float(value)


def weighted_logp(hidden):
  """(n / l) sum of log p over the l hidden columns of `ANSWER`."""
  canvas = [
    tiny.MASK if k in hidden else token for k, token in enumerate(ANSWER)
  ]
  seen = PARAMS['context'][PROMPT + canvas].sum(0)
  logp = tiny.allowed_logp(PARAMS['table'] + seen)
  return L / len(hidden) * sum(logp[k, ANSWER[k]] for k in hidden)


@pytest.mark.parametrize('size', [1, 2, 3])
@pytest.mark.parametrize('num_samples', [1, 8])
def test_uniform_logits_give_the_number_of_tokens_times_log_v(
  size, num_samples
):
  params = jax.tree.map(np.zeros_like, PARAMS)
  value = bound(params, ANSWER[:size], num_samples=num_samples)
  assert value == pytest.approx(-size * math.log(tiny.MASK), rel=1e-6)


def test_one_token_is_exact_with_any_number_of_samples():
  seen = PARAMS['context'][[*PROMPT, tiny.MASK]].sum(0)
  want = tiny.allowed_logp(PARAMS['table'][0] + seen)[7]
  for num_samples in (1, 3):
    value = bound(PARAMS, [7], num_samples=num_samples)
    assert value == pytest.approx(want, rel=1e-5)


def test_many_samples_converge_to_the_enumeration_of_all_masks():
  """l is uniform in 1..3, and a mask uniform among those with l columns."""
  mean, square = 0.0, 0.0
  for size in range(1, L + 1):
    masks = list(itertools.combinations(range(L), size))
    values = np.array([weighted_logp(mask) for mask in masks])
    mean += values.mean() / L
    square += (values**2).mean() / L
  num = 20_000
  error = math.sqrt((square - mean**2) / num)
  assert abs(bound(PARAMS, ANSWER, num_samples=num) - mean) < 5 * error


def test_stratified_samples_try_every_number_of_masks_equally_often():
  """Where masks of a size are worth the same, 3 samples are the mean."""
  params = PARAMS | {'table': np.repeat(PARAMS['table'][:1], L, axis=0)}
  same = [7, 7, 7]
  values = [bound(params, same, num_samples=3, seed=s) for s in range(4)]
  np.testing.assert_allclose(values, values[0], rtol=1e-6)
  alone = {bound(params, same, num_samples=1, seed=s) for s in range(12)}
  assert len({round(x, 3) for x in alone}) == 3


def test_padding_of_a_prompt_changes_nothing():
  values = [bound(PARAMS, ANSWER[:2], num_samples=4, padding=p) for p in (0, 6)]
  assert values[0] == values[1]


def test_a_pair_does_not_depend_on_its_batch():
  """Neither on the pairs beside it, nor on their lengths."""
  table = tiny.Table(gen_length=2 * likelihood.WIDTH)
  params = tiny.table_params(1, table.gen_length, context=0.25)
  rng = np.random.default_rng(0)
  pairs = [
    (rng.integers(0, 28, before).tolist(), rng.integers(0, 28, 40).tolist())
    for before in (3, 40, 1, 7, 5)
  ]
  score = lambda batch_size: likelihood.loglikelihood(
    table,
    params,
    pairs,
    vocab=tiny.VOCAB,
    mesh=MESH,
    num_samples=4,
    seed=3,
    batch_size=batch_size,
  )
  np.testing.assert_allclose(score(2), score(1), rtol=1e-6)
  np.testing.assert_allclose(score(5), score(1), rtol=1e-6)


def test_ragged_continuations_of_a_transformer_are_scored_as_alone():
  """A wider batch draws the same masks."""
  pairs = [([1, 2, 3], [4, 5]), ([6], list(range(7, 27)) * 2), ([8] * 9, [3])]
  score = lambda batch_size: likelihood.loglikelihood(
    tiny.DENOISER,
    tiny.params(),
    pairs,
    vocab=tiny.VOCAB,
    mesh=MESH,
    num_samples=4,
    seed=0,
    batch_size=batch_size,
  )
  np.testing.assert_allclose(score(3), score(1), rtol=1e-5)


@pytest.mark.parametrize(
  'sizes', [{'data': 4}, {'fsdp': 2}, {'data': 2, 'fsdp': 2, 'tensor': 2}]
)
def test_a_mesh_changes_nothing(sizes):
  """Where it does not divide the batch either."""
  pairs = [([1, 2, 3], [4, 5]), ([6], [7, 9, 2]), ([8] * 9, [3])] * 2
  score = lambda **sizes: likelihood.loglikelihood(
    tiny.DENOISER,
    tiny.params(),
    pairs,
    vocab=tiny.VOCAB,
    mesh=sharding.make_mesh(sharding.MeshConfig(**{'data': 1, **sizes})),
    num_samples=2,
    seed=0,
    batch_size=5,
  )
  np.testing.assert_allclose(score(**sizes), score(), rtol=1e-5)


def test_blocks_are_scored_after_clean_ones():
  """Blocks of two: each by itself over the orders of its tokens.

  The first block of the continuation has both its tokens, of which one, chosen
  at random, is predicted with the other unknown, and the other after it; the
  second block has one token.
  """
  denoiser = transformer.TransformerDenoiser(
    cfg=dataclasses.replace(tiny.MODEL, block_causal=2)
  )
  params = jax.tree.map(jnp.asarray, tiny.params())

  def logp(canvas, k):
    logits = denoiser(
      params,
      jnp.int32([PROMPT + canvas]),
      jnp.ones((1, len(PROMPT + canvas)), bool),
      jnp.int32([[len(PROMPT) + k]]),
    )
    return tiny.allowed_logp(np.asarray(logits[0]))[0, ANSWER[k]]

  (a, b, _), hidden = ANSWER, tiny.MASK
  first = logp([hidden, hidden], 0) + logp([hidden, hidden], 1)
  second = logp([hidden, b], 0) + logp([a, hidden], 1)
  want = (first + second) / 2 + logp([a, b, hidden], 2)
  width = 7
  ids, mask = tiny.pad([PROMPT], width)
  got = likelihood.bound(
    denoiser,
    params,
    tiny.row_keys(0, range(64)),
    likelihood.Pairs(
      jnp.tile(ids, (64, 1)),
      jnp.tile(mask, (64, 1)),
      jnp.tile(jnp.int32([ANSWER]), (64, 1)),
      jnp.ones((64, L), bool),
    ),
    vocab=tiny.VOCAB,
    num_samples=48,
  )
  error = np.std(got, ddof=1) / 8
  assert abs(np.mean(got) - want) < 4 * error
  assert error < 0.02 * abs(want)


CAUSAL = transformer.of_config(dataclasses.replace(tiny.MODEL, causal=True))
CAUSAL_VOCAB = dataclasses.replace(tiny.VOCAB, mask_token=None)


def scored(pairs, batch_size, **sizes):
  """Exact log-likelihoods of a tiny causal model."""
  params = jax.tree.map(jnp.asarray, tiny.params(CAUSAL.cfg))
  return likelihood.loglikelihood(
    CAUSAL,
    params,
    pairs,
    vocab=CAUSAL_VOCAB,
    mesh=sharding.make_mesh(sharding.MeshConfig(**{'data': 1, **sizes})),
    num_samples=1,
    seed=0,
    batch_size=batch_size,
  )


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
