"""The fixed schedule: recordings, twins, invariants, distributions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dllm_jax import types
from dllm_jax.decoding import blocks, fixed
from dllm_jax.ops import sampling, schedules
from tests import recorded, tiny

L, W = 12, 4
CFG = fixed.Fixed(gen_length=L, block_length=W, num_steps=6)
TABLE = tiny.Table(gen_length=L)
PARAMS = tiny.table_params(0, L)
PROMPTS = tiny.random_prompts(1, [3, 5, 1, 4, 2, 5])
step = jax.jit(fixed.Fixed.step, static_argnames=('denoiser', 'vocab'))


def changed(cfg, steps, temperature):
  """The decoder with other steps of a block, and another temperature."""
  return dataclasses.replace(
    cfg, num_steps=steps * cfg.num_blocks, temperature=temperature
  )


def run(
  canvas,
  *,
  params=PARAMS,
  steps=2,
  temperature=1.0,
  row_id=None,
  seed=0,
  cfg=CFG,
  vocab=tiny.VOCAB,
):
  """`tiny.decode` with the table; rows are numbered from 0.

  Args:
    steps: denoising steps of a block.
  """
  rows = range(len(canvas.tokens)) if row_id is None else row_id
  return tiny.decode(
    TABLE,
    params,
    tiny.row_keys(seed, list(rows)),
    canvas,
    changed(cfg, steps, temperature),
    vocab=vocab,
  )


def blank(rows=6):
  return tiny.canvas(PROMPTS[:rows], L, width=5)


def same(a, b):
  """Equal trajectories; log-probabilities up to the last bits."""
  for name in ('tokens', 'commit_step', 'num_steps'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  np.testing.assert_allclose(a.logp, b.logp, rtol=1e-5, atol=1e-5)


def pick(trajectory, rows):
  return jax.tree.map(lambda x: x[jnp.asarray(rows)], trajectory)


# Recordings.

RECORDED = (
  'llada_g32_b32_s32',
  'llada_g32_b8_s16',
  'llada_g64_b16_s32',
  'llada_g24_b12_s10',
  'fast_g32_b16_s16',
)


@pytest.mark.parametrize('name', RECORDED)
def test_recorded_llada_decodes(shared_dir, name):
  case = recorded.case(shared_dir, 'llada', name)
  assert case['cfg_scale'] == 0 and case['threshold'] is None
  cfg = fixed.Fixed(
    gen_length=case['gen_length'],
    block_length=case['block_length'],
    num_steps=case['steps'],
  )
  recorded.read(shared_dir, 'llada', name, cfg).check_all()


# Twins.


def python_loop(canvas, *, steps, temperature, cfg=CFG, seed=0):
  """The decoder as a Python loop, with the canvases that its steps read."""
  cfg = changed(cfg, steps, temperature)
  state = blocks.init_state(canvas, tiny.VOCAB, cfg)
  rows = list(range(len(canvas.tokens)))
  seen, states = [], []
  while not bool(jnp.all(blocks.is_done(state, tiny.VOCAB, cfg))):
    seen.append(np.asarray(state.tokens))
    states.append(state)
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
  return blocks.finish(state, tiny.VOCAB, cfg), seen, states + [state]


def test_while_loop_equals_python_loop_and_replay_its_canvases():
  got = run(blank(), steps=3)
  want, seen, _ = python_loop(blank(), steps=3, temperature=1.0)
  same(got, want)
  assert len(seen) == 9
  for t, canvas in enumerate(seen):
    now = schedules.replay(
      got.tokens, got.commit_step, jnp.full(6, t, jnp.int32), tiny.MASK
    )
    np.testing.assert_array_equal(now, canvas[:, -L:])
    # Prompts and padding never change.
    np.testing.assert_array_equal(canvas[:, :-L], seen[0][:, :-L])


def numpy_row(prompt, steps, completion=None, params=PARAMS):
  """Greedy decoding of one row, from the definition."""
  tokens = list(completion or [tiny.MASK] * L)
  logp, when, now = np.zeros(L), np.full(L, -1), 0
  for first in range(0, L, W):
    columns = [k for k in range(first, first + W) if tokens[k] == tiny.MASK]
    masks, t = len(columns), 0
    while columns:
      visible = params['context'][prompt + tokens].sum(0)
      best = []
      for k in columns:
        lp = tiny.allowed_logp(params['table'][k] + visible)
        best.append((-lp.max(), k, int(lp.argmax())))
      quota = masks // steps + (t < masks % steps)
      for negative, k, token in sorted(best)[:quota]:
        tokens[k], logp[k], when[k] = token, -negative, now
        columns.remove(k)
      t, now = t + 1, now + 1
  when[when < 0] = now
  return tokens, logp, when, now


@pytest.mark.parametrize('steps', [1, 2, 3, 4, 7])
def test_greedy_equals_numpy(steps):
  got = run(blank(), steps=steps, temperature=0.0)
  for row, prompt in enumerate(PROMPTS):
    tokens, logp, when, taken = numpy_row(prompt, steps)
    np.testing.assert_array_equal(got.tokens[row], tokens)
    np.testing.assert_array_equal(got.commit_step[row], when)
    np.testing.assert_allclose(got.logp[row], logp, rtol=1e-4, atol=1e-5)
    assert got.num_steps[row] == taken == 3 * min(steps, W)


@pytest.mark.parametrize('temperature', [0.0, 0.3, 1.0, 3.0])
def test_confidence_is_untempered_whatever_the_temperature(temperature):
  _, _, states = python_loop(blank(), steps=2, temperature=temperature)
  for t, (before, after) in enumerate(
    zip(states[:-1], states[1:], strict=True)
  ):
    column = 5 + np.asarray(before.block)[:, None] * W + np.arange(W)
    mask = blank().attention_mask
    logits = TABLE(PARAMS, before.tokens, mask, jnp.asarray(column))
    logp = tiny.allowed_logp(logits)
    keys = jax.vmap(jax.random.fold_in, (0, None))(
      tiny.row_keys(0, list(range(6))), t
    )
    draw = jax.vmap(jax.random.split)(keys)[:, 1]
    proposal = np.asarray(
      sampling.gumbel_argmax(
        draw,
        sampling.allowed_logits(logits, tiny.VOCAB),
        jnp.float32(temperature),
      )
    )
    for row in range(6):
      old = np.asarray(before.tokens[row])[column[row]]
      new = np.asarray(after.tokens[row])[column[row]]
      changed = np.flatnonzero(old != new)
      eligible = np.flatnonzero(old == tiny.MASK)
      assert len(changed) == 2
      score = logp[row, np.arange(W), proposal[row]]
      best = sorted(eligible, key=lambda k: -score[k])[:2]
      assert set(best) == set(changed)
      np.testing.assert_array_equal(new[changed], proposal[row][changed])
      np.testing.assert_allclose(
        np.asarray(after.logp[row])[column[row] - 5][changed],
        score[changed],
        rtol=1e-4,
        atol=1e-5,
      )


# Invariants.


@settings(max_examples=40, deadline=None)
@given(
  steps=st.integers(1, 9),
  temperature=st.sampled_from([0.0, 1e-6, 0.9, 5.0, 1e6]),
  seed=st.integers(0, 2**31 - 1),
  order=st.sampled_from(['confidence', 'random']),
)
def test_commits_follow_the_schedule_and_exclude_mask(
  steps, temperature, seed, order
):
  cfg = dataclasses.replace(CFG, order=order)
  got = run(blank(), steps=steps, temperature=temperature, seed=seed, cfg=cfg)
  tokens, when = np.asarray(got.tokens), np.asarray(got.commit_step)
  # The table's top logits are [MASK] and ids beyond the text.
  assert tokens.min() >= 0 and tokens.max() < tiny.MASK
  assert (np.asarray(got.logp) < 0).all() and np.isfinite(got.logp).all()
  taken = min(steps, W)
  quota = [W // steps + (t < W % steps) for t in range(taken)]
  for row in when:
    for block in range(3):
      inside = row[block * W : (block + 1) * W] - block * taken
      np.testing.assert_array_equal(np.bincount(inside, minlength=taken), quota)
  np.testing.assert_array_equal(got.num_steps, 3 * taken)


def test_no_position_is_committed_twice():
  _, seen, states = python_loop(blank(), steps=4, temperature=1.0)
  last = np.asarray(states[-1].tokens)
  for canvas in seen:
    decided = canvas != tiny.MASK
    np.testing.assert_array_equal(canvas[decided], last[decided])


def test_random_order_is_uniform_and_ignores_confidence():
  # One block of 4, a token a step: each column comes first as often.
  cfg = dataclasses.replace(CFG, order='random')
  rows = 400
  canvas = tiny.canvas([[1, 2]] * rows, L)
  got = run(canvas, steps=4, temperature=0.0, cfg=cfg, row_id=range(rows))
  first = np.argmin(np.asarray(got.commit_step)[:, :W], axis=1)
  assert stats.chisquare(np.bincount(first, minlength=W)).pvalue > 1e-3
  second = np.argmin(np.asarray(got.commit_step)[:, W : 2 * W], axis=1)
  table = np.zeros((W, W))
  np.add.at(table, (first, second), 1)
  assert stats.chi2_contingency(table).pvalue > 1e-3
  ordered = run(canvas, steps=4, temperature=0.0, row_id=range(rows))
  assert len(np.unique(ordered.commit_step, axis=0)) == 1


def test_first_token_follows_the_softmax():
  # One row of logits for all columns, one step: every column is a draw.
  params = tiny.table_params(5, L, context=0.0)
  params['table'][:] = params['table'][0]
  rows = 500
  canvas = tiny.canvas([[1]] * rows, L)
  got = run(canvas, params=params, steps=1, temperature=0.8, seed=3)
  count = np.bincount(np.asarray(got.tokens).ravel(), minlength=tiny.ROWS)
  logits = params['table'][0].copy()
  logits[tiny.MASK :] = -np.inf
  p = np.exp(tiny.log_softmax(logits / 0.8))
  assert count[tiny.MASK :].sum() == 0
  likely = p * rows * L > 5
  observed = [*count[likely], count[~likely].sum()]
  expected = [*p[likely], p[~likely].sum()]
  expected = np.array(expected) * rows * L
  assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_ties_take_the_lowest_id_and_the_leftmost_column():
  params = {
    'table': np.zeros((L, tiny.ROWS), np.float32),
    'context': np.zeros((tiny.ROWS, tiny.ROWS), np.float32),
  }
  got = run(blank(1), params=params, steps=2, temperature=0.0)
  np.testing.assert_array_equal(got.tokens, np.zeros((1, L)))
  np.testing.assert_array_equal(
    got.commit_step[0], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
  )


def eos_params(*columns):
  """A table that proposes EOS at the given columns alone."""
  params = tiny.table_params(0, L)
  params['table'][:, tiny.EOS] = -64.0
  params['table'][list(columns), tiny.EOS] = 64.0
  params['context'][:, tiny.EOS] = 0.0
  return params


@pytest.mark.parametrize('order', ['confidence', 'random'])
@pytest.mark.parametrize('column', [0, 5, 11])
def test_stop_at_eos_keeps_the_prefix_and_saves_steps(column, order):
  params = eos_params(column)
  full = dataclasses.replace(CFG, order=order)
  early = dataclasses.replace(full, stop_at_eos=True)
  want = run(blank(), params=params, cfg=full)
  got = run(blank(), params=params, cfg=early)
  upto = column + 1
  np.testing.assert_array_equal(got.tokens[:, :upto], want.tokens[:, :upto])
  np.testing.assert_array_equal(got.tokens[:, column], tiny.EOS)
  np.testing.assert_array_equal(
    got.commit_step[:, :upto], want.commit_step[:, :upto]
  )
  np.testing.assert_array_equal(got.logp[:, :upto], want.logp[:, :upto])
  needed = np.asarray(want.commit_step)[:, :upto].max(1) + 1
  np.testing.assert_array_equal(got.num_steps, needed)
  assert (np.asarray(got.num_steps) <= np.asarray(want.num_steps)).all()
  if column < 8:
    assert (np.asarray(got.num_steps) < np.asarray(want.num_steps)).all()
  # What no step committed is EOS, with the row's number of steps, logp 0.
  late = np.asarray(want.commit_step) >= needed[:, None]
  assert (np.asarray(got.tokens)[late] == tiny.EOS).all()
  assert (np.asarray(got.logp)[late] == 0.0).all()
  np.testing.assert_array_equal(
    np.asarray(got.commit_step)[late],
    np.broadcast_to(needed[:, None], late.shape)[late],
  )


def test_suppressed_eos_is_never_proposed_but_counts_in_logp():
  params = eos_params(0, 6)
  # By logp, so that a probability of exp(-64) is seen.
  cfg = dataclasses.replace(CFG, suppress_eos=True)
  got = run(blank(), params=params, cfg=cfg, temperature=1.0)
  assert (np.asarray(got.tokens) != tiny.EOS).all()
  logp = np.asarray(got.logp)
  assert (logp[:, [0, 6]] < -20).all()
  assert (np.delete(logp, [0, 6], axis=1) > -20).all()


TURN_END = 3  # a token of text in `tiny.VOCAB`
CHAT = dataclasses.replace(tiny.VOCAB, stop_tokens=(TURN_END,))


def turn_params(turn, eos):
  """A table that ends the turn at one column, and the text at another."""
  params = eos_params(eos)
  params['table'][:, TURN_END] = -64.0
  params['table'][turn, TURN_END] = 128.0
  params['context'][:, TURN_END] = 0.0
  return params


def test_stop_at_eos_ends_a_row_at_any_stop_token():
  early = dataclasses.replace(CFG, stop_at_eos=True)
  want = run(blank(), params=turn_params(2, 5))
  got = run(blank(), params=turn_params(2, 5), cfg=early, vocab=CHAT)
  np.testing.assert_array_equal(got.tokens[:, :3], want.tokens[:, :3])
  np.testing.assert_array_equal(got.tokens[:, 2], TURN_END)
  # Two steps a block: the first block alone, and EOS behind it.
  np.testing.assert_array_equal(got.num_steps, np.full(6, 2))
  np.testing.assert_array_equal(got.tokens[:, 4:], np.full((6, 8), tiny.EOS))
  # To the vocabulary of one stop token it is text like any other.
  plain = run(blank(), params=turn_params(2, 5), cfg=early)
  assert (np.asarray(plain.num_steps) > 2).all()


def test_suppress_eos_covers_every_stop_token():
  cfg = dataclasses.replace(CFG, suppress_eos=True)
  got = run(blank(), params=turn_params(2, 5), cfg=cfg, vocab=CHAT)
  assert not np.isin(got.tokens, (TURN_END, tiny.EOS)).any()
  assert (np.asarray(got.logp)[:, [2, 5]] < -20).all()


def test_tokens_already_in_the_canvas_are_kept():
  completion = np.full((2, L), tiny.MASK, np.int32)
  held = {0: [3, 4, 5, 6, 7, 9], 1: [0]}
  for row, columns in held.items():
    completion[row, columns] = np.arange(len(columns)) + 10
  ids, mask = tiny.pad(PROMPTS[:2], 5)
  canvas = types.Canvas(
    jnp.asarray(np.concatenate([ids, completion], 1)),
    jnp.asarray(np.concatenate([mask, completion >= 0], 1)),
  )
  got = run(canvas, steps=2, temperature=0.0)
  for row, columns in held.items():
    want = numpy_row(PROMPTS[row], 2, completion[row].tolist())
    np.testing.assert_array_equal(
      np.asarray(got.tokens)[row, columns], completion[row, columns]
    )
    np.testing.assert_array_equal(got.tokens[row], want[0])
    np.testing.assert_array_equal(got.commit_step[row], want[2])
    assert got.num_steps[row] == want[3]
    assert (np.asarray(got.logp)[row, columns] == 0).all()
  # Row 0 has 3, 0 and 3 masks in its blocks: 2 + 0 + 2 steps.
  np.testing.assert_array_equal(got.num_steps, [4, 6])


def test_finished_rows_are_frozen():
  full = np.full((2, L), 7, np.int32)
  full[1, 2] = tiny.MASK
  canvas = types.Canvas(jnp.asarray(full), jnp.ones((2, L), bool))
  alone = run(pick(canvas, [1]), row_id=[1])
  got = run(canvas)
  np.testing.assert_array_equal(got.num_steps, [0, 1])
  np.testing.assert_array_equal(got.tokens[0], full[0])
  same(pick(got, [1]), alone)
  state = blocks.init_state(canvas, tiny.VOCAB, CFG)
  for t in range(3):
    state = step(
      changed(CFG, 2, 1.0),
      TABLE,
      PARAMS,
      tiny.row_keys(t, [0, 1]),
      state,
      canvas.attention_mask,
      vocab=tiny.VOCAB,
    )
    if t == 0:
      first = state
  for name, value in first._asdict().items():
    if name != 'step':
      np.testing.assert_array_equal(value, getattr(state, name), name)


# A row's result depends on nothing but the row.


@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_rows_do_not_depend_on_their_batch(temperature):
  whole = run(blank(), temperature=temperature)
  args = {'temperature': temperature}
  for row in range(6):
    lone = tiny.canvas([PROMPTS[row]], L, width=5, side='right')
    same(run(lone, row_id=[row], **args), pick(whole, [row]))
  longer = tiny.canvas([*PROMPTS, list(range(9))], L)
  same(pick(run(longer, **args), range(6)), whole)
  right = tiny.canvas(PROMPTS, L, width=9, side='right')
  same(run(right, **args), whole)
  order = [4, 2, 0, 5, 1, 3]
  mixed = tiny.canvas([PROMPTS[i] for i in order], L, width=5)
  same(run(mixed, row_id=order, **args), pick(whole, order))
  if temperature:
    other = run(blank(), row_id=[9, 8, 7, 6, 11, 10], **args)
    assert (np.asarray(other.tokens) != np.asarray(whole.tokens)).any(1).all()


def test_transformer_rows_do_not_depend_on_their_batch():
  def go(prompts, side, width, row_id):
    return tiny.decode(
      tiny.DENOISER,
      tiny.params(),
      tiny.row_keys(0, row_id),
      tiny.canvas(prompts, L, side=side, width=width),
      changed(CFG, 2, 1.0),
    )

  whole = go(PROMPTS[:4], 'left', 5, [0, 1, 2, 3])
  peers = [PROMPTS[3], list(range(9)), PROMPTS[2], PROMPTS[0]]
  mixed = go(peers, 'right', 9, [3, 17, 2, 0])
  same(pick(mixed, [3, 2, 0]), pick(whole, [0, 2, 3]))


def test_block_steps_and_largest_commit_by_hand():
  with_steps = lambda n: dataclasses.replace(CFG, num_steps=n)
  assert CFG.num_blocks == 3
  assert [with_steps(n).block_steps() for n in (3, 6, 12)] == [1, 2, 4]
  assert with_steps(9).largest_commit() == 2
  assert with_steps(3).largest_commit() == schedules.largest_quota(W, 1) == 4
