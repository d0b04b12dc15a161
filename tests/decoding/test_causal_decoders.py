"""Decoders of causal models give the tokens that the model gives alone."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import decoding, types
from dllm_jax.decoding import autoregressive, fractal, speculative
from dllm_jax.hf import load
from dllm_jax.ops import quantize
from dllm_jax.runtime import sharding
from tests import tiny, tiny_causal

L = 14
LM, PARAMS = tiny_causal.LM, tiny_causal.params(3)
PROMPTS = tiny.random_prompts(1, [3, 5, 1, 4, 2, 5])
ALONE = autoregressive.Autoregressive(gen_length=L)
FRACTAL = fractal.Fractal(gen_length=L, num_modules=2)
DECODERS = {
  'even': FRACTAL,
  'some': dataclasses.replace(
    FRACTAL, layers='0,2', num_placeholders=0, use_cache=False
  ),
  'late': dataclasses.replace(
    FRACTAL, layers='late', num_modules=1, num_placeholders=3
  ),
  'draft': speculative.Draft(gen_length=L, draft_length=3),
  'draft 1': speculative.Draft(gen_length=L, draft_length=1),
  'draft uncached': speculative.Draft(
    gen_length=L, draft_length=3, use_cache=False
  ),
}
CASES = [
  *itertools.product(['even', 'draft'], ['int8', 'none', 'noise', 'zeros']),
  *[('some', 'int4'), ('some', 'none'), ('some', 'noise'), ('some', 'zeros')],
  *[('late', 'none'), ('late', 'noise'), ('draft 1', 'int8')],
  *[('draft uncached', 'int4'), ('draft uncached', 'none')],
]
cases = pytest.mark.parametrize(('name', 'compression'), CASES)


def run(
  decoder, *, params=PARAMS, prompts=PROMPTS, width=6, row_id=None, lm=LM
):
  """What a decoder makes of all prompts, and how its layers are compressed."""
  prepared = decoder.prepare(lm, params)
  if 'draft' in prepared:
    # Read by `prepare` alone; so the same program serves all of them.
    decoder = dataclasses.replace(decoder, compression='none')
  row_id = range(len(prompts)) if row_id is None else row_id
  return tiny_causal.decode(
    lm,
    prepared,
    tiny.row_keys(0, list(row_id)),
    tiny_causal.canvas(prompts, decoder.gen_length, width=width),
    decoder,
  )


@functools.cache
def decoded(name, compression, temperature=0.0):
  return run(
    dataclasses.replace(
      DECODERS[name], compression=compression, temperature=temperature
    )
  )


@functools.cache
def alone(**changes):
  return run(dataclasses.replace(ALONE, **changes))


def full_rounds(trajectory):
  """Committed tokens of all rounds but each row's last."""
  return [
    n for sizes in tiny_causal.round_sizes(trajectory) for n in sizes[:-1]
  ]


# The same tokens.


def test_greedy_tokens_equal_those_of_a_loop_without_a_cache():
  texts = [list(prompt) for prompt in PROMPTS]
  read = jax.jit(LM)
  for _ in range(L):
    ids, mask = map(jnp.asarray, tiny.pad(texts, 6 + L))
    logits = np.array(read(PARAMS, ids, mask, jnp.full((6, 1), 6 + L)))[:, 0]
    logits[:, tiny_causal.VOCAB.size :] = -np.inf
    for text, best in zip(texts, logits.argmax(-1), strict=True):
      text.append(int(best))
  want = [t[len(p) :] for t, p in zip(texts, PROMPTS, strict=True)]
  for use_cache in (True, False):
    got = alone(use_cache=use_cache)
    np.testing.assert_array_equal(got.tokens, want)
    np.testing.assert_array_equal(got.num_steps, np.full(6, L))
    assert got.drafted is None
  # No row is like another, or repeats itself from the start.
  assert len(np.unique(want, axis=0)) == 6
  assert min(len(set(row)) for row in want) >= 4


@cases
def test_drafting_changes_no_token(name, compression):
  got, want = decoded(name, compression), alone()
  np.testing.assert_array_equal(got.tokens, want.tokens)
  np.testing.assert_allclose(got.logp, want.logp, rtol=1e-4, atol=1e-5)
  tiny_causal.check_accounts(got, DECODERS[name].num_drafts)


@pytest.mark.slow
@pytest.mark.parametrize('use_cache', [True, False])
@pytest.mark.parametrize('num_placeholders', [0, 1, 3])
@pytest.mark.parametrize('layers', ['even', 'late', '0,2'])
@pytest.mark.parametrize('compression', quantize.COMPRESSIONS)
def test_no_setting_of_fractal_changes_a_token(
  compression, layers, num_placeholders, use_cache
):
  decoder = fractal.Fractal(
    gen_length=L,
    num_modules=2,
    layers=layers,
    num_placeholders=num_placeholders,
    compression=compression,
    use_cache=use_cache,
  )
  got = run(decoder)
  np.testing.assert_array_equal(got.tokens, alone().tokens)
  tiny_causal.check_accounts(got, decoder.num_drafts)
  least = 4 if compression == 'none' else 2
  assert min(full_rounds(got)) >= least


