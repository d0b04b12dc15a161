"""Dream's orders and schedule: recordings, twins, invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_jax.decoding import blocks, fixed
from dllm_jax.ops import schedules
from tests import recorded, tiny

L = 12
TABLE = tiny.Table(gen_length=L)
PARAMS = tiny.table_params(0, L)
PROMPTS = tiny.random_prompts(1, [3, 5, 1, 4, 2, 5])
step = jax.jit(fixed.Fixed.step, static_argnames=('denoiser', 'vocab'))
ORDERS = {'maskgit_plus': 'confidence', 'topk_margin': 'margin'}


def config(order, steps=L, block_length=L, **kwargs):
  """The decoder with `steps` in all, as many as its blocks divide."""
  num_blocks = L // block_length
  return fixed.Fixed(
    gen_length=L,
    block_length=block_length,
    num_steps=max(1, steps // num_blocks) * num_blocks,
    order=order,
    schedule='linear',
    **kwargs,
  )


def run(canvas, cfg, *, row_id=None, seed=0):
  rows = range(len(canvas.tokens)) if row_id is None else row_id
  return tiny.decode(
    TABLE, PARAMS, tiny.row_keys(seed, list(rows)), canvas, cfg
  )


def blank(**kwargs):
  return tiny.canvas(PROMPTS, L, **kwargs)


def same(a, b):
  for name in ('tokens', 'commit_step', 'num_steps'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  np.testing.assert_allclose(a.logp, b.logp, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  'name',
  (
    'maskgit_g32_s32',
    'maskgit_g32_s12',
    'entropy_g32_s16',
    'entropy_g48_s48',
    'margin_g24_s12',
  ),
)
def test_recorded_dream_decodes(shared_dir, name):
  case = recorded.case(shared_dir, 'dream', name)
  length = case['gen_length']
  cfg = fixed.Fixed(
    gen_length=length,
    block_length=length,
    num_steps=case['steps'],
    order=ORDERS.get(case['alg'], case['alg']),
    schedule='linear',
  )
  want = recorded.read(shared_dir, 'dream', name, cfg)
  want.check_all()
  folder = shared_dir / 'golden' / 'dream_tiny'
  reveals = tiny.recorded(folder, 'decode.npz')[f'{name}.reveals_per_step']
  for steps in want.commit_step:
    count = np.bincount(steps, minlength=len(reveals))
    np.testing.assert_array_equal(count, reveals)
  assert cfg.largest_commit() >= reveals.max()


def numpy_row(prompt, steps, order):
  """Greedy decoding of one row, from the definition."""
  tokens = [tiny.MASK] * L
  logp, when = np.zeros(L), np.zeros(L, int)
  time = np.linspace(1, 1e-3, steps + 1)
  for i in range(steps):
    left = [k for k in range(L) if tokens[k] == tiny.MASK]
    visible = PARAMS['context'][prompt + tokens].sum(0)
    ranked = []
    for k in left:
      lp = tiny.allowed_logp(PARAMS['table'][k] + visible)
      p = np.exp(lp)
      score = {
        'confidence': p.max(),
        'entropy': (p * np.log(p + 1e-10)).sum(),
        'margin': np.sort(p)[-1] - np.sort(p)[-2],
      }[order]
      ranked.append((-score, k, int(lp.argmax()), lp.max()))
    count = len(left)
    if i < steps - 1:
      count = int(count * (1 - time[i + 1] / time[i]))
    for _, k, token, lp in sorted(ranked)[:count]:
      tokens[k], logp[k], when[k] = token, lp, i
  return tokens, logp, when


@pytest.mark.parametrize('order', ['confidence', 'entropy', 'margin'])
def test_greedy_equals_numpy(order):
  for steps in (1, 5, 9, 12):
    got = run(blank(), config(order, steps))
    for row, prompt in enumerate(PROMPTS):
      tokens, logp, when = numpy_row(prompt, steps, order)
      np.testing.assert_array_equal(got.tokens[row], tokens)
      np.testing.assert_array_equal(got.commit_step[row], when)
      np.testing.assert_allclose(got.logp[row], logp, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got.num_steps, steps)


def test_orders_differ():
  steps = [
    np.asarray(run(blank(), config(order, 12)).commit_step)
    for order in ('confidence', 'entropy', 'margin')
  ]
  for i in range(3):
    assert (steps[i] != steps[i - 1]).any()


@pytest.mark.parametrize('order', ['entropy', 'margin'])
def test_while_loop_equals_python_loop_and_prompts_stay(order):
  cfg, canvas = config(order, 9, temperature=1.0), blank()
  state, seen = blocks.init_state(canvas, tiny.VOCAB, cfg), []
  while not bool(jnp.all(blocks.is_done(state, tiny.VOCAB, cfg))):
    keys = jax.vmap(jax.random.fold_in, (0, None))(
      tiny.row_keys(0, list(range(6))), len(seen)
    )
    seen.append(np.asarray(state.tokens))
    state = step(
      cfg,
      TABLE,
      PARAMS,
      keys,
      state,
      canvas.attention_mask,
      vocab=tiny.VOCAB,
    )
  got = run(canvas, cfg)
  same(got, blocks.finish(state, tiny.VOCAB, cfg))
  same(got, run(canvas, cfg))  # I5
  assert len(seen) == 9
  for t, tokens in enumerate(seen):  # I1
    np.testing.assert_array_equal(tokens[:, :-L], canvas.tokens[:, :-L])
    now = schedules.replay(
      got.tokens, got.commit_step, jnp.full(6, t, jnp.int32), tiny.MASK
    )
    np.testing.assert_array_equal(now, tokens[:, -L:])


@settings(max_examples=40, deadline=None)
@given(
  steps=st.integers(1, 40),
  block_length=st.sampled_from([4, 12]),
  order=st.sampled_from(['entropy', 'margin', 'random']),
  temperature=st.sampled_from([0.0, 0.9, 1e6]),
  seed=st.integers(0, 2**31 - 1),
)
def test_dream_schedule_invariants(
  steps, block_length, order, temperature, seed
):
  cfg = config(order, steps, block_length, temperature=temperature)
  got = run(blank(), cfg, seed=seed)
  tokens, when = np.asarray(got.tokens), np.asarray(got.commit_step)
  assert tokens.min() >= 0 and tokens.max() < tiny.MASK  # I2
  assert (np.asarray(got.logp) < 0).all() and np.isfinite(got.logp).all()
  per_block = min(max(1, steps // cfg.num_blocks), block_length)  # I12
  left, quota = block_length, []
  for i in range(per_block):
    last = i == per_block - 1
    quota.append(left if last else 999 * left // (1000 * per_block - 999 * i))
    left -= quota[-1]
  for row in when:  # I3, I4
    for block in range(L // block_length):
      inside = row[block * block_length :][:block_length] - block * per_block
      np.testing.assert_array_equal(
        np.bincount(inside, minlength=per_block), quota
      )
  np.testing.assert_array_equal(got.num_steps, L // block_length * per_block)
  assert max(quota) <= cfg.largest_commit()


@pytest.mark.parametrize('order', ['entropy', 'margin'])
def test_rows_do_not_depend_on_padding_batch_or_place(order):
  cfg = config(order, 7, temperature=1.0)
  whole = run(blank(), cfg)
  mix = [4, 2, 0, 5, 1, 3]
  pick = lambda rows: jax.tree.map(lambda x: x[jnp.asarray(rows)], whole)
  got = tiny.canvas([PROMPTS[i] for i in mix], L, width=9, side='right')
  same(run(got, cfg, row_id=mix), pick(mix))
  for row in (0, 3):
    lone = tiny.canvas([PROMPTS[row]], L, width=9)
    same(run(lone, cfg, row_id=[row]), pick([row]))


@pytest.mark.parametrize('order', ['confidence', 'entropy', 'margin'])
def test_ties_take_the_leftmost_column(order):
  flat = {
    'table': np.zeros((L, tiny.ROWS), np.float32),
    'context': np.zeros((tiny.ROWS, tiny.ROWS), np.float32),
  }
  got = tiny.decode(
    TABLE,
    flat,
    tiny.row_keys(0, [0]),
    tiny.canvas([[1]], L),
    config(order, 6),
  )
  np.testing.assert_array_equal(got.tokens, np.zeros((1, L)))
  assert (np.diff(got.commit_step[0]) >= 0).all()


@pytest.mark.parametrize('order', ['entropy', 'margin'])
def test_stop_at_eos_keeps_the_prefix(order):
  params = dict(PARAMS, table=PARAMS['table'].copy())
  params['table'][:, tiny.EOS] = -64.0
  params['table'][4, tiny.EOS] = 64.0

  def go(**kwargs):
    return tiny.decode(
      TABLE,
      params,
      tiny.row_keys(0, list(range(6))),
      blank(),
      config(order, 12, **kwargs),
    )

  full, early = go(), go(stop_at_eos=True)
  np.testing.assert_array_equal(early.tokens[:, :5], full.tokens[:, :5])
  np.testing.assert_array_equal(
    early.commit_step[:, :5], full.commit_step[:, :5]
  )
  needed = np.asarray(full.commit_step)[:, :5].max(1) + 1
  np.testing.assert_array_equal(early.num_steps, needed)


def test_bad_settings_are_refused():
  # Type checking, on in the tests, refuses the same before the class does.
  with pytest.raises(Exception, match='best'):
    config('best')
  with pytest.raises(Exception, match='odd'):
    fixed.Fixed(gen_length=4, block_length=4, num_steps=4, schedule='odd')
