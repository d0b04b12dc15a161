"""Attention under a per-row mask, against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.models import attention, config
from dllm_jax.ops import schedules
from tests import tiny

X = jax.random.normal(jax.random.key(0), (3, 5, 16))
STRETCHED = config.RopeScaling(
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position=16,
)
MASK = jnp.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 0, 0]], bool)


def reads(mask, block=0):
  """Which columns of the same rows are read, and their positions."""
  position = schedules.positions(mask)
  return attention.visible(position, position, mask, block=block), position


def apply(cfg, x, mask):
  params = jax.tree.map(lambda p: p[0], tiny.params(cfg)['layers']['self_attn'])
  got, _ = attention.Attention(cfg).apply(
    {'params': params}, x, *reads(mask, cfg.attention_block)
  )
  return np.asarray(got), params


def test_visible_by_hand():
  mask = jnp.array([[False, True, True]])
  np.testing.assert_array_equal(reads(mask)[0][0], [[0, 1, 1]] * 3)
  np.testing.assert_array_equal(
    reads(mask, block=1)[0][0, 1:], [[0, 1, 0], [0, 1, 1]]
  )


def test_visible_to_queries_among_other_keys():
  keys = jnp.array([[0, 1, 2, 3, 4]]), jnp.array([[1, 1, 1, 0, 1]], bool)
  query = jnp.array([[2, 4]])
  np.testing.assert_array_equal(
    attention.visible(query, *keys, block=1)[0],
    [[1, 1, 1, 0, 0], [1, 1, 1, 0, 1]],
  )
  np.testing.assert_array_equal(
    attention.visible(query, *keys, block=0)[0], [[1, 1, 1, 0, 1]] * 2
  )


def test_visible_blocks_by_hand():
  """Blocks of 2 are counted from the first real token of each row."""
  mask = jnp.array([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]], bool)
  got, _ = reads(mask, block=2)
  np.testing.assert_array_equal(
    got[0],
    [
      [1, 1, 0, 0, 0],
      [1, 1, 0, 0, 0],
      [1, 1, 1, 1, 0],
      [1, 1, 1, 1, 0],
      [1, 1, 1, 1, 1],
    ],
  )
  np.testing.assert_array_equal(
    got[1, 1:],
    [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 1, 1, 1, 1]],
  )


def test_visible_blocks_of_any_size():
  for n in (5, 9):
    np.testing.assert_array_equal(reads(MASK, n)[0], reads(MASK, 0)[0])
  query = jnp.array([[3, 4]])
  keys = jnp.array([[0, 2, 3, 5, 6]]), jnp.ones((1, 5), bool)
  np.testing.assert_array_equal(
    attention.visible(query, *keys, block=3)[0], [[1, 1, 1, 1, 0]] * 2
  )
  np.testing.assert_array_equal(
    attention.visible(query, *keys, block=4)[0],
    [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
  )


def test_visible_to_streams_by_hand():
  """One column of padding, a block of two and a block of one."""
  mask = jnp.array([[0, 1, 1, 1]], bool)
  got = attention.visible_to_streams(schedules.positions(mask), mask, block=2)
  np.testing.assert_array_equal(
    got[0, 1:4],  # clean
    [
      [0, 1, 1, 0, 0, 0, 0, 0],
      [0, 1, 1, 0, 0, 0, 0, 0],
      [0, 1, 1, 1, 0, 0, 0, 0],
    ],
  )
  np.testing.assert_array_equal(
    got[0, 5:],  # noised
    [
      [0, 0, 0, 0, 0, 1, 1, 0],
      [0, 0, 0, 0, 0, 1, 1, 0],
      [0, 1, 1, 0, 0, 0, 0, 1],
    ],
  )


def rotate(x, position, theta):
  half = x.shape[-1] // 2
  z = x[..., :half] + 1j * x[..., half:]
  z = z * np.exp(1j * position * theta ** (-np.arange(half) / half))
  return np.concatenate([z.real, z.imag])


@pytest.mark.parametrize(
  'scaling',
  [None, STRETCHED],
  ids=['plain', 'stretched'],
)
def test_only_the_distance_of_columns_counts(scaling):
  """Queries and keys turn alike; stretched or not, positions matter."""
  cfg = dataclasses.replace(tiny.MODEL, rope_scaling=scaling, rope_theta=50.0)
  layers = tiny.params(cfg)['layers']
  params = jax.tree.map(lambda p: p[0], layers['self_attn'])
  allowed, position = reads(jnp.ones((3, 5), bool))
  layer = attention.Attention(cfg)
  at = lambda position: layer.apply({'params': params}, X, allowed, position)[0]
  np.testing.assert_allclose(at(position + 9), at(position), atol=1e-5)
  assert abs(at(2 * position) - at(position)).max() > 1e-3


@pytest.mark.parametrize('causal', [False, True])
def test_equals_a_loop_over_heads_and_queries(causal):
  cfg = dataclasses.replace(tiny.MODEL, causal=causal)
  got, params = apply(cfg, X, MASK)
  kernel = {k: np.float64(v['kernel']) for k, v in params.items()}
  for row in range(3):
    real = np.flatnonzero(MASK[row])
    x = np.float64(X[row, real])
    q, k, v = (x @ kernel[f'{n}_proj'] for n in 'qkv')
    out = np.zeros((len(real), 16))
    for head in range(4):
      own, shared = slice(4 * head, 4 * head + 4), 4 * (head // 2)
      of = slice(shared, shared + 4)
      for i in range(len(real)):
        last = i + 1 if causal else len(real)
        turned = rotate(q[i, own], i, cfg.rope_theta)
        score = [
          turned @ rotate(k[j, of], j, cfg.rope_theta) / 2.0
          for j in range(last)
        ]
        weight = np.exp(tiny.log_softmax(score))
        out[i, own] = weight @ v[:last, of]
    np.testing.assert_allclose(
      got[row, real], out @ kernel['o_proj'], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('columns', [5, 4])  # cuDNN takes an even number
def test_what_is_given_to_cudnn(monkeypatch, causal, columns):
  """Outputs and gradients, with XLA in its place; the record wants 16 bits."""
  cfg = dataclasses.replace(
    tiny.MODEL, causal=causal, head_dim=8, dtype='bfloat16'
  )
  x, mask = X[:, :columns], MASK[:, :columns]
  params = jax.tree.map(lambda p: p[0], tiny.params(cfg)['layers']['self_attn'])
  fused = jax.nn.dot_product_attention
  calls = []

  def elsewhere(q, *args, implementation, **kwargs):
    assert q.shape[1] % 2 == 0
    calls.append(implementation)
    return fused(q, *args, **kwargs)

  def loss(params, x, who):
    made, _ = attention.Attention(
      dataclasses.replace(cfg, attention=who)
    ).apply({'params': params}, x, *reads(mask, causal))
    return jnp.sum(jnp.where(mask[..., None], made, 0.0) ** 2)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', elsewhere)
  both = jax.value_and_grad(loss, argnums=(0, 1))
  want = both(params, x, 'cudnn')
  assert not calls  # there is none here, and XLA does it
  monkeypatch.setattr(attention, 'has_cudnn', lambda: True)
  got = both(params, x, 'cudnn')
  assert calls == ['cudnn']
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    got,
    want,
  )


def test_padding_does_not_reach_real_columns():
  noisy = jnp.where(MASK[..., None], X, 1e3)
  clean, _ = apply(tiny.MODEL, X, MASK)
  got, _ = apply(tiny.MODEL, noisy, MASK)
  np.testing.assert_array_equal(got[np.asarray(MASK)], clean[np.asarray(MASK)])


def test_a_row_without_keys_is_finite():
  none = jnp.zeros_like(MASK)
  got, params = apply(tiny.MODEL, X, none)
  assert np.isfinite(got).all()

  def loss(x):
    made, _ = attention.Attention(tiny.MODEL).apply(
      {'params': params}, x, *reads(none)
    )
    return made.sum()

  assert np.isfinite(jax.grad(loss)(X)).all()


def test_query_and_key_norms_act_per_head():
  cfg = dataclasses.replace(tiny.MODEL, qk_norm=True)
  got, params = apply(cfg, X, MASK)
  assert params['q_norm']['weight'].shape == (4,)
  scaled = jax.tree.map(np.copy, params)
  # The norm takes away the size of the queries.
  scaled['q_proj']['kernel'] *= 8.0
  again, _ = attention.Attention(cfg).apply({'params': scaled}, X, *reads(MASK))
  real = np.asarray(MASK)
  np.testing.assert_allclose(
    np.asarray(again)[real], got[real], rtol=1e-3, atol=1e-4
  )


@pytest.mark.parametrize('split', [1, 3])
def test_keys_in_two_arrays_are_as_in_one(split):
  """Queries of the last columns, the keys before them from an earlier call."""
  cfg = dataclasses.replace(tiny.MODEL, causal=True)
  want, params = apply(cfg, X, MASK)
  model = attention.Attention(cfg)
  allowed, position = reads(MASK, block=1)
  _, past = model.apply(
    {'params': params}, X[:, :split], *reads(MASK[:, :split], block=1)
  )
  got, new = model.apply(
    {'params': params},
    X[:, split:],
    allowed[:, split:],
    position[:, split:],
    past,
  )
  assert new.k.shape == (3, 5 - split, 2, 4)
  real = np.asarray(MASK)[:, split:]
  np.testing.assert_allclose(
    np.asarray(got)[real], want[:, split:][real], rtol=1e-5, atol=1e-6
  )
