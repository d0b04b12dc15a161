"""Rounds of a table of logits: by hand, a Python twin, distributions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dllm_jax import types
from dllm_jax.decoding import autoregressive
from tests import tiny, tiny_causal

TABLE = tiny_causal.TableLM()
cached = pytest.mark.parametrize('use_cache', [True, False])

# By hand: token t is followed by t + 1; 9 is EOS, 8 is a stop token of `TURN`.
CHAIN = types.Vocabulary(size=12, mask_token=None, eos_token=9)
TURN = dataclasses.replace(CHAIN, stop_tokens=(8,))
COUNTING = {
  'table': 2 * np.eye(12, k=1, dtype=np.float32),
  'context': np.zeros((12, 12), np.float32),
}


def run(decoder, params, prompts, script, *, vocab, width=None, seed=0):
  """Scripted rounds; a script is a row's drafts by column, then zeros."""
  length = decoder.gen_length
  wide = np.zeros((len(prompts), length + decoder.num_drafts), np.int32)
  for row, drafts in enumerate(script):
    wide[row, : len(drafts)] = drafts
  return tiny_causal.decode(
    TABLE,
    {'model': params, 'script': wide},
    tiny.row_keys(seed, range(len(prompts))),
    tiny.canvas(prompts, length, width=width, mask_token=vocab.eos_token),
    decoder,
    vocab=vocab,
  )


BY_HAND = {
  # (prompt, script, tokens, round of each, draft of each); W = 3, L = 6.
  'all accepted, and the token behind them is kept': (
    [0],
    [1, 2, 3, 0, 5, 6, 7],
    [1, 2, 3, 4, 5, 6],
    [0, 0, 0, 0, 1, 1],  # the budget cuts the second round
    [1, 2, 3, -1, 5, 6],
  ),
  'every first draft is rejected, whatever follows it': (
    [0],
    [0, 0, 0, 0, 0, 0, 7, 8],
    [1, 2, 3, 4, 5, 6],
    [0, 1, 2, 3, 4, 5],
    [0, 0, 0, 0, 0, 0],
  ),
  'accepted up to the first that is wrong': (
    [0],
    [1, 0, 3, 4, 5, 0, 7],
    [1, 2, 3, 4, 5, 6],
    [0, 0, 1, 1, 1, 1],
    [1, 0, 3, 4, 5, -1],
  ),
  'the budget cuts before a wrong draft': (
    [2, 0],
    [1, 2, 3, 0, 5, 6, 0],
    [1, 2, 3, 4, 5, 6],
    [0, 0, 0, 0, 1, 1],
    [1, 2, 3, -1, 5, 6],
  ),
  'EOS is the first draft': (
    [8],
    [9, 10, 11],
    [9, 9, 9, 9, 9, 9],
    [0, 1, 1, 1, 1, 1],
    [9, -1, -1, -1, -1, -1],
  ),
  'EOS is an accepted draft, and those behind it do not count': (
    [7],
    [8, 9, 10],
    [8, 9, 9, 9, 9, 9],
    [0, 0, 1, 1, 1, 1],
    [8, 9, -1, -1, -1, -1],
  ),
  'EOS corrects a draft': (
    [1, 7],
    [8, 0, 10],
    [8, 9, 9, 9, 9, 9],
    [0, 0, 1, 1, 1, 1],
    [8, 0, -1, -1, -1, -1],
  ),
  'EOS stands behind accepted drafts': (
    [5],
    [6, 7, 8, 0],
    [6, 7, 8, 9, 9, 9],
    [0, 0, 0, 0, 1, 1],
    [6, 7, 8, -1, -1, -1],
  ),
  'EOS that is drafted where it is wrong does not stop': (
    [1],
    [9, 9, 9, 9, 6, 7],
    [2, 3, 4, 5, 6, 7],
    [0, 1, 2, 3, 4, 4],
    [9, 9, 9, 9, 6, 7],
  ),
  'EOS at the last column': (
    [3],
    [4, 5, 6, 0, 8, 9],
    [4, 5, 6, 7, 8, 9],
    [0, 0, 0, 0, 1, 1],
    [4, 5, 6, -1, 8, 9],
  ),
}


