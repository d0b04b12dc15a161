"""The cache by hand: what is written where, and what counts."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from dllm_jax.models import cache
from tests import tiny

CFG = dataclasses.replace(tiny.MODEL, num_kv_heads=1, head_dim=2)


def numbered(*rows):
  """Keys of two layers that hold the numbers, and values ten times those."""
  k = jnp.asarray(rows, jnp.float32)[None, :, :, None, None]
  k = jnp.broadcast_to(k, (2, *k.shape[1:3], 1, 2))
  return cache.KeyValues(k, 10 * k)


def held(kept):
  """The numbers in the slots of the last layer that count, by row."""
  _, counts = cache.slots(kept)
  for leaf, scale in zip(kept.kv, (1, 10), strict=True):
    np.testing.assert_array_equal(leaf[0], leaf[1])
    numbers = np.asarray(leaf)[1, :, :, 0, 0] / scale
  return [r[c].tolist() for r, c in zip(numbers, counts, strict=True)]


def test_init_is_empty_and_of_the_model_shape():
  empty = cache.init(CFG, 3, 4)
  assert empty.kv.k.shape == empty.kv.v.shape == (2, 3, 4, 1, 2)
  assert held(empty) == [[], [], []]


def test_append_writes_real_columns_at_each_rows_length():
  kept = cache.append(
    cache.init(CFG, 2, 5),
    numbered([1, 2, 3], [4, 5, 6]),
    jnp.array([[0, 1, 1], [1, 0, 0]], bool),
  )
  assert kept.length.tolist() == [2, 1]
  assert held(kept) == [[2, 3], [4]]
  kept = cache.append(
    kept, numbered([7, 8], [9, 10]), jnp.array([[1, 1], [0, 1]], bool)
  )
  assert held(kept) == [[2, 3, 7, 8], [4, 10]]
  # Columns that are not real are written nowhere, stale slots included.
  assert np.asarray(kept.kv.k)[0, 1, 2:].max() == 0.0


def test_append_never_writes_over_earlier_slots():
  full = cache.append(
    cache.init(CFG, 1, 2), numbered([1, 2]), jnp.ones((1, 2), bool)
  )
  more = cache.append(full, numbered([3, 4]), jnp.ones((1, 2), bool))
  assert held(more) == [[1, 2]]


def test_truncate_is_a_smaller_length_alone():
  kept = cache.append(
    cache.init(CFG, 2, 4),
    numbered([1, 2, 3], [4, 5, 6]),
    jnp.ones((2, 3), bool),
  )
  back = cache.truncate(kept, jnp.array([1, 9]))
  assert back.kv is kept.kv
  assert held(back) == [[1], [4, 5, 6]]
  again = cache.append(back, numbered([7], [8]), jnp.ones((2, 1), bool))
  assert held(again) == [[1, 7], [4, 5, 6, 8]]
