"""Applies to each token the experts that a router chose for it.

Three ways to the same sum, y_n = sum_j gate_nj expert_{c_nj}(x_n): `dense`
computes every expert on every token, and is what the others are tested against;
`ragged` sorts the tokens by expert and multiplies runs of them
(`lax.ragged_dot`, which TPUs have kernels for and which other backends expand
to arrays of tokens x experts); `blocked` puts them into blocks of one expert
each. None of them drops a token.

Dims: n tokens, k experts of a token, E experts, D model, F hidden width, b
blocks, m tokens of a block.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Sizes of a block in `blocked`: smaller ones are slow, larger ones are padding.
MIN_BLOCK, MAX_BLOCK = 8, 512
Kernels = dict[str, Array]  # by name, each [E, in, out]
# expert(product, x): the experts' function of x, written with `product`, which
# multiplies each token with its expert's kernel of the given name.
Product = Callable[[Float[Array, '*n i'], str], Float[Array, '*n o']]
Expert = Callable[[Product, Float[Array, '*n D']], Float[Array, '*n D']]


def dense(
  expert: Expert,
  kernels: Kernels,
  x: Float[Array, 'n D'],
  chosen: Int[Array, 'n k'],
  gate: Float[Array, 'n k'],
) -> Float[Array, 'n D']:
  """All experts on all tokens, summed with one-hot weights.

  Args:
    expert: computes a product of all experts.
    kernels: of all experts.
    x: the tokens.
    chosen: c, the experts of each token, distinct.
    gate: their weights.
  """
  num_experts = next(iter(kernels.values())).shape[0]
  hot = jax.nn.one_hot(chosen, num_experts, dtype=x.dtype)
  weight = jnp.einsum('nke,nk->en', hot, gate.astype(x.dtype))

  def product(x, name):
    return jnp.einsum('eni,eio->eno', x, kernels[name])

  every = jnp.broadcast_to(x[None], (num_experts, *x.shape))
  return jnp.einsum('end,en->nd', expert(product, every), weight)


def ragged(
  expert: Expert,
  kernels: Kernels,
  x: Float[Array, 'n D'],
  chosen: Int[Array, 'n k'],
  gate: Float[Array, 'n k'],
) -> Float[Array, 'n D']:
  """Tokens sorted by expert, and `lax.ragged_dot`; arguments as in `dense`."""
  num_experts = next(iter(kernels.values())).shape[0]
  flat = chosen.reshape(-1)
  order = jnp.argsort(flat, stable=True)
  sizes = jnp.bincount(flat, length=num_experts).astype(jnp.int32)

  def product(x, name):
    return jax.lax.ragged_dot(x, kernels[name], sizes)

  y = expert(product, x[order // chosen.shape[1]])
  return _collect(y[jnp.argsort(order)], gate)


def blocked(
  expert: Expert,
  kernels: Kernels,
  x: Float[Array, 'n D'],
  chosen: Int[Array, 'n k'],
  gate: Float[Array, 'n k'],
) -> Float[Array, 'n D']:
  """Tokens put into blocks, each of one expert.

  The tokens of an expert fill ceil(count / m) blocks, so that n k / m + E
  blocks hold all of them however uneven the load. Arguments as in `dense`.
  """
  num_experts = next(iter(kernels.values())).shape[0]
  flat = chosen.reshape(-1)
  size = block_size(flat.size, num_experts)
  num_blocks = flat.size // size + num_experts
  counts = jnp.bincount(flat, length=num_experts)
  blocks = -(-counts // size)
  last = jnp.cumsum(blocks)  # one past the last block of each expert
  block = jnp.arange(num_blocks)[:, None]
  owner = jnp.sum(block >= last[None], axis=1)
  owner = jnp.minimum(owner, num_experts - 1)  # of blocks that stay empty
  order = jnp.argsort(flat, stable=True)
  # The sorted choices of an expert begin at its first block.
  shift = (last - blocks) * size - (jnp.cumsum(counts) - counts)
  place = jnp.arange(flat.size) + shift[flat[order]]
  place = jnp.zeros_like(order).at[order].set(place, unique_indices=True)

  def product(x, name):
    return jnp.einsum('bmi,bio->bmo', x, kernels[name][owner])

  token = jnp.repeat(jnp.arange(x.shape[0]), chosen.shape[1])
  slots = jnp.zeros((num_blocks * size, x.shape[1]), x.dtype)
  slots = slots.at[place].set(x[token], unique_indices=True)
  y = expert(product, slots.reshape(num_blocks, size, -1))
  return _collect(y.reshape(num_blocks * size, -1)[place], gate)


def block_size(num_choices: int, num_experts: int) -> int:
  """m: about a quarter of an expert's even share, a power of two."""
  quarter = max(num_choices // (4 * num_experts), 1)
  return min(max(2 ** math.ceil(math.log2(quarter)), MIN_BLOCK), MAX_BLOCK)


def _collect(
  y: Float[Array, 'nk D'], gate: Float[Array, 'n k']
) -> Float[Array, 'n D']:
  """The weighted sum over each token's experts."""
  y = y.reshape(*gate.shape, -1)
  return jnp.einsum('nkd,nk->nd', y, gate.astype(y.dtype))


# By the value of `ModelConfig.dispatch`; 'auto' is the fast one of a backend.
DISPATCHES = {'dense': dense, 'ragged': ragged, 'blocked': blocked}


def find(name: str) -> Callable[..., Float[Array, 'n D']]:
  """The dispatch of a name; for 'auto' the one of this backend."""
  if name == 'auto':
    name = 'ragged' if jax.default_backend() == 'tpu' else 'blocked'
  return DISPATCHES[name]