@cached
@pytest.mark.parametrize('width', [2, 4])
def test_by_hand(use_cache, width):
  decoder = tiny_causal.Scripted(gen_length=6, use_cache=use_cache)
  prompts, script, tokens, when, drafted = zip(*BY_HAND.values(), strict=True)
  got = run(decoder, COUNTING, prompts, script, vocab=CHAIN, width=width)
  logp = 2 - np.log(np.exp(2) + 11)
  for row, name in enumerate(BY_HAND):
    np.testing.assert_array_equal(got.tokens[row], tokens[row], name)
    np.testing.assert_array_equal(got.commit_step[row], when[row], name)
    np.testing.assert_array_equal(got.drafted[row], drafted[row], name)
    n = tiny_causal.first_stop(tokens[row], CHAIN)
    assert got.num_steps[row] == when[row][n - 1] + 1, name
    np.testing.assert_allclose(got.logp[row, :n], logp, rtol=1e-6)
    np.testing.assert_array_equal(got.logp[row, n:], 0.0)


@cached
@pytest.mark.parametrize('gen_length', [1, 2])
def test_a_budget_below_the_drafts_and_prompts_of_one_token(
  use_cache, gen_length
):
  decoder = tiny_causal.Scripted(gen_length=gen_length, use_cache=use_cache)
  got = run(decoder, COUNTING, [[0], [4]], [[1, 2, 3]] * 2, vocab=CHAIN)
  np.testing.assert_array_equal(
    got.tokens, np.array([[1, 2], [5, 6]])[:, :gen_length]
  )
  np.testing.assert_array_equal(
    got.commit_step, np.array([[0, 0], [0, 1]])[:, :gen_length]
  )
  np.testing.assert_array_equal(got.num_steps, [1, gen_length])


@cached
def test_other_stop_tokens_end_a_row_and_eos_fills_it(use_cache):
  decoder = tiny_causal.Scripted(gen_length=6, use_cache=use_cache)
  script = [[7, 8, 9], [7, 0, 0], [6, 7, 0]]
  got = run(decoder, COUNTING, [[6], [6], [5]], script, vocab=TURN)
  np.testing.assert_array_equal(
    got.tokens, [[7, 8, 9, 9, 9, 9]] * 2 + [[6, 7, 8, 9, 9, 9]]
  )
  np.testing.assert_array_equal(got.num_steps, [1, 1, 1])


@cached
def test_finished_rows_are_frozen(use_cache):
  decoder = tiny_causal.Scripted(gen_length=6, use_cache=use_cache)
  # Rows 0 to 2 finish in rounds 0, 1 and 5; row 2 by the budget.
  prompts, script = [[7], [4], [0]], [[8, 9], [5, 6, 7, 0, 9], [0] * 6]
  canvas = tiny.canvas(prompts, 6, width=2, mask_token=9)
  prompt = types.Canvas(canvas.tokens[:, :2], canvas.attention_mask[:, :2])
  wide = jnp.asarray([row + [0] * (9 - len(row)) for row in script])
  params = {'model': COUNTING, 'script': wide}
  step = jax.jit(functools.partial(decoder.round, TABLE, vocab=CHAIN))
  state = decoder.init_state(TABLE, params, prompt, vocab=CHAIN)
  params = decoder.unstacked(TABLE, params)
  ended = {}
  for number in range(8):
    done = np.asarray(state.done)
    new = step(params, tiny.row_keys(0, range(3)), state, prompt)
    for row in np.flatnonzero(done):
      ended.setdefault(int(row), number)
      jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[row], b[row]),  # noqa: B023
        state,
        new,
      )
    state = new
  assert ended == {0: 1, 1: 2, 2: 6}
  np.testing.assert_array_equal(state.num_steps, [1, 2, 6])
  if use_cache:  # all tokens but the last
    np.testing.assert_array_equal(state.cache.length, [2, 5, 6])
    np.testing.assert_array_equal(state.cache.tokens[2, :6], range(6))


# A Python twin, on random tables. Ids 5 and 6 end a row, 7 is beyond the text.
TEXT = types.Vocabulary(
  size=7, mask_token=None, eos_token=6, stop_tokens=(5, 6)
)
L, W, ROWS = 9, 3, 6


