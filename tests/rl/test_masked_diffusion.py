"""The supervised loss: its views, NumPy twins, and what it estimates."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from dllm_jax import types
from dllm_jax.rl import masked_diffusion
from tests import tiny

L = 6
TABLE = tiny.Table(gen_length=L)
PARAMS = jax.tree.map(jnp.asarray, tiny.table_params(0, L))
masked_views = jax.jit(
  masked_diffusion.masked_views, static_argnames=('vocab', 'min_ratio')
)
loss = jax.jit(masked_diffusion.loss, static_argnames=('denoiser', 'vocab'))


def views(key, rows, *, min_ratio=0.0, vocab=tiny.VOCAB):
  batch = tiny.rollouts(0, rows=rows, gen_length=L)
  return masked_views(
    key,
    batch.prompt_ids,
    batch.prompt_mask,
    batch.tokens,
    vocab=vocab,
    min_ratio=min_ratio,
  ), batch


def test_views_mask_completions_and_keep_prompts():
  got, batch = views(jax.random.key(0), 8)
  masked = np.asarray(got.tokens[:, 0, -L:]) == tiny.MASK
  np.testing.assert_array_equal(got.credit[:, 0], masked)
  np.testing.assert_array_equal(
    np.asarray(got.tokens[:, 0, -L:])[~masked],
    np.asarray(batch.tokens)[~masked],
  )
  np.testing.assert_array_equal(got.tokens[:, 0, :-L], batch.prompt_ids)
  np.testing.assert_array_equal(
    got.attention_mask[:, 0, :-L], batch.prompt_mask
  )
  assert got.attention_mask[:, 0, -L:].all()
  np.testing.assert_array_equal(got.target[:, 0], batch.tokens)
  # Stratified: row i draws t from [i/8, (i + 1)/8).
  t = 1 / np.asarray(got.weight[:, 0])
  np.testing.assert_array_equal(np.floor(8 * t + 1e-4), np.arange(8))


def test_share_of_masked_tokens_is_t():
  got, _ = views(jax.random.key(1), 4000)
  t = 1 / np.asarray(got.weight[:, 0])
  masked = np.asarray(got.credit[:, 0])
  z = (masked.sum() - L * t.sum()) / np.sqrt(L * (t * (1 - t)).sum())
  assert abs(z) < 4
  for column in masked.T:
    z = (column.sum() - t.sum()) / np.sqrt((t * (1 - t)).sum())
    assert abs(z) < 4
  assert stats.kstest(t, 'uniform').pvalue > 1e-3


def test_loss_equals_numpy():
  got, _ = views(jax.random.key(2), 5)
  value = loss(TABLE, PARAMS, got, tiny.VOCAB, num_tokens=jnp.float32(5 * L))
  want = 0.0
  for row in range(5):
    real = np.asarray(got.attention_mask[row, 0])
    tokens = np.asarray(got.tokens[row, 0])[real]
    seen = np.asarray(PARAMS['context'])[tokens].sum(0)
    logp = tiny.allowed_logp(np.asarray(PARAMS['table']) + seen)
    for k in np.flatnonzero(got.credit[row, 0]):
      target = got.target[row, 0, k]
      want -= logp[k, target] * float(got.weight[row, 0]) / (5 * L)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  assert want > 0


def test_elbo_is_unbiased_against_enumeration():
  # Ids 0 and EOS are text, 2 is [MASK]; three tokens have eight maskings.
  vocab = types.Vocabulary(size=3, mask_token=2, eos_token=1)
  length, rows, rounds = 3, 32, 150
  params = tiny.table_params(3, length, size=3)
  prompt, target = np.int32([[0, 1]]), np.int32([[1, 0, 1]])
  exact = 0.0
  for masked in itertools.product([False, True], repeat=length):
    m = sum(masked)
    if m == 0:
      continue
    canvas = np.where(masked, 2, target[0])
    seen = params['context'][[*prompt[0], *canvas]].sum(0)
    logits = np.float64(params['table'] + seen)
    logits[:, 2] = -np.inf
    logp = tiny.log_softmax(logits)
    nll = -sum(logp[k, target[0, k]] for k in range(length) if masked[k])
    # integral of t^m (1 - t)^(L - m) / t over [0, 1]
    beta = math.factorial(m - 1) * math.factorial(length - m)
    exact += nll * beta / math.factorial(length)

  @jax.jit
  def estimate(key):
    tile = lambda x: jnp.broadcast_to(jnp.asarray(x), (rows, x.shape[1]))
    got = masked_diffusion.masked_views(
      key,
      tile(prompt),
      tile(prompt >= 0),
      tile(target),
      vocab,
      min_ratio=1e-3,
    )
    return masked_diffusion.loss(
      tiny.Table(gen_length=length),
      params,
      got,
      vocab,
      num_tokens=jnp.float32(rows),
    )

  keys = jax.random.split(jax.random.key(0), rounds)
  got = np.asarray(jax.jit(jax.vmap(estimate))(keys))
  error = got.std(ddof=1) / np.sqrt(rounds)
  assert abs(got.mean() - exact) < 4 * error
  assert error < 0.1 * exact


def test_no_t_is_below_min_ratio():
  """Of 8 rows, the first half would draw from [0, 0.5)."""
  share = np.zeros(8)
  for seed in range(200):
    got, _ = views(jax.random.key(seed), 8, min_ratio=0.5)
    weight = np.asarray(got.weight[:, 0])
    np.testing.assert_array_equal(weight[:4], 2.0)
    assert (weight[4:] <= 2.0).all()
    share += np.asarray(got.credit[:, 0]).mean(axis=1) / 200
  # 1200 tokens a row, hidden with probability 0.5, and then 0.56 to 0.94.
  sd = np.sqrt(0.25 / 1200)
  assert (abs(share[:4] - 0.5) < 5 * sd).all()
  assert (abs(share[4:] - (np.arange(4, 8) + 0.5) / 8) < 5 * sd).all()


def test_loss_is_finite_for_tiny_t():
  rows = 512
  got, _ = views(jax.random.key(5), rows, min_ratio=1e-3)
  # The rarest case: a masked token at the smallest t.
  worst = got._replace(
    weight=jnp.full_like(got.weight, 1e3), credit=got.credit | True
  )
  value, grads = jax.value_and_grad(
    lambda params: masked_diffusion.loss(
      TABLE, params, worst, tiny.VOCAB, num_tokens=jnp.float32(rows * L)
    )
  )(PARAMS)
  assert np.isfinite(value) and value > 0
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_loss_is_0_without_masked_tokens():
  got, _ = views(jax.random.key(6), 4)
  nothing = got._replace(credit=got.credit & False)
  value, grads = jax.value_and_grad(
    lambda params: masked_diffusion.loss(
      TABLE, params, nothing, tiny.VOCAB, num_tokens=jnp.float32(4 * L)
    )
  )(PARAMS)
  assert value == 0.0
  for g in jax.tree.leaves(grads):
    np.testing.assert_array_equal(g, 0.0)


def test_losses_of_micro_batches_add_up():
  got, _ = views(jax.random.key(7), 6)
  part = lambda a, b: loss(
    TABLE,
    PARAMS,
    jax.tree.map(lambda x: x[a:b], got),
    tiny.VOCAB,
    num_tokens=jnp.float32(6 * L),
  )
  np.testing.assert_allclose(part(0, 2) + part(2, 6), part(0, 6), rtol=1e-6)


def test_tokens_that_are_not_learnt_are_never_masked():
  """The draws are those without `learnt`; padding is read by nothing."""
  batch = tiny.rollouts(0, rows=64, gen_length=L)
  learnt = np.arange(L)[None] + np.arange(64)[:, None] % 3
  learnt = learnt % 2 == 0
  mask = np.broadcast_to(np.arange(L) < L - 2, learnt.shape)
  make = lambda **own: masked_views(
    jax.random.key(0),
    batch.prompt_ids,
    batch.prompt_mask,
    batch.tokens,
    vocab=tiny.VOCAB,
    min_ratio=0.0,
    **own,
  )
  every, got = make(), make(learnt=learnt, mask=mask)
  np.testing.assert_array_equal(
    got.credit[:, 0], np.asarray(every.credit[:, 0]) & learnt
  )
  masked = np.asarray(got.tokens[:, 0, -L:]) == tiny.MASK
  np.testing.assert_array_equal(masked, got.credit[:, 0])
  np.testing.assert_array_equal(got.weight, every.weight)
  real = np.concatenate([batch.prompt_mask, mask], axis=1)
  np.testing.assert_array_equal(got.attention_mask[:, 0], real)
