"""Runs of a causal model on paths: its routers' own, or some cells elsewhere.

A cell, a pair of a layer and a token, belongs to the column from which a label
is read: label l is the token after it. Dims: B rows, P paths, N layers with
experts, L labels of a row, S columns, E experts, k experts of a token.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.ops import streams
from dllm_jax.rl import logprobs

# What leaves the choice to the router.
_UNCHANGED = {'expert': -1, 'offset': 0, 'quantile': -1.0}


class Texts(NamedTuple):
  """Rows of prompts, padded on the left, and completions of L columns.

  Attributes:
    tokens: ids.
    attention_mask: True on real tokens.
    credit: completion tokens that are labels.
    row_id: number of the row, which seeds its draws.
  """

  tokens: Int[Array, 'B S']
  attention_mask: Bool[Array, 'B S']
  credit: Bool[Array, 'B L']
  row_id: Int[Array, ' B']


class Paths(NamedTuple):
  """What the model made of each row on each of its paths.

  Attributes:
    logp: log-probability of every label (nats); 0 where there is no credit.
    logits: the routers', at the columns that the labels are read from.
    chosen: the experts there, after the override; the first choice first.
  """

  logp: Float[Array, 'B P L']
  logits: Float[Array, 'B P N L E']
  chosen: Int[Array, 'B P N L k']


def row_jitter(
  key: Key[Array, ''], row_id: Int[Array, ' B'], size: float
) -> types.RouterJitter:
  """Noise of rows, for `run_paths`. `key` is consumed."""
  keys = streams.row_keys(key, row_id)
  return types.RouterJitter(keys, jnp.full(keys.shape, size))


def run_paths(
  denoiser: types.Routed,
  params: types.Params,
  texts: Texts,
  vocab: types.Vocabulary,
  overrides: types.RouterOverride | None = None,
  jitter: types.RouterJitter | None = None,
) -> Paths:
  """Runs a causal model on every path of every row.

  Args:
    denoiser: the model.
    params: its parameters; `logp` and `logits` are differentiable in them.
    texts: the rows.
    vocab: special ids.
    overrides: fields [B, P, N, L], no jitter; None is the router's own path,
      P = 1.
    jitter: fields [B]: every path of a row has the same noise, another one in
      each layer.
  """
  (rows, size), length = texts.tokens.shape, texts.credit.shape[1]
  count, whole = 1, None
  if overrides is not None:
    count = jax.tree.leaves(overrides)[0].shape[1]
    wide = lambda x, fill: _to_columns(x, fill, size)
    whole = types.RouterOverride(
      **{
        name: wide(field, _UNCHANGED[name])
        for name, field in overrides._asdict().items()
        if field is not None
      }
    )
  repeat = lambda x: jnp.repeat(x, count, axis=0)
  if jitter is not None:
    num_layers = denoiser.num_sparse_layers
    fold_in = jax.vmap(jax.random.fold_in, (0, None))
    noise = types.RouterJitter(
      jax.vmap(fold_in, (None, 0))(repeat(jitter.key), jnp.arange(num_layers)),
      jnp.tile(repeat(jitter.size), (num_layers, 1)),
    )
    whole = (whole or types.RouterOverride())._replace(jitter=noise)
  column = jnp.arange(size - length, size)[None]
  column = jnp.broadcast_to(column, (rows * count, length))
  states, routers = denoiser.routed_states(
    params, repeat(texts.tokens), repeat(texts.attention_mask), column, whole
  )
  target = jnp.where(
    texts.credit, texts.tokens[:, size - length :], vocab.eos_token
  )
  logp = logprobs.read_states(denoiser, params, states, repeat(target), vocab)
  logp = logp.reshape(rows, count, length)

  def of_cells(x):  # [N, B P, S, ...] -> [B, P, N, L, ...]
    x = x[:, :, size - length - 1 : size - 1]
    x = x.reshape(x.shape[0], rows, count, *x.shape[2:])
    return jnp.moveaxis(x, 0, 2)

  return Paths(
    jnp.where(texts.credit[:, None], logp, 0.0),
    of_cells(routers.logits),
    of_cells(routers.chosen),
  )


def _to_columns(x: Array, fill: int | float, size: int) -> Array:
  """[B, P, N, L] of cells -> [N, B P, S] of columns, by layer."""
  before = size - x.shape[-1] - 1
  x = jnp.pad(x, ((0, 0),) * 3 + ((before, 1),), constant_values=fill)
  return jnp.moveaxis(x, 2, 0).reshape(x.shape[2], -1, size)