@pytest.mark.parametrize(
  ('name', 'compression', 'places', 'kinds'),
  [
    # (places in a round that EOS is at, how it came there)
    ('draft', 'none', {0, 1, 2, 3}, {'accepted', 'behind'}),
    ('draft', 'noise', {0}, {'correction'}),
    ('even', 'none', {0, 1, 2, 3, 4}, {'accepted', 'correction', 'behind'}),
    ('even', 'noise', {0, 1}, {'accepted', 'correction'}),
    ('some', 'none', {0, 1, 2, 3}, {'accepted', 'behind'}),
  ],
)
def test_eos_ends_a_row_wherever_it_falls_in_a_round(
  name, compression, places, kinds
):
  decoder = dataclasses.replace(DECODERS[name], compression=compression)
  whole = np.asarray(alone().tokens)
  seen, came = set(), set()
  for token in np.unique(whole):
    exchange = np.arange(tiny.ROWS)
    exchange[[token, tiny.EOS]] = tiny.EOS, token
    got = run(
      decoder,
      params=tiny_causal.renamed(PARAMS, token),
      prompts=[exchange[prompt].tolist() for prompt in PROMPTS],
    )
    want = exchange[whole]
    for row in want:
      row[tiny_causal.first_stop(row) :] = tiny.EOS
    np.testing.assert_array_equal(got.tokens, want)
    tiny_causal.check_accounts(got, decoder.num_drafts)
    for row in np.flatnonzero((want == tiny.EOS).any(1)):
      last = tiny_causal.first_stop(want[row]) - 1
      seen.add(tiny_causal.offsets(np.asarray(got.commit_step)[row])[last])
      draft = int(got.drafted[row, last])
      came.add({-1: 'behind', tiny.EOS: 'accepted'}.get(draft, 'correction'))
  assert seen >= places and came >= kinds


@pytest.mark.parametrize('name', ['even', 'draft'])
def test_samples_are_the_same_with_and_without_drafts(name):
  got, want = decoded(name, 'int8', 1.0), alone(temperature=1.0)
  np.testing.assert_array_equal(got.tokens, want.tokens)
  np.testing.assert_allclose(got.logp, want.logp, rtol=1e-4, atol=1e-4)
  tiny_causal.check_accounts(got, DECODERS[name].num_drafts)
  assert (np.asarray(want.tokens) != alone().tokens).mean() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize('name', ['even', 'some', 'draft'])
def test_samples_of_a_truncated_distribution_are_the_same(name):
  how = {'temperature': 1.0, 'top_k': 6, 'top_p': 0.9}
  got = run(dataclasses.replace(DECODERS[name], **how))
  np.testing.assert_array_equal(got.tokens, alone(**how).tokens)
  plain = alone(temperature=1.0)
  assert (np.asarray(got.tokens) != plain.tokens).any()


# Rounds.


@cases
def test_rounds_commit_what_the_compression_promises(name, compression):
  decoder = DECODERS[name]
  sizes = full_rounds(decoded(name, compression))
  if isinstance(decoder, fractal.Fractal):
    # The first draft is the model's own, and a token follows it.
    assert min(sizes) >= 2
    if compression == 'none':
      assert min(sizes) >= decoder.num_modules + 2
      assert max(sizes) <= decoder.num_drafts + 1
    if compression == 'zeros':
      assert np.mean(sizes) < 2.5
  elif compression == 'none':
    assert set(sizes) == {decoder.draft_length + 1}
  elif compression == 'int8':
    assert np.mean(sizes) > 0.75 * (decoder.draft_length + 1)
  elif compression in ('noise', 'zeros'):
    assert np.mean(sizes) < 1.5


def test_the_budget_cuts_rounds():
  last = [s[-1] for s in tiny_causal.round_sizes(decoded('draft', 'none'))]
  assert last == [L % 4] * 6


def test_shared_prefix_drafts_as_the_paper_does_if_nothing_is_compressed():
  cached = run(
    dataclasses.replace(DECODERS['some'], use_cache=True, compression='none')
  )
  tiny_causal.same(cached, decoded('some', 'none'))


# Rows.


def test_rows_do_not_depend_on_their_place():
  order = [4, 0, 5, 2, 1, 3]
  decoder = dataclasses.replace(DECODERS['even'], temperature=1.0)
  got = run(decoder, prompts=[PROMPTS[i] for i in order], row_id=order)
  whole = tiny_causal.rows_of(decoded('even', 'int8', 1.0), order)
  tiny_causal.same(got, whole)