def random_tables(rng):
  grid = lambda scale: np.round(64 * scale * rng.standard_normal((8, 8))) / 64
  params = {'table': grid(2.0), 'context': grid(0.5)}
  params['table'][:, 7] = 20.0
  params['table'][:, 5:7] -= rng.choice([0.0, 2.0])
  return {name: x.astype(np.float32) for name, x in params.items()}


def python_choice(params, text, noise, decoder):
  """(token, its log-probability) behind a text."""
  logits = params['table'][text[-1]] + params['context'][text].sum(0)
  logits = logits.astype(np.float64)
  logits[7:] = -np.inf
  logp, t = tiny.log_softmax(logits), decoder.temperature
  if t == 0:
    return int(logits.argmax()), logp.max()
  if decoder.top_k:
    logits[logits < np.sort(logits)[-decoder.top_k]] = -np.inf
  if decoder.top_p < 1:
    p = np.exp(tiny.log_softmax(logits / t))
    ranked = np.sort(p)[::-1]
    needed = np.searchsorted(np.cumsum(ranked), decoder.top_p)
    logits[p < ranked[needed]] = -np.inf
  token = int((logits + t * noise).argmax())
  return token, logp[token]


def python_row(params, prompt, script, key, decoder):
  """Speculative decoding of one row, one token after the other."""
  text, made, rounds = list(prompt), [], 0
  while True:
    start = len(made)
    drafts = script[start : start + decoder.num_drafts]
    for draft in [*drafts, -1]:
      noise = jax.random.gumbel(jax.random.fold_in(key, len(made)), (1, 8))
      token, logp = python_choice(params, text, np.asarray(noise)[0], decoder)
      text.append(token)
      made.append((token, logp, rounds, int(draft)))
      if token in (5, 6) or len(made) == decoder.gen_length:
        fill = (6, 0.0, rounds + 1, -1)
        return made + [fill] * (decoder.gen_length - len(made)), rounds + 1
      if token != draft:
        break
    rounds += 1


def python_trajectory(params, prompts, script, keys, decoder):
  rows, num_steps = zip(
    *(
      python_row(params, *row, decoder)
      for row in zip(prompts, script, keys, strict=True)
    ),
    strict=True,
  )
  tokens, logp, when, drafted = np.moveaxis(np.array(rows), -1, 0)
  return types.Trajectory(tokens, logp, when, np.array(num_steps), drafted)


DECODERS = {
  'cached': tiny_causal.Scripted(gen_length=L, width=W),
  'uncached': tiny_causal.Scripted(gen_length=L, width=W, use_cache=False),
  'wide': tiny_causal.Scripted(gen_length=L, width=L + 2),
  'top_k': tiny_causal.Scripted(gen_length=L, width=W, top_k=3),
  'top_p': tiny_causal.Scripted(gen_length=L, width=W, top_k=5, top_p=0.8),
}


