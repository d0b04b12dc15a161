"""Masked reductions: hand-computed, and independent of excluded entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.ops import masked

X = jnp.array([[1.0, 2.0, 3.0], [-4.0, 5.0, 6.0]])
KEEP = jnp.array([[True, False, True], [True, False, False]])


def test_total_and_maximum_by_hand():
  assert masked.total(X, KEEP) == 0.0  # 1 + 3 - 4
  assert masked.maximum(X, KEEP) == 3.0
  assert masked.maximum(-X, KEEP) == 4.0
  negative = jnp.array([-7.0, -2.0])
  assert masked.maximum(negative, jnp.array([True, False])) == -7.0


@pytest.mark.parametrize('reduce', [masked.total, masked.maximum])
def test_empty_mask_gives_0_and_no_gradient(reduce):
  none = jnp.zeros_like(KEEP)
  value, grad = jax.value_and_grad(reduce)(X * jnp.nan, none)
  assert value == 0.0
  np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize('poison', [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize('reduce', [masked.total, masked.maximum])
def test_masked_entries_reach_neither_value_nor_gradient(reduce, poison):
  bad = jnp.where(KEEP, X, poison)
  value, grad = jax.value_and_grad(reduce)(X, KEEP)
  bad_value, bad_grad = jax.value_and_grad(reduce)(bad, KEEP)
  assert value == bad_value
  np.testing.assert_array_equal(grad, bad_grad)
  np.testing.assert_array_equal(np.asarray(bad_grad)[~np.asarray(KEEP)], 0.0)


def test_segment_sum_and_min_by_hand():
  x = jnp.array([1.0, 2.0, jnp.nan, 8.0, 16.0])
  segment = jnp.array([2, 0, 0, 2, 0])
  counted = jnp.array([True, True, False, True, True])
  got = masked.segment_sum(x, segment, counted, num_segments=4)
  np.testing.assert_array_equal(got, [18.0, 0.0, 9.0, 0.0])
  got = masked.segment_min(x, segment, counted, num_segments=4)
  np.testing.assert_array_equal(got, [2.0, 0.0, 1.0, 0.0])


def test_group_sum_and_std_by_hand():
  x = jnp.array([1.0, 5.0, 3.0, 2.0, 7.0])
  group = jnp.array([0, 1, 0, 0, 1])
  members = jnp.array([True, True, True, False, True])
  sums = masked.group_sum(x, group, members, num_groups=3)
  np.testing.assert_array_equal(sums, [4.0, 12.0, 4.0, 4.0, 12.0])
  std = masked.group_std(x, group, members, num_groups=3)
  np.testing.assert_allclose(std, [np.sqrt(2), np.sqrt(2), 0.0], rtol=1e-6)
  alone = masked.group_std(x, group, x == 5.0, num_groups=2)
  np.testing.assert_array_equal(alone, [0.0, 0.0])