@pytest.mark.parametrize(
  'name', ['even', pytest.param('some', marks=pytest.mark.slow)]
)
def test_rows_do_not_depend_on_padding_or_batch(name):
  decoder = dataclasses.replace(DECODERS[name], temperature=1.0)
  whole = decoded(name, 'int8', 1.0)
  for row, prompt in enumerate(PROMPTS):
    got = run(decoder, prompts=[prompt], row_id=[row], width=9)
    tiny_causal.same(got, tiny_causal.rows_of(whole, [row]))


@pytest.mark.parametrize('name', ['even', 'draft'])
def test_prompts_and_temperatures_compile_once(name):
  decoder = DECODERS[name]
  run(decoder)
  size = tiny_causal.decode._cache_size()
  for temperature in (0.0, 0.5, 1):
    run(
      dataclasses.replace(decoder, temperature=temperature),
      prompts=tiny.random_prompts(2, [5, 5, 5, 1, 1, 1]),
      params=tiny_causal.params(1),
    )
  assert tiny_causal.decode._cache_size() == size


# Recordings.


@functools.cache
def pretrained(folder):
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  lm, params = load.load(load.read(folder), mesh)
  return lm, jax.tree.map(np.asarray, params)


LONG = {
  'alone': autoregressive.Autoregressive(gen_length=32),
  'uncached': autoregressive.Autoregressive(gen_length=32, use_cache=False),
  'draft': speculative.Draft(gen_length=32, draft_length=4),
  'fractal': fractal.Fractal(gen_length=32, num_modules=2),
  'paper': fractal.Fractal(gen_length=32, num_modules=1, use_cache=False),
}
QUICK = {
  ('llama', 'fractal'),
  ('qwen2', 'uncached'),
  ('qwen3', 'draft'),
  ('gpt2', 'fractal'),
}


@pytest.mark.parametrize(
  ('model', 'name'),
  [
    pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
    for case in itertools.product(['llama', 'qwen2', 'qwen3', 'gpt2'], LONG)
  ],
)
def test_recorded_greedy_tokens(shared_dir, model, name):
  folder = shared_dir / 'golden' / f'{model}_tiny'
  want = tiny.recorded(folder, 'golden.npz')
  lm, params = pretrained(folder)
  size = lm.cfg.vocab_size
  decoder = LONG[name]
  prompts = [
    row[:n].tolist()
    for row, n in zip(
      want['greedy_prompt'], want['greedy_prompt_len'], strict=True
    )
  ]
  assert len({len(prompt) for prompt in prompts}) == 4
  prepared = decoder.prepare(lm, params)
  got = tiny_causal.decode(
    lm,
    prepared,
    tiny.row_keys(0, range(4)),
    tiny_causal.canvas(prompts, 32, width=20),
    decoder,
    vocab=types.Vocabulary(size=size, mask_token=None, eos_token=size - 1),
  )
  np.testing.assert_array_equal(got.tokens, want['greedy_output'])
  if decoder.num_drafts:
    assert (np.asarray(got.num_steps) <= 16).all()


# Objects.


EVERY = {'alone': ALONE, **DECODERS}


@pytest.mark.parametrize('decoder', EVERY.values(), ids=EVERY)
def test_decoders_are_objects_of_the_library(decoder):
  assert isinstance(decoder, types.Decoder) and decoder.is_causal
  assert jax.tree.leaves(decoder) == [0.0]
  warm = dataclasses.replace(decoder, temperature=0.5)
  assert jax.tree.leaves(warm) == [0.5]
  leaves, structure = jax.tree.flatten(warm)
  assert jax.tree.unflatten(structure, leaves) == warm
  assert warm.greedy() == decoder
  assert warm.resized(5) == dataclasses.replace(warm, gen_length=5)
  assert decoder.largest_commit() == decoder.num_drafts + 1
  assert decoding.DECODERS[type(decoder).__name__.lower()] is type(decoder)


def test_number_of_drafts():
  got = [decoder.num_drafts for decoder in EVERY.values()]
  assert got == [0, 4, 3, 5, 3, 1, 3]  # D + m + 1, and the length of a draft


@pytest.mark.parametrize(
  ('decoder', 'change'),
  [
    (ALONE, {'gen_length': 0}),
    (ALONE, {'top_k': -1}),
    (ALONE, {'top_p': 0.0}),
    (ALONE, {'top_p': 1.25}),
    (ALONE, {'temperature': -0.5}),
    (ALONE, {'temperature': float('inf')}),
    (ALONE, {'temperature': float('nan')}),
    (DECODERS['draft'], {'draft_length': 0}),
    (DECODERS['draft'], {'temperature': -0.5}),
    (FRACTAL, {'num_modules': 0}),
    (FRACTAL, {'num_placeholders': -1}),
    (FRACTAL, {'gen_length': 0}),
  ],
)
def test_bad_values_are_refused_with_their_field(decoder, change):
  ((name, value),) = change.items()
  with pytest.raises(ValueError, match=f'^{name} {value} ') as caught:
    dataclasses.replace(decoder, **change)
  assert '\n' not in str(caught.value)