@pytest.mark.parametrize('name', DECODERS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
  seed=st.integers(0, 2**31 - 1),
  right=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
  temperature=st.sampled_from([0.0, 0.7, 1.0]),
)
def test_rounds_equal_python(name, seed, right, temperature):
  """`right`: how many of the drafts are those of the model."""
  decoder = dataclasses.replace(DECODERS[name], temperature=temperature)
  rng = np.random.default_rng(seed)
  params = random_tables(rng)
  prompts = [rng.integers(0, 5, n).tolist() for n in rng.integers(1, 5, ROWS)]
  keys = tiny.row_keys(seed, range(ROWS))
  script = rng.integers(0, 7, (ROWS, L + decoder.num_drafts))
  alone = python_trajectory(params, prompts, script, keys, decoder)
  keep = rng.random((ROWS, L)) < right
  script[:, :L] = np.where(keep, alone.tokens, script[:, :L])

  got = run(decoder, params, prompts, script, vocab=TEXT, width=4, seed=seed)
  want = python_trajectory(params, prompts, script, keys, decoder)
  tiny_causal.same(got, want)
  tiny_causal.check_accounts(got, decoder.num_drafts, TEXT)
  # The drafts change the rounds, and no token.
  np.testing.assert_array_equal(got.tokens, alone.tokens)
  if right == 1.0:
    np.testing.assert_array_equal(
      got.num_steps,
      [
        -(-tiny_causal.first_stop(r, TEXT) // (decoder.num_drafts + 1))
        for r in alone.tokens
      ],
    )


@cached
@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_autoregressive_is_the_twin_without_drafts(use_cache, temperature):
  decoder = autoregressive.Autoregressive(
    gen_length=L, use_cache=use_cache, temperature=temperature
  )
  rng = np.random.default_rng(3)
  params = random_tables(rng)
  prompts = [rng.integers(0, 5, n).tolist() for n in [1, 2, 3, 4, 1, 3]]
  got = run(decoder, params, prompts, [[]] * ROWS, vocab=TEXT)
  script = np.zeros((ROWS, L), int)
  want = python_trajectory(
    params, prompts, script, tiny.row_keys(0, range(ROWS)), decoder
  )
  assert got.drafted is None
  tiny_causal.same(got._replace(drafted=want.drafted), want)
  np.testing.assert_array_equal(
    got.num_steps, [tiny_causal.first_stop(r, TEXT) for r in want.tokens]
  )


def test_nan_logits_terminate_with_tokens_of_the_text():
  params = random_tables(np.random.default_rng(0))
  params['table'][3] = np.nan
  got = run(
    DECODERS['cached'], params, [[3], [0], [1]], [[3] * L] * 3, vocab=TEXT
  )
  assert (np.asarray(got.num_steps) <= L).all()
  assert ((got.tokens >= 0) & (got.tokens < TEXT.size)).all()


# Distributions: 4000 rows with fixed keys; p > 0.001.


def exact_pairs(params, prompt, decoder):
  """The probability of every pair of first tokens."""

  def distribution(text):
    logits = params['table'][text[-1]] + params['context'][text].sum(0)
    logits = logits.astype(np.float64)
    logits[7:] = -np.inf
    if decoder.top_k:
      logits[logits < np.sort(logits)[-decoder.top_k]] = -np.inf
    p = np.exp(tiny.log_softmax(logits / decoder.temperature))
    if decoder.top_p < 1:
      order = np.argsort(-p)
      needed = np.searchsorted(np.cumsum(p[order]), decoder.top_p) + 1
      p[order[needed:]] = 0.0
    return p / p.sum()

  pairs = np.zeros((8, 8))
  for token, p in enumerate(distribution(prompt)):
    if token in (5, 6):
      pairs[token, 6] += p
    elif p:
      pairs[token] += p * distribution([*prompt, token])
  return pairs


@pytest.mark.parametrize('drafts', [0, 2])
@pytest.mark.parametrize(
  'how',
  [
    {'temperature': 1.0},
    {'temperature': 1.0, 'top_p': 0.95},
    {'temperature': 0.8, 'top_k': 4, 'top_p': 0.9},
  ],
  ids=['plain', 'nucleus', 'truncated'],
)
def test_first_two_tokens_follow_the_model(drafts, how):
  rows, params = 4000, random_tables(np.random.default_rng(1))
  params['table'] = params['table'] / 4
  params['table'][:, 5] += 2  # a stop token in many rows
  decoder = tiny_causal.Scripted(gen_length=2, width=drafts, **how)
  script = np.tile([1, 2, 3, 4], (rows, 1))[:, : 2 + drafts]
  script[::2, 0] = 0
  got = run(decoder, params, [[2, 4]] * rows, script, vocab=TEXT, seed=7)
  count = np.zeros((8, 8))
  np.add.at(count, tuple(np.asarray(got.tokens).T), 1)
  want = rows * exact_pairs(params, [2, 4], decoder)
  assert count[want == 0].sum() == 0
  likely = want > 5
  assert likely.sum() >= 5
  observed = [*count[likely], count[~likely].sum()]
  expected = [*want[likely], want[~likely].sum()]
  keep = np.array(expected) > 0
  assert (
    stats.chisquare(np.array(observed)[keep], np.array(expected)[keep]).pvalue
    > 1e-3
  )
  if drafts:  # a draft that is often right saves rounds
    agreed = np.asarray(got.drafted)[:, 0] == np.asarray(got.tokens)[:, 0]
    stops = np.isin(np.asarray(got.tokens)[:, 0], TEXT.stop_tokens)
    np.testing.assert_array_equal(got.num_steps == 1, agreed | stops)
    assert 0.05 < agreed.mean() < 0.95
