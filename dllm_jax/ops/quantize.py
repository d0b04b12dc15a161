"""Weights in fewer bits, and substitutes that test what depends on them.

Symmetric and weight-only: w ~ scale * q with whole q. Dims: i input features,
o output features, g groups of input features.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import ad_checkpoint
from jaxtyping import Array, Float

from dllm_jax import types

# Name of the scales beside a kernel. They have a leading axis of groups, which
# is 1 where a scale belongs to a whole output channel.
CHANNEL_SCALE = 'scale'
GROUP_SCALE = 'group_scale'
PRODUCT = 'product'  # what `jax.checkpoint` knows products by
GROUP = 64  # input features that share a scale, at most


def int8(kernel: Float[Array, '*n i o']) -> dict[str, Array]:
  """One scale for each output channel: scale = max |w| / 127."""
  quantized, scale = _round(kernel, 127, jnp.int8)
  return {'kernel': quantized, CHANNEL_SCALE: scale}


def int4(kernel: Float[Array, '*n i o']) -> dict[str, Array]:
  """One scale for each output channel and group: scale = max |w| / 7.

  A group has 64 input features, or the largest power of 2 up to it that divides
  their number.
  """
  *lead, size, features = kernel.shape
  group = math.gcd(GROUP, size)
  grouped = kernel.reshape(*lead, size // group, group, features)
  quantized, scale = _round(grouped, 7, jnp.int4)
  return {
    'kernel': quantized.reshape(kernel.shape),
    GROUP_SCALE: scale[..., 0, :],
  }


def _round(kernel, largest, dtype):
  """Whole numbers up to `largest`, and the scale of each output channel."""
  wide = kernel.astype(jnp.float32)
  most = jnp.max(jnp.abs(wide), axis=-2, keepdims=True)
  scale = jnp.where(most > 0, most, 1.0) / largest
  return jnp.round(wide / scale).astype(dtype), scale


def noise(kernel: Float[Array, '*n i o']) -> dict[str, Array]:
  """Gaussian numbers of the kernel's standard deviation, and no more of it."""
  draw = jax.random.normal(jax.random.key(kernel.shape[-1]), kernel.shape)
  return {'kernel': (jnp.std(kernel) * draw).astype(kernel.dtype)}


# By the value of `--compression`: a kernel -> the leaves that replace it.
COMPRESSIONS: dict[str, Callable[[Array], dict[str, Array]]] = {
  'int8': int8,
  'int4': int4,
  'none': lambda kernel: {'kernel': kernel},
  'noise': noise,
  'zeros': lambda kernel: {'kernel': jnp.zeros_like(kernel)},
}


@functools.partial(jax.jit, static_argnames=('how',))
def compress(layers: types.Params, how: str) -> types.Params:
  """Layers with every kernel replaced as `COMPRESSIONS[how]` says."""
  made = {}
  for path, leaf in traverse_util.flatten_dict(layers).items():
    if path[-1] == 'kernel':
      leaves = COMPRESSIONS[how](leaf)
      made |= {(*path[:-1], name): value for name, value in leaves.items()}
    else:
      made[path] = leaf
  return traverse_util.unflatten_dict(made)


def product(
  x: Float[Array, '*n i'],
  kernel: Array,
  scale: Float[Array, 'g o'] | None,
  dtype: jnp.dtype,
) -> Float[Array, '*n o']:
  """x (scale * kernel); a kernel of whole numbers is widened where it is used.

  Args:
    x: the input.
    kernel: floating-point weights, or whole numbers with a `scale`.
    scale: of the output channels of each of the g groups of input features.
    dtype: of the result and of its accumulation.
  """
  wide = kernel.astype(x.dtype)
  if scale is None:
    return ad_checkpoint.checkpoint_name(_dot(x, wide, dtype), PRODUCT)
  # In float16 the sum of whole numbers would overflow before it is scaled.
  if scale.shape[0] == 1 and x.dtype != jnp.float16:
    y = _dot(x, wide, dtype)
    return y * jnp.broadcast_to(scale[0], y.shape).astype(y.dtype)
  grouped = wide.reshape(scale.shape[0], -1, scale.shape[1])
  grouped *= scale[:, None].astype(x.dtype)
  return _dot(x, grouped.reshape(kernel.shape), dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dot(x, kernel, dtype):
  """x W, whose gradient dW = x^T dy is a product of two matrices.

  Over several axes of rows XLA would transpose x and dy in memory first.
  """
  return jnp.dot(x, kernel, preferred_element_type=dtype)


def _dot_forward(x, kernel, dtype):
  return _dot(x, kernel, dtype), (x, kernel)


def _dot_backward(dtype, saved, dy):
  x, kernel = saved
  dot = lambda x: jnp.dot(x, kernel, preferred_element_type=dtype)
  flat = lambda leaf: leaf.reshape(-1, leaf.shape[-1])
  of_kernel = jnp.dot(flat(x).T, flat(dy), preferred_element_type=dtype)
  return *jax.vjp(dot, x)[1](dy), of_kernel.astype(kernel.dtype)


_dot.defvjp(_dot_forward, _dot_backward)
