"""Decoding of one completion after several prompts at a time.

The K prompts, the views, ask for the same. In each step the model reads the new
token after every one of them, and the next token is drawn from what their K
distributions make together:

  geometric   p(v) proportional to exp(1/K sum_i log p(v | x_i, y_<t))
  arithmetic  p(v) = 1/K sum_i p(v | x_i, y_<t)

With K equal prompts it is decoding after one of them. Dims: B completions, K
views, P prompt columns, L completion columns, V vocabulary.

References:
  Guo et al. 2024, M-Ped, arXiv:2412.18299 (arithmetic).
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.decoding import lockstep as lockstep_lib
from dllm_jax.decoding import rounds
from dllm_jax.ops import sampling

Mean = Literal['geometric', 'arithmetic']
MEANS = get_args(Mean)


class Prompts(NamedTuple):
  """The views of every completion.

  Attributes:
    ids: prompt ids, padded on the left.
    mask: True on prompt tokens, of which each prompt has one at least.
  """

  ids: Int[Array, 'B K P']
  mask: Bool[Array, 'B K P']


class _State(NamedTuple):
  """The carry of the loop; the cache has the rows [B * K]."""

  column: Int[Array, '']
  tokens: Int[Array, 'B L']
  logp: Float[Array, 'B L']
  last: Int[Array, 'B K']
  done: Bool[Array, ' B']
  num_steps: Int[Array, ' B']
  cache: Any


def decode(
  lm: types.CausalLM,
  params: types.Params,
  row_keys: Key[Array, ' B'],
  prompts: Prompts,
  decoder: rounds.CausalDecoder,
  *,
  mean: Mean,
  vocab: types.Vocabulary,
  lockstep: tuple[str, ...] = (),
) -> types.Trajectory:
  """Token by token, until every row has a stop token or L tokens.

  Args:
    lm: the model.
    params: its parameters.
    row_keys: one key a row; the token of column k draws from fold_in(key, k).
    prompts: the views of every row.
    decoder: its length L, temperature and truncation are used.
    mean: how the distributions are put together.
    vocab: special ids.
    lockstep: mesh axes whose devices must call the model equally often.

  Returns:
    Completions; `logp` is under the mean distribution, untempered.
  """
  rows, num_views, width = prompts.ids.shape
  length = decoder.gen_length
  cache = lm.init_cache(rows * num_views, width - 1 + length)
  if width > 1:
    before = (x.reshape(-1, width)[:, :-1] for x in prompts)
    _, cache = lm.prefill(params, *before, cache)

  params = types.unstacked(lm, params)

  def step(state):
    mask = jnp.repeat(~state.done, num_views)[:, None]
    new = state.last.reshape(-1, 1)
    logits, cache = lm.extend(params, new, mask, state.cache)
    logits = sampling.allowed_logits(logits[:, 0], vocab)
    logits = combine(logits.reshape(rows, num_views, -1), mean)[:, None]
    at = jnp.full((rows, 1), state.column)
    token = decoder.choose(row_keys, at, logits)
    logp = sampling.token_logp(logits, token)[:, 0]
    token, live = token[:, 0], ~state.done
    put = lambda x, new: x.at[:, state.column].set(
      jnp.where(live, new, x[:, state.column])
    )
    column = state.column + 1
    return _State(
      column=column,
      tokens=put(state.tokens, token),
      logp=put(state.logp, logp),
      last=jnp.broadcast_to(token[:, None], state.last.shape),
      done=state.done | vocab.ends(token) | (column == length),
      num_steps=state.num_steps + live.astype(jnp.int32),
      cache=cache,
    )

  start = _State(
    column=jnp.int32(0),
    tokens=jnp.full((rows, length), vocab.eos_token, jnp.int32),
    logp=jnp.zeros((rows, length)),
    last=prompts.ids[:, :, -1],
    done=jnp.zeros(rows, bool),
    num_steps=jnp.zeros(rows, jnp.int32),
    cache=cache,
  )
  state = lockstep_lib.loop_while(
    lambda state: ~jnp.all(state.done), step, start, lockstep
  )
  step_of = jnp.broadcast_to(jnp.arange(length)[None], state.tokens.shape)
  return types.Trajectory(
    tokens=state.tokens,
    logp=state.logp,
    commit_step=jnp.minimum(step_of, state.num_steps[:, None]),
    num_steps=state.num_steps,
  )


def combine(logits: Float[Array, 'B K V'], mean: Mean) -> Float[Array, 'B V']:
  """log p(v) of the mean of K distributions; see the module."""
  logp = jax.nn.log_softmax(logits, axis=-1)
  if mean == 'geometric':
    return jax.nn.log_softmax(jnp.mean(logp, axis=1), axis=-1)
  return jax.nn.logsumexp(logp, axis=1) - jnp.log(logits.shape[1])
