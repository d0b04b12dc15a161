"""Compressed weights: roundings by hand, a NumPy twin, the controls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_jax.ops import quantize

F32 = jnp.dtype('float32')
SCALES = (quantize.CHANNEL_SCALE, quantize.GROUP_SCALE)
coded = pytest.mark.parametrize('how', ['int8', 'int4'])


def random_kernel(shape, seed=0, dtype=np.float32):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def parts(leaves):
  """(whole numbers, scales) of a compressed kernel, in float64."""
  (name,) = leaves.keys() - {'kernel'}
  assert name in SCALES
  # NumPy cannot cast int4 to float64 at once.
  whole = np.asarray(leaves['kernel'].astype(jnp.int32), np.float64)
  return whole, np.asarray(leaves[name], np.float64)


def dequantised(leaves):
  whole, scale = parts(leaves)
  return whole * np.repeat(scale, whole.shape[-2] // scale.shape[-2], -2)


def test_int8_by_hand():
  kernel = jnp.array([[1.27, 0.0, -4.0], [-0.634, 0.0, 1.0], [0.005, 0.0, 3.0]])
  got = quantize.int8(kernel)
  # -63.4 and 0.5 (ties go to even); a column of zeros; 31.75 and 95.25.
  want = [[127, 0, -127], [-63, 0, 32], [0, 0, 95]]
  np.testing.assert_array_equal(got['kernel'], want)
  assert got['kernel'].dtype == jnp.int8
  assert set(got) == {'kernel', 'scale'}
  np.testing.assert_allclose(
    got['scale'], [[0.01, 1 / 127, 4 / 127]], rtol=1e-6
  )


def test_int4_by_hand():
  # Of 6 input features a group has 2: three groups, a scale a column and group.
  kernel = jnp.array(
    [[7.0, 0.0], [2.6, 0.0], [-0.7, 1.4], [0.26, -0.5], [0.0, 70.0], [0.0, 4.0]]
  )
  got = quantize.int4(kernel)
  want = [[7, 0], [3, 0], [-7, 7], [3, -2], [0, 7], [0, 0]]
  np.testing.assert_array_equal(got['kernel'].astype(jnp.int32), want)
  assert got['kernel'].dtype == jnp.int4
  assert set(got) == {'kernel', 'group_scale'}
  np.testing.assert_allclose(
    got['group_scale'], [[1.0, 1 / 7], [0.1, 0.2], [1 / 7, 10.0]], rtol=1e-6
  )


@pytest.mark.parametrize(
  ('size', 'group'),
  [(64, 64), (128, 64), (32, 32), (96, 32), (320, 64), (24, 8), (6, 2), (5, 1)],
)
def test_group_is_the_largest_power_of_2_that_divides_up_to_64(size, group):
  kernel = random_kernel((size, 3))
  scale = quantize.int4(kernel)['group_scale']
  most = np.abs(kernel).reshape(size // group, group, 3).max(1)
  np.testing.assert_allclose(scale, most / 7, rtol=1e-6)


@coded
def test_layers_of_a_stack_are_compressed_one_by_one(how):
  compress = quantize.COMPRESSIONS[how]
  stack = random_kernel((3, 96, 5))
  stack *= jnp.array([1.0, 100.0, 0.01]).reshape(3, 1, 1)
  whole = compress(stack)
  for i in range(3):
    alone = compress(stack[i])
    for name, leaf in alone.items():
      np.testing.assert_array_equal(whole[name][i], leaf)


@coded
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_no_weight_is_off_by_more_than_half_a_scale(how, dtype):
  kernel = random_kernel((96, 40), dtype=dtype)
  leaves = quantize.COMPRESSIONS[how](kernel)
  whole, scale = parts(leaves)
  largest = {'int8': 127, 'int4': 7}[how]
  groups = np.abs(whole).reshape(len(scale), -1, 40)
  np.testing.assert_array_equal(groups.max(1), np.full(scale.shape, largest))
  assert leaves[SCALES[how == 'int4']].dtype == jnp.float32
  off = np.abs(dequantised(leaves) - np.asarray(kernel, np.float64))
  bound = np.repeat(scale, 96 // len(scale), 0) / 2
  assert (off <= bound * (1 + 1e-5)).all()
  assert off.max() > 0.9 * bound.min()  # it does round


@coded
def test_product_equals_the_dequantised_kernel_in_float64(how):
  leaves = quantize.COMPRESSIONS[how](random_kernel((96, 40)))
  x = random_kernel((2, 3, 96), seed=1)
  got = quantize.product(
    x, leaves['kernel'], leaves[SCALES[how == 'int4']], F32
  )
  want = np.asarray(x, np.float64) @ dequantised(leaves)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@coded
def test_product_of_narrow_inputs_is_near_and_of_the_wanted_type(how):
  leaves = quantize.COMPRESSIONS[how](random_kernel((96, 40)))
  x = random_kernel((4, 96), seed=1, dtype=jnp.bfloat16)
  scale = leaves[SCALES[how == 'int4']]
  want = np.asarray(x, np.float64) @ dequantised(leaves)
  for dtype in (jnp.dtype('bfloat16'), F32):
    got = quantize.product(x, leaves['kernel'], scale, dtype)
    assert got.dtype == dtype
    np.testing.assert_allclose(
      np.asarray(got, np.float64), want, rtol=0.02, atol=0.02 * want.std()
    )


def test_product_without_a_scale_is_the_plain_one():
  x, kernel = random_kernel((4, 6)), random_kernel((6, 3), seed=1)
  got = quantize.product(x, kernel, None, F32)
  np.testing.assert_allclose(
    got, np.asarray(x, np.float64) @ np.asarray(kernel), rtol=1e-5
  )


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_gradients_of_a_product_are_those_of_a_plain_one(dtype):
  x = random_kernel((2, 3, 5, 8), dtype=dtype)
  kernel = random_kernel((8, 6), seed=1, dtype=dtype)
  dy = random_kernel((2, 3, 5, 6), seed=2)
  plain = lambda x, w: jnp.dot(x, w, preferred_element_type=F32)
  ours = lambda x, w: quantize.product(x, w, None, F32)
  got, want = (jax.vjp(f, x, kernel)[1](dy) for f in (ours, plain))
  exact = [np.asarray(a, np.float64) for a in (x, kernel, dy)]
  by_hand = np.einsum('abci,abco->io', exact[0], exact[2])
  tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
  np.testing.assert_allclose(
    np.asarray(got[1], np.float64), by_hand, rtol=tolerance, atol=tolerance
  )
  for a, b in zip(got, want, strict=True):
    assert a.dtype == b.dtype == dtype
    np.testing.assert_allclose(
      np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=tolerance
    )


@settings(max_examples=30, deadline=None)
@given(
  seed=st.integers(0, 2**31 - 1),
  power=st.integers(-60, 60),
  how=st.sampled_from(['int8', 'int4']),
)
def test_a_power_of_2_scales_the_scales_alone(seed, power, how):
  kernel = random_kernel((24, 4), seed)
  compress = quantize.COMPRESSIONS[how]
  one, other = parts(compress(kernel)), parts(compress(kernel * 2.0**power))
  np.testing.assert_array_equal(other[0], one[0])
  np.testing.assert_array_equal(other[1], one[1] * 2.0**power)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_controls(dtype):
  kernel = 3 * random_kernel((4, 64, 64), dtype=dtype)
  make = lambda how: quantize.COMPRESSIONS[how](kernel)
  for how in ('none', 'noise', 'zeros'):
    (got,) = make(how).values()
    assert got.dtype == dtype and got.shape == kernel.shape
  np.testing.assert_array_equal(make('none')['kernel'], kernel)
  assert not make('zeros')['kernel'].any()
  noise = np.asarray(make('noise')['kernel'], np.float64).ravel()
  own = np.asarray(kernel, np.float64).ravel()
  # 16,384 numbers: the standard deviation is known to 1 in 180.
  assert noise.std() == pytest.approx(own.std(), rel=0.03)
  assert abs(noise.mean()) < 0.03 * own.std()
  assert abs(np.corrcoef(noise, own)[0, 1]) < 0.03


def test_a_product_in_float16_does_not_overflow():
  kernel = np.full((4096, 3), 0.5, np.float32)
  small = quantize.int8(jnp.asarray(kernel))
  x = jnp.ones((2, 4096), jnp.float16)
  y = quantize.product(x, small['kernel'], small['scale'], jnp.dtype('float16'))
  np.testing.assert_allclose(y, 2048.0, rtol=2e-3)
