"""Answer-free rollouts: rows on any mesh, any batch, any place."""

import dataclasses

import jax
import numpy as np

from dllm_jax.decoding import fixed, guidance
from dllm_jax.ops import streams
from dllm_jax.rollout import answer_free, batch
from tests import tiny

L = 12
TABLE = tiny.Table(gen_length=L)
PARAMS = tiny.table_params(0, L)
TEXTS = tiny.random_prompts(0, [3, 5, 1, 4, 2, 5, 5, 1])
DECODER = fixed.Fixed(
  gen_length=L, block_length=4, num_steps=6, temperature=1.0
)


def sample(
  rows,
  *,
  data=1,
  row_id=None,
  seed=0,
  width=5,
  denoiser=TABLE,
  params=PARAMS,
  decoder=DECODER,
):
  """Rows by their place in TEXTS, which is their number too."""
  row_id = rows if row_id is None else row_id
  return answer_free.sample(
    denoiser,
    params,
    jax.random.key(seed),
    tiny.row_prompts([TEXTS[i] for i in rows], width, row_id),
    decoder,
    mesh=tiny.context_of(denoiser, data=data).mesh,
    vocab=tiny.VOCAB,
  )


def same(a, b):
  for name in ('tokens', 'commit_step', 'num_steps'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  np.testing.assert_allclose(a.logp, b.logp, rtol=1e-4, atol=1e-5)


def test_sample_is_the_same_on_any_number_of_devices():
  one = sample(range(8))
  assert len(np.unique(one.tokens, axis=0)) == 8
  for data in (2, 8):
    got = sample(range(8), data=data)
    assert len(got.tokens.sharding.device_set) == data
    same(got, one)


def test_transformer_is_the_same_on_eight_devices():
  args = {'denoiser': tiny.DENOISER, 'params': tiny.params()}
  same(sample(range(8), data=8, **args), sample(range(8), **args))


def test_sample_equals_the_decoder_on_each_canvas():
  want = DECODER(
    TABLE,
    PARAMS,
    tiny.row_keys(0, np.arange(8)),
    tiny.canvas(TEXTS, L, width=5),
    vocab=tiny.VOCAB,
  )
  same(sample(range(8)), want)


def test_rows_depend_only_on_row_id_and_prompt():
  whole = sample(range(8))
  order = [6, 1, 3, 0, 7, 2, 5, 4]
  mixed = sample(order)
  same(mixed, jax.tree.map(lambda x: x[np.array(order)], whole))
  alone = sample([3])
  same(alone, jax.tree.map(lambda x: x[3:4], whole))
  for other in (
    sample(range(8), seed=1),
    sample(range(8), row_id=range(8, 16)),
  ):
    differs = np.asarray(other.tokens) != np.asarray(whole.tokens)
    assert differs.any(1).all()


def rollout(**changes):
  """The first three rows, padded to eight on a mesh of eight devices."""
  ctx = tiny.context_of(TABLE, data=8)
  return answer_free.rollout(
    ctx,
    PARAMS,
    jax.random.key(0),
    batch.take(tiny.row_prompts(TEXTS, 5, range(8)), np.arange(3), 8, ctx.mesh),
    dataclasses.replace(DECODER, **changes),
  )


def first(trajectory, rows=3):
  """The first rows, on the host."""
  return jax.tree.map(lambda x: np.asarray(x)[:rows], trajectory)


def test_padding_repeats_the_last_row_on_the_devices():
  got = rollout()
  leaves = jax.tree.leaves(got)
  assert all(len(x.sharding.device_set) == 8 for x in leaves)
  same(first(got), first(sample(range(8))))
  padding = jax.tree.map(lambda x: np.asarray(x)[3:], got)
  same(padding, jax.tree.map(lambda x: np.asarray(x)[[2] * 5], got))


def test_rows_do_not_depend_on_prompt_width():
  at = lambda width: sample(
    range(3), width=width, denoiser=tiny.DENOISER, params=tiny.params()
  )
  same(at(5), at(32))


def test_guidance_equals_the_guided_denoiser():
  same(first(rollout(cfg_scale=0.0)), first(rollout()))
  denoiser, params = guidance.guided(
    TABLE, PARAMS, 1.5, gen_length=L, vocab=tiny.VOCAB
  )
  want = sample(range(3), denoiser=denoiser, params=params)
  same(first(rollout(cfg_scale=1.5)), want)
  assert (np.asarray(want.tokens) != first(rollout()).tokens).any()


def test_linear_schedule_by_hand():
  # floor(999 * 12 / 3000), floor(999 * 9 / 2001), the rest.
  one_block = {'block_length': L, 'num_steps': 3}
  counts = lambda **how: [
    np.bincount(row).tolist()
    for row in first(rollout(**one_block, **how)).commit_step
  ]
  assert counts(schedule='linear') == [[3, 4, 5]] * 3
  assert counts() == [[4, 4, 4]] * 3
  decoder = dataclasses.replace(DECODER, **one_block)
  assert decoder.largest_commit() == 4
  linear = dataclasses.replace(decoder, schedule='linear')
  assert linear.largest_commit() >= 5


def test_groups_samples_every_row_group_size_times():
  rows = [{'id': i, 'question': q} for i, q in enumerate(['1 2', '7'])]
  ctx = tiny.context_of(TABLE)
  cfg = batch.RolloutConfig(
    num_prompts=2, group_size=2, max_prompt_length=8, decoder=DECODER
  )
  got = answer_free.groups(ctx, PARAMS, rows, 3, cfg)
  np.testing.assert_array_equal(got.requests.prompt_id, [0, 0, 1, 1])
  np.testing.assert_array_equal(got.requests.group_id, [0, 0, 1, 1])
  np.testing.assert_array_equal(got.requests.prompts.row_id, range(4))
  encoded = ctx.encode(rows)
  np.testing.assert_array_equal(
    got.requests.prompts.ids, encoded.ids[[0, 0, 1, 1]]
  )
  np.testing.assert_array_equal(
    got.requests.maskable, encoded.maskable[[0, 0, 1, 1]]
  )
  key = streams.step_key(ctx.root, 'rollout', 3)
  want = answer_free.rollout(ctx, PARAMS, key, got.requests.prompts, DECODER)
  same(got.trajectory, want)
  assert got.guided is None
