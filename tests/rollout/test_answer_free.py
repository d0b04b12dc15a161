"""Answer-free rollouts: rows on any mesh, any batch, any place."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.decoding import fixed, guidance
from dllm_jax.rollout import answer_free, prompts
from tests import tiny

L = 12
TABLE = tiny.Table(gen_length=L)
PARAMS = tiny.table_params(0, L)
TEXTS = tiny.random_prompts(0, [3, 5, 1, 4, 2, 5, 5, 1])
CFG = answer_free.RolloutConfig(
  num_prompts=4,
  group_size=2,
  max_prompt_length=5,
  gen_length=L,
  block_length=4,
  num_steps=6,
  temperature=1.0,
)


def sample(rows, *, data=1, row_id=None, seed=0, denoiser=TABLE, params=PARAMS):
  """Rows by their place in TEXTS, which is their number too."""
  ids, mask = tiny.pad([TEXTS[i] for i in rows], 5)
  return answer_free.sample(
    denoiser,
    params,
    jax.random.key(seed),
    ids,
    mask,
    np.int32(rows if row_id is None else row_id),
    (np.int32(2), np.float32(1.0)),
    mesh=tiny.context_of(denoiser, data=data).mesh,
    vocab=tiny.VOCAB,
    decoder=CFG.decoder(),
  )


def same(a, b):
  for name in ('tokens', 'commit_step', 'num_steps'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  np.testing.assert_allclose(a.logp, b.logp, rtol=1e-4, atol=1e-5)


def test_any_number_of_devices():
  one = sample(range(8))
  assert len(np.unique(one.tokens, axis=0)) == 8
  for data in (2, 8):
    got = sample(range(8), data=data)
    assert len(got.tokens.sharding.device_set) == data
    same(got, one)


def test_transformer_on_eight_devices():
  args = {'denoiser': tiny.DENOISER, 'params': tiny.params()}
  same(sample(range(8), data=8, **args), sample(range(8), **args))


def test_equals_decode():
  ids, mask = tiny.pad(TEXTS, 5)
  blank = jnp.full((8, L), tiny.MASK, jnp.int32)
  want = fixed.decode(
    TABLE,
    PARAMS,
    tiny.row_keys(0, np.arange(8)),
    prompts.canvas(jnp.asarray(ids), jnp.asarray(mask), blank),
    jnp.int32(2),
    jnp.float32(1.0),
    vocab=tiny.VOCAB,
    cfg=CFG.fixed(),
  )
  same(sample(range(8)), want)


def test_rows_are_their_number_and_prompt():
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
  """The first three rows, padded to eight."""
  return answer_free.rollout(
    tiny.context_of(TABLE),
    PARAMS,
    jax.random.key(0),
    prompts.pad_left(TEXTS[:3], 5, tiny.EOS),
    np.arange(3, dtype=np.int32),
    dataclasses.replace(CFG, **changes),
    num_rows=8,
  )


def test_rollout_pads_rows_and_drops_them():
  got = rollout()
  assert all(isinstance(x, np.ndarray) for x in got)
  same(got, jax.tree.map(lambda x: x[:3], sample(range(8))))


def test_rows_do_not_depend_on_the_width():
  def at(width):
    return answer_free.rollout(
      tiny.context_of(tiny.DENOISER),
      tiny.params(),
      jax.random.key(0),
      prompts.pad_left(TEXTS[:3], width, tiny.EOS),
      np.arange(3, dtype=np.int32),
      CFG,
      num_rows=4,
    )

  same(at(5), at(32))


def test_guidance_is_that_of_the_guided_denoiser():
  same(rollout(cfg_scale=0.0), rollout())
  denoiser, params = guidance.guided(
    TABLE, PARAMS, 1.5, gen_length=L, vocab=tiny.VOCAB
  )
  want = sample(range(3), denoiser=denoiser, params=params)
  same(rollout(cfg_scale=1.5), want)
  assert (np.asarray(want.tokens) != rollout().tokens).any()


def test_the_linear_schedule_by_hand():
  # floor(999 * 12 / 3000), floor(999 * 9 / 2001), the rest.
  found = rollout(block_length=L, num_steps=3, schedule='linear')
  counts = [np.bincount(row).tolist() for row in found.commit_step]
  assert counts == [[3, 4, 5]] * 3
  even = rollout(block_length=L, num_steps=3)
  assert [np.bincount(r).tolist() for r in even.commit_step] == [[4, 4, 4]] * 3
  cfg = dataclasses.replace(CFG, block_length=L, num_steps=3)
  assert cfg.largest_commit() == 4
  assert dataclasses.replace(cfg, schedule='linear').largest_commit() >= 5


@pytest.mark.parametrize(
  'wrong',
  [
    {'num_prompts': 0},
    {'group_size': 0},
    {'num_steps': 0},
    {'temperature': -1.0},
    {'cfg_scale': -1.0},
    {'cfg_scale': float('inf')},
    {'block_length': 5},
  ],
)
def test_config_refuses(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    dataclasses.replace(CFG, **wrong)
