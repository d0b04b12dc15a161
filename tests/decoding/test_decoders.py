"""Decoders as objects: leaves, compilations, checks and overrides."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import decoding, types
from dllm_jax.decoding import block_decoder, fields, fixed, gated
from tests import tiny

FIXED = fixed.Fixed(
  gen_length=12, block_length=4, num_steps=6, temperature=0.5, cfg_scale=1.5
)
GATED = gated.Gated(
  gen_length=12, block_length=4, threshold=0.75, exponent=2.0, min_commits=2
)
DECODERS = {'fixed': FIXED, 'gated': GATED}
both = pytest.mark.parametrize('decoder', DECODERS.values(), ids=DECODERS)
INF, NAN = float('inf'), float('nan')


@both
def test_decoders_are_frozen(decoder):
  assert isinstance(decoder, types.Decoder)
  with pytest.raises(dataclasses.FrozenInstanceError):
    decoder.temperature = 1.0


def test_leaves_are_the_traced_fields_in_order():
  # temperature, cfg_scale, num_steps; None is no leaf.
  assert jax.tree.leaves(FIXED) == [0.5, 1.5, 6]
  # temperature, threshold, exponent.
  assert jax.tree.leaves(GATED) == [0.0, 0.75, 2.0]
  for decoder in DECODERS.values():
    traced = [
      getattr(decoder, field.name)
      for field in dataclasses.fields(decoder)
      if not field.metadata['static']
    ]
    leaves = jax.tree.leaves(decoder)
    assert leaves == [value for value in traced if value is not None]


@both
def test_unflatten_restores_the_decoder(decoder):
  leaves, structure = jax.tree.flatten(decoder)
  assert jax.tree.unflatten(structure, leaves) == decoder
  doubled = jax.tree.map(lambda x: 2 * x, decoder)
  assert doubled.temperature == 2 * decoder.temperature
  assert doubled.gen_length == 12
  # Rebuilt without a check: a tracer has no value.
  assert jax.tree.map(lambda x: 'anything', decoder).temperature == 'anything'


def compilations():
  """A jitted decode whose compilations can be counted."""

  @functools.partial(jax.jit, static_argnames='denoiser')
  def decode(denoiser, params, keys, canvas, decoder):
    return decoder(denoiser, params, keys, canvas, vocab=tiny.VOCAB)

  def run(decoder):
    decode(
      tiny.Table(gen_length=12),
      tiny.table_params(0, 12),
      tiny.row_keys(0, [0, 1]),
      tiny.canvas([[1, 2], [3]], 12),
      decoder,
    )
    return decode._cache_size()

  return run


@pytest.mark.parametrize(
  ('decoder', 'traced', 'static'),
  [
    (
      FIXED,
      {'num_steps': 12, 'temperature': 1.0, 'cfg_scale': 0.5},
      {'order': 'random', 'schedule': 'linear', 'suppress_eos': True},
    ),
    (
      GATED,
      {'threshold': 0.5, 'exponent': 0.5, 'temperature': 1.0},
      {'gate': 'bernoulli', 'min_commits': 1, 'stop_at_eos': True},
    ),
  ],
  ids=DECODERS,
)
def test_a_sweep_of_traced_fields_compiles_once(decoder, traced, static):
  run = compilations()
  change = lambda name, value: dataclasses.replace(decoder, **{name: value})
  assert run(decoder) == 1
  for name, value in traced.items():
    assert run(change(name, value)) == 1, name
  for number, (name, value) in enumerate(static.items(), 2):
    assert run(change(name, value)) == number, name
  # No guidance is another program, and not guidance of scale 0.
  scale = 1.0 if decoder.cfg_scale is None else 0.0
  assert run(change('cfg_scale', scale)) == len(static) + 2


@both
def test_traced_fields_decode_as_python_numbers(decoder):
  args = (
    tiny.Table(gen_length=12),
    tiny.table_params(0, 12),
    tiny.row_keys(0, [0, 1]),
    tiny.canvas([[1, 2], [3]], 12),
  )
  want = decoder(*args, vocab=tiny.VOCAB)
  traced = jax.tree.map(jnp.asarray, decoder)
  for got in (tiny.decode(*args, decoder), tiny.decode(*args, traced)):
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_array_equal(got.commit_step, want.commit_step)


SHARED = [
  ({'temperature': -0.1}, 'temperature -0.1'),
  ({'temperature': INF}, 'temperature inf'),
  ({'temperature': NAN}, 'temperature nan'),
  ({'cfg_scale': -1.0}, 'cfg_scale -1.0'),
  ({'cfg_scale': INF}, 'cfg_scale inf'),
  ({'gen_length': 13}, 'gen_length 13'),
  ({'gen_length': 0}, 'gen_length 0'),
  ({'block_length': 5}, 'block_length 5'),
  ({'block_length': 0}, 'block_length 0'),
]
OF_FIXED = [
  ({'num_steps': 7}, 'num_steps 7 .*multiple of the 3 blocks'),
  ({'num_steps': 0}, 'num_steps 0 '),
  ({'num_steps': -3}, 'num_steps -3 '),
  ({'block_length': 2, 'num_steps': 9}, 'num_steps 9 .* 6 blocks'),
]
OF_GATED = [
  ({'threshold': 1.01}, 'threshold 1.01'),
  ({'threshold': NAN}, 'threshold nan'),
  ({'threshold': -INF}, 'threshold -inf'),
  ({'exponent': -0.5}, 'exponent -0.5'),
  ({'exponent': INF}, 'exponent inf'),
  ({'min_commits': 0}, 'min_commits 0'),
  ({'top_p': 0.0}, 'top_p 0.0'),
  ({'top_p': 1.5}, 'top_p 1.5'),
]


@pytest.mark.parametrize(
  ('decoder', 'change', 'line'),
  [
    *[(decoder, *case) for decoder in DECODERS.values() for case in SHARED],
    *[(FIXED, *case) for case in OF_FIXED],
    *[(GATED, *case) for case in OF_GATED],
  ],
)
def test_bad_values_are_refused_with_their_field(decoder, change, line):
  with pytest.raises(ValueError, match=line) as caught:
    dataclasses.replace(decoder, **change)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('decoder', 'field'), [(FIXED, 'order'), (FIXED, 'schedule'), (GATED, 'gate')]
)
def test_unknown_choices_are_refused(decoder, field):
  # Type checking, on in the tests, refuses the same before the class does.
  with pytest.raises(Exception, match='best'):
    dataclasses.replace(decoder, **{field: 'best'})


@both
def test_cfg_scale_0_becomes_none(decoder):
  off = dataclasses.replace(decoder, cfg_scale=0.0)
  assert off.cfg_scale is None
  assert off == dataclasses.replace(decoder, cfg_scale=None)
  on = dataclasses.replace(decoder, cfg_scale=2.0)
  assert len(jax.tree.leaves(on)) == len(jax.tree.leaves(off)) + 1


def test_greedy_decoders_have_no_randomness():
  assert FIXED.greedy() == dataclasses.replace(FIXED, temperature=0.0)
  drawn = dataclasses.replace(
    GATED, gate='bernoulli', temperature=1.0, top_p=0.9
  )
  # The gate of training becomes that of testing, at its threshold.
  assert drawn.greedy() == gated.Gated(
    gen_length=12, block_length=4, threshold=0.75, exponent=2.0
  )


@pytest.mark.parametrize(
  ('size', 'block_length', 'num_steps'),
  [
    ((24,), 4, 12),  # two tokens a step
    ((4,), 4, 2),
    ((3,), 3, 1),
    ((16,), 4, 8),
    ((20,), 4, 10),
    ((12,), 4, 6),
    ((12, 12), 12, 6),
    ((12, 2), 2, 6),
    ((12, 1), 1, 12),  # a block has at least one step
    ((10, 5), 5, 4),  # 5 steps are shared by two blocks
  ],
)
def test_resized_keeps_the_tokens_per_step(size, block_length, num_steps):
  got = FIXED.resized(*size)
  assert got == dataclasses.replace(
    FIXED,
    gen_length=size[0],
    block_length=block_length,
    num_steps=num_steps,
  )
  assert GATED.resized(*size) == dataclasses.replace(
    GATED, gen_length=size[0], block_length=block_length
  )


@both
def test_resized_refuses_a_length_that_blocks_do_not_divide(decoder):
  with pytest.raises(ValueError, match='gen_length 14 .* block_length 4'):
    decoder.resized(14)
  with pytest.raises(ValueError, match='gen_length 12 .* block_length 0'):
    decoder.resized(12, 0)


def override(name='fixed', **changes):
  return decoding.apply_overrides(DECODERS, name, changes)


def test_apply_overrides_changes_the_named_decoder():
  assert override() == FIXED and override('gated') == GATED
  assert override(num_steps=12, order='margin') == dataclasses.replace(
    FIXED, num_steps=12, order='margin'
  )
  assert override('gated', threshold=0.5, top_p=0.9) == dataclasses.replace(
    GATED, threshold=0.5, top_p=0.9
  )
  assert override(cfg_scale=0.0).cfg_scale is None


def test_apply_overrides_resizes_before_other_changes():
  assert override(gen_length=24) == FIXED.resized(24)
  assert override(block_length=12) == FIXED.resized(12, 12)
  # 14 columns are no blocks of 4; they are of the 7 that come with them.
  assert override(gen_length=14, block_length=7) == FIXED.resized(14, 7)
  assert override(gen_length=24, num_steps=24) == dataclasses.replace(
    FIXED, gen_length=24, num_steps=24
  )


@pytest.mark.parametrize(
  ('name', 'changes', 'line'),
  [
    (
      'fixed',
      {'threshold': 0.5},
      '--threshold is not read by the fixed decoder; give --decode gated',
    ),
    (
      'gated',
      {'num_steps': 6},
      '--steps is not read by the gated decoder; give --decode fixed',
    ),
    ('gated', {'order': 'random'}, '--order is not read by the gated'),
    ('fixed', {'num_steps': 13}, '--steps 13 is more than the 12 tokens'),
    ('fixed', {'gen_length': 6, 'num_steps': 8}, '--steps 8 is more than'),
    ('fixed', {'num_steps': 7}, 'num_steps 7 '),
    ('gated', {'threshold': 2.0}, 'threshold 2.0'),
    ('gated', {'gen_length': 14}, 'gen_length 14'),
  ],
)
def test_apply_overrides_refuses_bad_values(name, changes, line):
  with pytest.raises(ValueError, match=line) as caught:
    override(name, **changes)
  assert '\n' not in str(caught.value)


def test_apply_overrides_refuses_a_missing_decoder():
  with pytest.raises(ValueError, match='--decode gated: '):
    decoding.apply_overrides({'fixed': FIXED}, 'gated', {})


def test_every_field_has_a_help_text():
  flags = decoding.flag_names()
  assert 'steps' in flags and 'num_steps' not in flags
  names = {field.name for field in flags.values()}
  for cls in decoding.DECODERS.values():
    assert {field.name for field in dataclasses.fields(cls)} <= names
  assert all(field.metadata['help'] for field in flags.values())


def test_custom_decoder_is_a_pytree_of_its_traced_fields():
  @fields.decoder
  class Own(block_decoder.BlockDecoder):
    gamma: types.Scalar = fields.traced('of it', default=0.25)
    kind: str = fields.static('of it', default='a')

  own = Own(gen_length=4, block_length=2)
  assert jax.tree.leaves(own) == [0.0, 0.25]
  other = dataclasses.replace(own, kind='b')
  assert jax.tree.structure(own) != jax.tree.structure(other)
