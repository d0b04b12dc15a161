"""Likelihoods of masked diffusion: by hand, enumerated, recorded."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dllm_jax
from dllm_jax import errors
from dllm_jax.eval import likelihood, masked_likelihood
from dllm_jax.models import transformer
from dllm_jax.runtime import sharding
from tests import tiny

L = 3
TABLE = tiny.Table(gen_length=L)
PARAMS = tiny.table_params(0, L)
MESH = sharding.make_mesh(sharding.MeshConfig(data=1))
PROMPT, ANSWER = [5, 9], [7, 2, 11]


def score(params, answer, *, seed=0, padding=0, **estimate):
  """The estimate for `PROMPT` and one continuation, both padded."""
  width = padding + len(PROMPT)
  ids = np.full((1, width), tiny.EOS, np.int32)
  ids[0, padding:] = PROMPT
  tokens = np.full((1, L), tiny.EOS, np.int32)
  tokens[0, : len(answer)] = answer
  return masked_likelihood.score(
    TABLE,
    params,
    tiny.row_keys(seed, [0]),
    masked_likelihood.Pairs(
      jnp.asarray(ids),
      jnp.arange(width)[None] >= padding,
      jnp.asarray(tokens),
      jnp.arange(L)[None] < len(answer),
    ),
    vocab=tiny.VOCAB,
    estimate=masked_likelihood.Estimate(**estimate),
  )


def bound(params, answer, **how):
  [value] = score(params, answer, **how).logp
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
  got = masked_likelihood.score(
    denoiser,
    params,
    tiny.row_keys(0, range(64)),
    masked_likelihood.Pairs(
      jnp.tile(ids, (64, 1)),
      jnp.tile(mask, (64, 1)),
      jnp.tile(jnp.int32([ANSWER]), (64, 1)),
      jnp.ones((64, L), bool),
    ),
    vocab=tiny.VOCAB,
    estimate=masked_likelihood.Estimate(num_samples=48),
  ).logp
  error = np.std(got, ddof=1) / 8
  assert abs(np.mean(got) - want) < 4 * error
  assert error < 0.02 * abs(want)


def test_bernoulli_masks_converge_to_the_integral_over_t():
  """Each subset S has the weight int t^(|S|-1) (1-t)^(n-|S|) dt."""
  mean = 0.0
  for size in range(1, L + 1):
    weight = math.factorial(size - 1) * math.factorial(L - size)
    weight /= math.factorial(L)
    for mask in itertools.combinations(range(L), size):
      mean += weight * weighted_logp(mask) * size / L
  num = 20_000
  values = [
    bound(PARAMS, ANSWER, num_samples=num // 4, seed=s, masking='bernoulli')
    for s in range(4)
  ]
  # t is at least 1e-3, which leaves out less than a thousandth.
  assert np.mean(values) == pytest.approx(
    mean, abs=1e-3 * abs(mean) + 4 * np.std(values, ddof=1) / 2
  )
  assert np.std(values) < 0.05 * abs(mean)


def test_from_left_to_right_is_the_chain_rule():
  """Token k is predicted after those before it, all from k on masked."""
  want, greedy = 0.0, True
  for k, token in enumerate(ANSWER):
    canvas = ANSWER[:k] + [tiny.MASK] * (L - k)
    seen = PARAMS['context'][PROMPT + canvas].sum(0)
    logp = tiny.allowed_logp(PARAMS['table'] + seen)[k]
    want, greedy = want + logp[token], greedy and logp.argmax() == token
  [got], [is_greedy] = score(PARAMS, ANSWER, masking='left_to_right')
  assert got == pytest.approx(want, rel=1e-5)
  assert not greedy and not is_greedy


def test_what_is_most_probable_from_left_to_right_is_greedy():
  answer = []
  for k in range(L):
    seen = PARAMS['context'][PROMPT + answer + [tiny.MASK] * (L - k)].sum(0)
    answer.append(int(tiny.allowed_logp(PARAMS['table'] + seen)[k].argmax()))
  for wrong in range(L):
    scores = score(PARAMS, answer, masking='left_to_right', padding=2)
    assert scores.is_greedy.tolist() == [True]
    other = answer[:wrong] + [(answer[wrong] + 1) % 25] + answer[wrong + 1 :]
    scores = score(PARAMS, other, masking='left_to_right')
    assert scores.is_greedy.tolist() == [False]


def test_the_chain_rule_sums_to_one_over_all_texts():
  """It is a distribution, which the bound is not."""
  texts = [[a] for a in range(tiny.VOCAB.size) if a != tiny.MASK]
  total = sum(
    math.exp(bound(PARAMS, text, masking='left_to_right')) for text in texts
  )
  assert total == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize('which', ['mc', 'mc_cfg'])
def test_recorded_bounds_with_recorded_masks(shared_dir, monkeypatch, which):
  """LLaDA's estimate, through the model, by its masks."""
  folder = shared_dir / 'golden' / 'llada_tiny'
  data = tiny.recorded(folder, 'loglik.npz')
  use_masks(monkeypatch, data)
  scale = float(data[f'{which}.cfg_scale'])
  model = dllm_jax.Model.open(folder, mesh=MESH)
  [got] = model.loglikelihood(
    [(data['mc.prompt'].tolist(), data['mc.answer'].tolist())],
    num_samples=len(data['mc.p_mask']),
    cfg_scale=scale or None,
  )
  want = float(data[f'{which}.log_likelihood'])
  np.testing.assert_allclose(got, want, atol=2e-3)


def use_masks(monkeypatch, data):
  """Makes the canvases those of the recording."""
  masks, ratio = data['mc.answer_mask'], data['mc.p_mask']

  def hide(row_keys, first, mask, k, estimate):
    size = jnp.sum(mask, axis=1)
    width = mask.shape[1] - masks.shape[1]
    hidden = jnp.pad(jnp.asarray(masks), ((0, 0), (0, width)))[k]
    count = jnp.asarray(ratio, jnp.float32)[k] * size
    return jnp.broadcast_to(hidden[None], mask.shape), size, count

  monkeypatch.setattr(masked_likelihood, 'hide', hide)
  jax.clear_caches()


@pytest.mark.parametrize(
  'changes',
  [
    {'masking': 'some'},
    {'num_samples': 0},
    {'cfg_scale': -0.5},
    {'cfg_scale': math.inf},
  ],
)
def test_an_estimate_that_makes_no_sense_is_refused(changes):
  with pytest.raises(ValueError, match=next(iter(changes))):
    masked_likelihood.Estimate(**changes)


def test_guidance_of_a_model_over_blocks_is_one_line():
  denoiser = transformer.TransformerDenoiser(
    cfg=dataclasses.replace(tiny.MODEL, block_causal=2)
  )
  with pytest.raises(errors.UserError, match='leave cfg_scale out'):
    likelihood.score(
      denoiser,
      tiny.params(),
      [([1], [2])],
      vocab=tiny.VOCAB,
      mesh=MESH,
      estimate=masked_likelihood.Estimate(cfg_scale=0.5),
      seed=0,
      batch_size=1,
    )
