"""Caches: recordings, twins without a cache, rows that do not meet."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import errors, types
from dllm_jax.decoding import caching, fixed, gated
from dllm_jax.models import transformer
from tests import recorded, tiny

L = 12
DREAM = dataclasses.replace(tiny.MODEL, attention_bias=True, logit_shift=True)
MODELS = {'plain': tiny.MODEL, 'shifted': DREAM}
PROMPTS = tiny.random_prompts(1, [3, 5, 1, 4, 2, 5])
FIXED = fixed.Fixed(gen_length=L, block_length=4, num_steps=6)
DECODERS = {
  'fixed': FIXED,
  'sampled': dataclasses.replace(FIXED, temperature=1.0, order='random'),
  'guided': dataclasses.replace(FIXED, cfg_scale=1.5),
  'gated': gated.Gated(
    gen_length=L,
    block_length=4,
    temperature=1.0,
    gate='bernoulli',
    threshold=0.05,
    top_p=0.9,
  ),
}
CACHES = {
  'prefix': {'cache': 'prefix'},
  'dual': {'cache': 'dual'},
  'dual, vicinity': {'cache': 'dual', 'vicinity': 2},
  'prefix, refreshed': {'cache': 'prefix', 'refresh_every': 2},
}


def fast_first(chosen, everything):
  """The chosen cases, and the others as slow ones."""
  slow = [case for case in everything if case not in chosen]
  return chosen + [pytest.param(*case, marks=pytest.mark.slow) for case in slow]


def run(model, decoder, canvas, rows=None):
  """The completions; each row draws from the key of its number."""
  rows = list(range(len(canvas.tokens))) if rows is None else rows
  denoiser = dataclasses.replace(tiny.DENOISER, cfg=model)
  keys = tiny.row_keys(0, rows)
  return tiny.decode(denoiser, tiny.params(model), keys, canvas, decoder)


def scattered(**kwargs):
  """Rows that have parts of their completions, and so begin in any block."""
  canvas = tiny.canvas(PROMPTS, L, **kwargs)
  rng = np.random.default_rng(3)
  given = rng.random((len(PROMPTS), L)) < 0.4
  given[1, :5] = given[4, :9] = given[3, 2:9] = True
  tokens = np.array(canvas.tokens)
  side = tokens[:, -L:]
  side[given] = rng.integers(0, tiny.EOS, given.sum())
  return canvas._replace(tokens=jnp.asarray(tokens))


def same(a, b):
  for name in ('tokens', 'commit_step', 'num_steps'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  np.testing.assert_allclose(a.logp, b.logp, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('family', 'name'), recorded.CACHED)
def test_recorded_decodes_through_caches(shared_dir, family, name):
  want = recorded.read_cached(shared_dir, family, name)
  everyone = list(range(len(want.prompts)))
  want.check(everyone, 'left')
  want.check(everyone[::-1], 'left')
  for row in everyone:
    want.check([row], 'left')
  if family == 'llada':  # a shifted model reads the column before the block
    want.check(everyone, 'right')


@pytest.mark.parametrize(
  ('model', 'decoder', 'cache'),
  fast_first(
    [
      ('plain', 'fixed', 'dual'),
      ('plain', 'gated', 'prefix'),
      ('shifted', 'sampled', 'prefix'),
      ('shifted', 'guided', 'dual'),
    ],
    itertools.product(MODELS, DECODERS, ('prefix', 'dual')),
  ),
)
def test_a_cache_refreshed_at_every_step_changes_nothing(model, decoder, cache):
  canvas, model = scattered(), MODELS[model]
  plain = DECODERS[decoder]
  fresh = dataclasses.replace(plain, cache=cache, refresh_every=1)
  same(run(model, fresh, canvas), run(model, plain, canvas))


@pytest.mark.parametrize(
  ('decoder', 'cache'),
  fast_first(
    [('sampled', 'dual'), ('gated', 'prefix'), ('guided', 'dual, vicinity')],
    itertools.product(DECODERS, CACHES),
  ),
)
def test_stale_keys_matter_and_rows_do_not_meet(decoder, cache):
  """Alone, in another batch, with more padding: the same tokens."""
  cached = dataclasses.replace(DECODERS[decoder], **CACHES[cache])
  want = run(DREAM, cached, scattered())
  plain = run(DREAM, DECODERS[decoder], scattered())
  assert not np.allclose(want.logp, plain.logp, atol=1e-3)
  pick = lambda tree, rows: jax.tree.map(lambda x: x[jnp.array(rows)], tree)
  for rows in ([4], [5, 0, 2]):
    got = run(DREAM, cached, pick(scattered(), rows), rows)
    same(got, pick(want, rows))
  same(run(DREAM, cached, scattered(width=9)), want)


def test_the_first_call_of_a_block_is_of_the_whole_canvas():
  """With one step a block nothing is ever read from a cache."""
  plain = dataclasses.replace(FIXED, num_steps=3)
  for cache in ('prefix', 'dual'):
    cached = dataclasses.replace(plain, cache=cache)
    same(
      run(tiny.MODEL, cached, scattered()),
      run(tiny.MODEL, plain, scattered()),
    )


WITH_TABLE = dataclasses.replace(tiny.MODEL, max_positions=20, norm='layer')


@pytest.mark.parametrize('model', [DREAM, WITH_TABLE], ids=['rope', 'table'])
def test_a_window_of_the_whole_canvas_is_fresh(model):
  """A window that leaves nothing out reads nothing from the cache."""
  plain = dataclasses.replace(FIXED, num_steps=12)
  wide = dataclasses.replace(plain, cache='dual', vicinity=30)
  same(run(model, wide, scattered()), run(model, plain, scattered()))


CAUSAL = dataclasses.replace(tiny.MODEL, causal=True)
BLOCKS = dataclasses.replace(tiny.MODEL, block_causal=4)
SHIFTED_BLOCKS = dataclasses.replace(DREAM, block_causal=4)


@pytest.mark.parametrize(
  ('model', 'decoder'),
  [
    (BLOCKS, 'fixed'),
    (BLOCKS, 'gated'),
    (SHIFTED_BLOCKS, 'sampled'),
    pytest.param(SHIFTED_BLOCKS, 'guided', marks=pytest.mark.slow),
  ],
)
def test_a_cache_of_finished_blocks_changes_nothing(model, decoder):
  """Prompts of all lengths modulo the block: rows are in different places."""
  plain = DECODERS[decoder]
  cached = dataclasses.replace(plain, cache='block')
  canvas = scattered(width=9)  # row 3 has a block between two others
  want, got = run(model, plain, canvas), run(model, cached, canvas)
  same(got, want)
  alone = jax.tree.map(lambda x: x[2:3], canvas)
  same(run(model, cached, alone, [2]), jax.tree.map(lambda x: x[2:3], want))


def test_blocks_begin_with_the_prompt():
  """Five prompt tokens: blocks of 4 decide 3, 4, 4 and 1 tokens."""
  decoder = fixed.Fixed(gen_length=L, block_length=4, num_steps=3)
  canvas = tiny.canvas([PROMPTS[1]], L, width=7)
  for cache in ('none', 'block'):
    cached = dataclasses.replace(decoder, cache=cache)
    got = run(BLOCKS, cached, canvas)
    assert got.commit_step.tolist() == [[0] * 3 + [1] * 4 + [2] * 4 + [3]]
    assert got.num_steps.tolist() == [4]


def test_shorter_blocks_take_fewer_steps():
  """Blocks of 3, 4, 4 and 1 tokens, with up to four steps each."""
  decoder = fixed.Fixed(
    gen_length=L, block_length=4, num_steps=12, schedule='linear'
  )
  canvas = tiny.canvas([PROMPTS[1]], L, width=7)
  got = run(BLOCKS, decoder, canvas)
  assert got.num_steps.tolist() == [L]
  assert np.all(got.commit_step < L)  # none is left to become EOS


def test_finished_reasoning_is_in_the_cache_of_blocks():
  canvas = tiny.canvas(PROMPTS, L)
  tokens = np.array(canvas.tokens)
  tokens[:, -L:-4] = 7  # the last tokens are left
  canvas = canvas._replace(tokens=jnp.asarray(tokens))
  plain = DECODERS['sampled']
  cached = dataclasses.replace(plain, cache='block')
  same(run(BLOCKS, cached, canvas), run(BLOCKS, plain, canvas))


@pytest.mark.parametrize(
  ('model', 'change', 'message'),
  [
    (tiny.MODEL, {'cache': 'block'}, 'not causal over blocks; use none or pre'),
    (BLOCKS, {'cache': 'dual'}, 'is causal over blocks; use none or block'),
    (BLOCKS, {'block_length': 6}, 'block_length 6: the model is causal over'),
    (CAUSAL, {'cache': 'dual'}, 'the model is causal; use none, or --decode'),
  ],
)
def test_a_cache_or_block_of_another_kind_of_model_is_refused(
  model, change, message
):
  denoiser = transformer.of_config(model)
  with pytest.raises(errors.UserError, match=message):
    dataclasses.replace(FIXED, **change).check(denoiser)


def test_early_exit_keeps_the_tokens_up_to_the_stop():
  full = dataclasses.replace(DECODERS['sampled'], cache='dual')
  early = dataclasses.replace(full, stop_at_eos=True)
  canvas = scattered()
  tokens = np.array(canvas.tokens)
  tokens[:, -8] = tiny.EOS  # the text of every row ends in its second block
  canvas = canvas._replace(tokens=jnp.asarray(tokens))
  a, b = run(tiny.MODEL, full, canvas), run(tiny.MODEL, early, canvas)
  text = np.array(tiny.VOCAB.through_stop(a.tokens))
  np.testing.assert_array_equal(a.tokens[text], b.tokens[text])
  assert np.sum(b.num_steps) < np.sum(a.num_steps)


def test_window_widths_by_hand():
  widths = lambda *args: caching.widths(*args)
  assert widths('dual', 256, 32, 0) == (32,)
  assert widths('dual', 256, 32, 8) == (48,)
  assert widths('prefix', 128, 32, 0) == (128, 96, 64, 32)
  assert widths('prefix', 128, 32, 5) == (133, 101, 69, 37)
  # 32 blocks share eight programs.
  assert widths('prefix', 256, 8, 0) == tuple(range(256, 0, -32))


def test_windows_of_finished_blocks_by_hand():
  assert caching.widths_of_next(256, 32) == (288, 64, 32)
  assert caching.widths_of_next(8, 8) == (16, 8)


def test_a_window_overwrites_its_columns_alone():
  canvas = scattered()
  denoiser, params = tiny.DENOISER, tiny.params()
  assert isinstance(denoiser, types.CachedDenoiser)
  read = jax.jit(denoiser.read)
  read_window = jax.jit(functools.partial(denoiser.read_window, width=4))
  query = jnp.full((len(PROMPTS), 1), 6)
  _, cache = read(params, *canvas, query)
  changed = canvas.tokens.at[:, 6].set(7)
  start = np.array([6, 6, 6, 5, 4, 15])
  _, after = read_window(
    params, changed, canvas.attention_mask, query, cache, start
  )
  moved = np.any(np.abs(after.k - cache.k) > 1e-5, axis=(0, 3, 4))
  column = np.arange(moved.shape[1])
  inside = (column >= start[:, None]) & (column < start[:, None] + 4)
  assert not np.any(moved & ~inside) and np.all(moved[0, 6:10])
  assert not np.any(moved[5])  # its window does not reach the change


def test_a_model_without_keys_and_values_is_refused():
  decoder = dataclasses.replace(FIXED, cache='dual')
  with pytest.raises(errors.UserError, match="cache 'dual': the model keeps"):
    decoder.check(tiny.Table(gen_length=L))
  decoder.check(tiny.DENOISER)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('vicinity', -1),
    ('refresh_every', -2),
  ],
)
def test_bad_fields_are_named(name, value):
  with pytest.raises(ValueError, match=f'{name} {value} is negative'):
    dataclasses.replace(FIXED, cache='dual', **{name: value})


@pytest.mark.parametrize('cache', ['none', 'block'])
@pytest.mark.parametrize(
  'field', [{'vicinity': 2}, {'refresh_every': 1}, {'published': 'dream'}]
)
def test_fields_that_a_cache_does_not_read_are_refused(cache, field):
  with pytest.raises(ValueError, match="read with cache 'prefix' or 'dual'"):
    dataclasses.replace(FIXED, cache=cache, **field)
