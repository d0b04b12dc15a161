"""Masked reductions: numbers by hand, and nothing leaks from masked entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_jax.ops import masked

X = jnp.array([[1.0, 2.0, 3.0], [-4.0, 5.0, 6.0]])
KEEP = jnp.array([[True, False, True], [True, False, False]])


def test_by_hand():
  assert masked.total(X, KEEP) == 0.0  # 1 + 3 - 4
  assert masked.mean(X, KEEP | (X == 5.0)) == 1.25  # 5 / 4
  assert masked.maximum(X, KEEP) == 3.0
  assert masked.maximum(-X, KEEP) == 4.0
  negative = jnp.array([-7.0, -2.0])
  assert masked.maximum(negative, jnp.array([True, False])) == -7.0


@pytest.mark.parametrize('reduce', [masked.total, masked.mean, masked.maximum])
def test_nothing_counts(reduce):
  none = jnp.zeros_like(KEEP)
  value, grad = jax.value_and_grad(reduce)(X * jnp.nan, none)
  assert value == 0.0
  np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize('poison', [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize('reduce', [masked.total, masked.mean, masked.maximum])
def test_masked_entries_reach_neither_value_nor_gradient(reduce, poison):
  bad = jnp.where(KEEP, X, poison)
  value, grad = jax.value_and_grad(reduce)(X, KEEP)
  bad_value, bad_grad = jax.value_and_grad(reduce)(bad, KEEP)
  assert value == bad_value
  np.testing.assert_array_equal(grad, bad_grad)
  np.testing.assert_array_equal(np.asarray(bad_grad)[~np.asarray(KEEP)], 0.0)


def test_segment_sum():
  x = jnp.array([1.0, 2.0, jnp.nan, 8.0, 16.0])
  segment = jnp.array([2, 0, 0, 2, 0])
  counted = jnp.array([True, True, False, True, True])
  got = masked.segment_sum(x, segment, counted, num_segments=4)
  np.testing.assert_array_equal(got, [18.0, 0.0, 9.0, 0.0])
  got = masked.segment_min(x, segment, counted, num_segments=4)
  np.testing.assert_array_equal(got, [2.0, 0.0, 1.0, 0.0])


def test_through_first_by_hand():
  tokens = jnp.array([[9, 1, 9], [1, 2, 3], [1, 9, 4], [1, 2, 9]])
  np.testing.assert_array_equal(
    masked.through_first(tokens, 9),
    [[1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 1, 1]],
  )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_through_first_is_a_prefix_with_one_stop(row):
  keep = np.asarray(masked.through_first(jnp.array([row]), 0))[0]
  end = row.index(0) + 1 if 0 in row else 6
  np.testing.assert_array_equal(keep, np.arange(6) < end)
