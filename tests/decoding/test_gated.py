"""The gates: recordings, twins, invariants, distributions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dllm_jax.decoding import blocks, gated
from dllm_jax.ops import sampling, schedules
from tests import recorded, tiny

L, W = 12, 4
CFG = gated.Gated(gen_length=L, block_length=W)
BERNOULLI = dataclasses.replace(CFG, gate='bernoulli')
TABLE = tiny.Table(gen_length=L)
PARAMS = tiny.table_params(0, L)
PROMPTS = tiny.random_prompts(1, [3, 5, 1, 4, 2, 5])
step = jax.jit(gated.Gated.step, static_argnames=('denoiser', 'vocab'))


def run(
  canvas,
  *,
  threshold=0.3,
  exponent=0.5,
  temperature=0.0,
  cfg=CFG,
  params=PARAMS,
  seed=0,
  row_id=None,
):
  row_id = range(len(canvas.tokens)) if row_id is None else row_id
  decoder = dataclasses.replace(
    cfg, threshold=threshold, exponent=exponent, temperature=temperature
  )
  return tiny.decode(
    TABLE, params, tiny.row_keys(seed, list(row_id)), canvas, decoder
  )


def blank(rows=6, **kwargs):
  return tiny.canvas(PROMPTS[:rows], L, width=5, **kwargs)


def same(a, b):
  for name in ('tokens', 'commit_step', 'num_steps'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  np.testing.assert_allclose(a.logp, b.logp, rtol=1e-5, atol=1e-5)


# Recordings.


@pytest.mark.parametrize(
  'name',
  (
    'tagrpo_tau0.8_g32_b16',
    'tagrpo_tau0.7_g32_b8',
    'tagrpo_tau0.7_g32_b32',
    'tagrpo_tau0.5_g64_b32',
    # Fast-dLLM commits at >= its threshold: the same where none is equal.
    'fast_thr0.9_g32_b8',
    'fast_thr0.7_g32_b16',
    'fast_thr0.5_g64_b32',
  ),
)
def test_recorded_threshold_decodes(shared_dir, name):
  case = recorded.case(shared_dir, 'llada', name)
  cfg = gated.Gated(
    gen_length=case['gen_length'],
    block_length=case['block_length'],
    threshold=case['threshold'],
  )
  want = recorded.read(shared_dir, 'llada', name, cfg)
  assert len(set(want.num_steps)) > 1
  want.check_all()


# Twins.


def python_loop(canvas, *, cfg, seed=0, **how):
  """The decoder as a Python loop, with the canvases that its steps read."""
  cfg = dataclasses.replace(cfg, **how)
  state = blocks.init_state(canvas, tiny.VOCAB, cfg)
  rows = list(range(len(canvas.tokens)))
  seen = []
  while not bool(jnp.all(blocks.is_done(state, tiny.VOCAB, cfg))):
    seen.append(np.asarray(state.tokens))
    keys = jax.vmap(jax.random.fold_in, (0, None))(
      tiny.row_keys(seed, rows), len(seen) - 1
    )
    state = step(
      cfg,
      TABLE,
      PARAMS,
      keys,
      state,
      canvas.attention_mask,
      vocab=tiny.VOCAB,
    )
  return blocks.finish(state, tiny.VOCAB, cfg), seen


@pytest.mark.parametrize('cfg', [CFG, BERNOULLI], ids=lambda c: c.gate)
def test_while_loop_equals_python_loop_and_replay_its_canvases(cfg):
  how = {'threshold': 0.2, 'exponent': 0.5, 'temperature': 1.0, 'cfg': cfg}
  got, (want, seen) = run(blank(), **how), python_loop(blank(), **how)
  same(got, want)
  assert len(seen) == np.max(got.num_steps)
  assert len(set(np.asarray(got.num_steps))) > 1
  for t, canvas in enumerate(seen):
    now = schedules.replay(
      got.tokens, got.commit_step, jnp.full(6, t, jnp.int32), tiny.MASK
    )
    np.testing.assert_array_equal(now, canvas[:, -L:])


def numpy_row(prompt, threshold, min_commits=1):
  """Greedy threshold decoding of one row, from the definition."""
  tokens, when, now = [tiny.MASK] * L, np.zeros(L, int), 0
  for first in range(0, L, W):
    while masks := [
      k for k in range(first, first + W) if tokens[k] == tiny.MASK
    ]:
      visible = PARAMS['context'][prompt + tokens].sum(0)
      found = []
      for k in masks:
        lp = tiny.allowed_logp(PARAMS['table'][k] + visible)
        found.append((-lp.max(), k, int(lp.argmax())))
      found.sort()
      passed = [f for f in found if np.exp(-f[0]) > threshold]
      for _, k, token in (
        passed if len(passed) >= min_commits else found[:min_commits]
      ):
        tokens[k], when[k] = token, now
      now += 1
  return tokens, when, now


@pytest.mark.parametrize('min_commits', [1, 3])
@pytest.mark.parametrize('threshold', [0.1, 0.25, 0.5, 0.9])
def test_greedy_threshold_equals_numpy(threshold, min_commits):
  cfg = dataclasses.replace(CFG, min_commits=min_commits)
  got = run(blank(), threshold=threshold, cfg=cfg)
  for row, prompt in enumerate(PROMPTS):
    tokens, when, taken = numpy_row(prompt, threshold, min_commits)
    np.testing.assert_array_equal(got.tokens[row], tokens)
    np.testing.assert_array_equal(got.commit_step[row], when)
    assert got.num_steps[row] == taken


# The gate.


def test_gate_probability_table():
  c = jnp.array([0.1, 0.7, 0.72, 0.80, 0.90, 0.95, 1.00])
  p = gated.gate_probability(c, jnp.float32(0.7), jnp.float32(0.5))
  np.testing.assert_allclose(p, [0, 0, 0.26, 0.58, 0.82, 0.91, 1], atol=5e-3)
  always = gated.gate_probability(c, jnp.float32(0.75), jnp.float32(0.0))
  np.testing.assert_array_equal(always, [0, 0, 0, 1, 1, 1, 1])
  never = gated.gate_probability(c, jnp.float32(1.0), jnp.float32(0.5))
  np.testing.assert_array_equal(never, np.zeros(7))


@settings(max_examples=60, deadline=None)
@given(
  threshold=st.floats(-1.0, 1.0, width=32),
  exponent=st.floats(0.0, 4.0, width=32),
)
def test_gate_probability_is_monotone_in_the_unit_interval(threshold, exponent):
  c = jnp.linspace(0.0, 1.0, 65)
  p = np.asarray(
    gated.gate_probability(c, jnp.float32(threshold), jnp.float32(exponent))
  )
  assert (np.diff(p) >= -1e-6).all() and p.min() >= 0 and p.max() <= 1
  assert (p[np.asarray(c) <= threshold] == 0).all()


def test_gate_opens_with_its_probability():
  # One row of logits for every column: the proposal is always the same token.
  params = tiny.table_params(5, L, context=0.0)
  params['table'][:] = -30.0
  params['table'][:, 3] = 0.0
  params['table'][:, 4] = np.log(0.25)  # c = 0.8
  rows = 600
  got = run(
    tiny.canvas([[1]] * rows, L),
    params=params,
    threshold=0.7,
    cfg=dataclasses.replace(BERNOULLI, block_length=L),
    seed=4,
  )
  first = (np.asarray(got.commit_step) == 0).sum(1)
  p = np.sqrt(1 / 3)
  want = stats.binom.pmf(np.arange(L + 1), L, p)
  want[1] += want[0]  # where none passes, one is committed
  want[0] = 0.0
  likely = want * rows > 5
  count = np.bincount(first, minlength=L + 1)
  observed = [*count[likely], count[~likely].sum()]
  expected = rows * np.array([*want[likely], want[~likely].sum()])
  assert stats.chisquare(observed, expected).pvalue > 1e-3


# Invariants.


@settings(max_examples=40, deadline=None)
@given(
  threshold=st.sampled_from([-0.1, 0.0, 0.1, 0.3, 0.7, 1.0]),
  exponent=st.sampled_from([0.0, 0.5, 2.0]),
  temperature=st.sampled_from([0.0, 0.9, 5.0]),
  gate=st.sampled_from(['threshold', 'bernoulli']),
  min_commits=st.integers(1, 5),
  top_p=st.sampled_from([1.0, 0.5]),
  seed=st.integers(0, 2**31 - 1),
)
def test_every_step_commits_and_no_mask_remains(
  threshold, exponent, temperature, gate, min_commits, top_p, seed
):
  cfg = dataclasses.replace(
    CFG, gate=gate, min_commits=min_commits, top_p=top_p
  )
  got = run(
    blank(),
    threshold=threshold,
    exponent=exponent,
    temperature=temperature,
    cfg=cfg,
    seed=seed,
  )
  tokens, when = np.asarray(got.tokens), np.asarray(got.commit_step)
  assert tokens.min() >= 0 and tokens.max() < tiny.MASK
  assert np.isfinite(got.logp).all()
  for row, total in zip(when, np.asarray(got.num_steps), strict=True):
    assert 3 <= total <= 3 * -(-W // min_commits)
    sizes = np.bincount(row, minlength=total)
    assert len(sizes) == total and sizes.min() >= 1
    assert (np.diff([row[b : b + W].min() for b in range(0, L, W)]) > 0).all()
    for block in range(0, L, W):  # min(n_min, what is left) each step
      inside = np.bincount(
        row[block : block + W] - row[block : block + W].min()
      )
      assert (inside[:-1] >= min_commits).all()


def test_extreme_thresholds_take_fewest_and_most_steps():
  whole = run(blank(), threshold=-0.1)
  np.testing.assert_array_equal(whole.num_steps, np.full(6, 3))
  single = run(blank(), threshold=1.0)
  np.testing.assert_array_equal(single.num_steps, np.full(6, L))
  np.testing.assert_array_equal(
    np.sort(single.commit_step, 1), np.tile(np.arange(L), (6, 1))
  )
  # Nothing is drawn: another seed is the same decode.
  same(run(blank(), seed=9), run(blank()))


@pytest.mark.parametrize('cfg', [CFG, BERNOULLI], ids=lambda c: c.gate)
def test_rows_do_not_depend_on_padding_batch_or_place(cfg):
  cfg = dataclasses.replace(cfg, top_p=0.9)
  how = {'cfg': cfg, 'temperature': 1.0}
  whole = run(blank(), **how)
  order = [4, 0, 5, 2]
  mixed = run(
    tiny.canvas([PROMPTS[i] for i in order], L, width=7, side='right'),
    row_id=order,
    **how,
  )
  same(mixed, jax.tree.map(lambda x: x[jnp.asarray(order)], whole))
  alone = run(tiny.canvas([PROMPTS[3]], L), row_id=[3], **how)
  same(alone, jax.tree.map(lambda x: x[3:4], whole))


def test_nan_confidences_still_terminate():
  params = {k: v.copy() for k, v in PARAMS.items()}
  params['table'][2] = np.nan
  got = run(blank(), params=params)
  assert (np.asarray(got.num_steps) <= L).all()
  assert (
    np.asarray(got.commit_step) < np.asarray(got.num_steps)[:, None]
  ).all()


# The nucleus.


def test_nucleus_by_hand():
  p = jnp.array([0.1, 0.5, 0.15, 0.25])
  keep = lambda top_p, t=1.0: np.isfinite(
    sampling.nucleus(jnp.log(p), top_p, jnp.float32(t))
  ).tolist()
  assert keep(0.5) == [False, True, False, False]
  assert keep(0.51) == [False, True, False, True]
  assert keep(0.8) == [False, True, True, True]
  assert keep(1.0) == [True] * 4
  # Squared and normalised: 0.029, 0.725, 0.065, 0.181.
  assert keep(0.8, 0.5) == [False, True, False, True]
  tied = sampling.nucleus(jnp.zeros(4), 0.3, jnp.float32(1.0))
  assert np.isfinite(tied).all()


def test_sampling_follows_the_nucleus():
  params = tiny.table_params(5, L, context=0.0)
  params['table'][:] = params['table'][0]
  rows = 500
  got = run(
    tiny.canvas([[1]] * rows, L),
    params=params,
    threshold=-1.0,
    temperature=0.8,
    cfg=dataclasses.replace(CFG, top_p=0.7),
    seed=3,
  )
  count = np.bincount(np.asarray(got.tokens).ravel(), minlength=tiny.ROWS)
  logits = params['table'][0].copy()
  logits[tiny.MASK :] = -np.inf
  p = np.exp(tiny.log_softmax(logits / 0.8))
  order = np.argsort(-p)
  kept = order[: np.searchsorted(np.cumsum(p[order]), 0.7) + 1]
  assert 2 < len(kept) < 20 and count.sum() == count[kept].sum()
  expected = p[kept] / p[kept].sum() * rows * L
  assert stats.chisquare(count[kept], expected).pvalue > 1e-3
  # `logp` is of the whole distribution, untempered.
  whole = tiny.allowed_logp(params['table'][0])
  np.testing.assert_allclose(got.logp, whole[np.asarray(got.tokens)], rtol=1e-4)


def sorts(jaxpr, *, in_branch=False):
  """(inside a branch of a cond or not) of every sort of a program."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'sort':
      yield in_branch
    branch = in_branch or equation.primitive.name == 'cond'
    for inner in jax.tree.leaves(
      list(equation.params.values()),
      is_leaf=lambda x: hasattr(x, 'jaxpr') or hasattr(x, 'eqns'),
    ):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        yield from sorts(inner, in_branch=branch)


def test_greedy_decoding_does_not_sort_the_vocabulary():
  def program(top_p):
    cfg = dataclasses.replace(BERNOULLI, top_p=top_p, threshold=0.7)
    decode = lambda decoder: decoder(
      TABLE, PARAMS, tiny.row_keys(0, [0]), blank(1), vocab=tiny.VOCAB
    )
    return jax.make_jaxpr(decode)(cfg).jaxpr

  # The quota ranks a block by sorting, in every step; the nucleus sorts where
  # the temperature is above 0 alone.
  plain, nucleus = list(sorts(program(1.0))), list(sorts(program(0.9)))
  assert plain.count(False) == nucleus.count(False)
  assert plain.count(True) == 0 and nucleus.count(True) == 1
  same(run(blank(), cfg=dataclasses.replace(CFG, top_p=0.2)), run(blank()))


@pytest.mark.parametrize(
  'change',
  [
    {'min_commits': 0},
    {'top_p': 0.0},
    {'top_p': 1.5},
    {'block_length': 5},
  ],
)
def test_bad_settings_are_refused(change):
  with pytest.raises(ValueError, match=str(list(change.values())[0])):
    dataclasses.replace(CFG, **change)
