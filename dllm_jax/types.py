"""Array records and Protocols that all layers share.

Dims: B rows (prompts x group), P prompt columns, L completion columns,
S = P + L canvas columns, Q queried or new columns, D model, V vocabulary.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

Params = Mapping[str, Any]  # a tree of arrays, as Flax makes it
Cache = Any  # a tree of arrays, which only the model that made it reads
Scalar = Any  # a Python number, or the tracer of one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
  """The token ids that decoding and losses must know.

  Attributes:
    size: number of ids that text can use; a model's table may have more rows.
    mask_token: id of [MASK]; never proposed. None where there is none.
    eos_token: id that fills what follows a completion.
    stop_tokens: ids that end a completion, ascending: `eos_token`, and others
      such as the one that ends a chat model's turn.
  """

  size: int
  mask_token: int | None
  eos_token: int
  stop_tokens: tuple[int, ...] = ()

  def __post_init__(self):
    stop = tuple(sorted({self.eos_token, *self.stop_tokens}))
    object.__setattr__(self, 'stop_tokens', stop)
    named = [('eos_token', self.eos_token)]
    if self.mask_token is not None:
      named.insert(0, ('mask_token', self.mask_token))
    for name, value in named + [('stop token', value) for value in stop]:
      if not 0 <= value < self.size:
        raise ValueError(f'{name} {value} is outside [0, {self.size})')
      if name != 'mask_token' and value == self.mask_token:
        raise ValueError(f'mask_token and {name} are both {value}')

  def need_mask(self) -> int:
    """`mask_token`, for code that has no meaning without it.

    Raises:
      ValueError: the vocabulary has no [MASK].
    """
    if self.mask_token is None:
      raise ValueError(
        'the vocabulary has no mask token, which masked diffusion needs: use '
        'a masked diffusion model'
      )
    return self.mask_token

  @property
  def blank(self) -> int:
    """What undecided columns hold: [MASK], or EOS where there is none."""
    return self.eos_token if self.mask_token is None else self.mask_token

  def ends(self, tokens: Int[Array, '*n']) -> Bool[Array, '*n']:
    """Where tokens are stop tokens."""
    is_one = (tokens == value for value in self.stop_tokens)
    return functools.reduce(operator.or_, is_one)

  def through_stop(self, tokens: Int[Array, 'B L']) -> Bool[Array, 'B L']:
    """True up to and including the first stop token of each row."""
    is_stop = self.ends(tokens).astype(int)
    return is_stop.cumsum(axis=1) - is_stop == 0


class Canvas(NamedTuple):
  """Prompts and completions side by side; the completion is the last L columns.

  Attributes:
    tokens: ids; undecided completion positions hold [MASK].
    attention_mask: True on real tokens, False on padding, on either side.
  """

  tokens: Int[Array, 'B S']
  attention_mask: Bool[Array, 'B S']


class Trajectory(NamedTuple):
  """What a decoder returns: the completion, and when each token was committed.

  No decoder here remasks, so the completion that denoising step t reads is
  `where(commit_step < t, tokens, mask_token)`; nothing else needs to be kept.

  Attributes:
    tokens: completion ids, no [MASK] among them.
    logp: log-probability of each token when it was committed (nats, under the
      untempered model with [MASK] excluded); 0 where no step committed it.
    commit_step: 0-based denoising step that committed the token; `num_steps`
      of the row where none did (EOS fill after an early exit).
    num_steps: denoiser calls in which the row still had undecided positions;
      rounds of a decoder that speculates.
    drafted: what that decoder had drafted at the token's column in the round
      that committed it; -1 where it had no draft. None for other decoders.
  """

  tokens: Int[Array, 'B L']
  logp: Float[Array, 'B L']
  commit_step: Int[Array, 'B L']
  num_steps: Int[Array, ' B']
  drafted: Int[Array, 'B L'] | None = None


class RolloutBatch(NamedTuple):
  """Scored rollouts, ready for the update; holds no gold token.

  Attributes:
    prompt_ids: prompt ids, padded on the left.
    prompt_mask: True on real prompt tokens.
    maskable: True on prompt tokens that an estimator may mask (content, not
      chat template or padding).
    tokens: completion ids.
    sampler_logp: `Trajectory.logp`; NaN where another prompt was decoded.
    commit_step: `Trajectory.commit_step`.
    num_steps: `Trajectory.num_steps`.
    completion_mask: True up to and including the first stop token.
    advantage: advantage of every token; constant along a row unless shaped.
    guided: True on answer-guided rows.
    group_id: the group whose rewards the row is compared with.
    row_id: the row's number in the batch; it seeds the row's draws.
  """

  prompt_ids: Int[Array, 'B P']
  prompt_mask: Bool[Array, 'B P']
  maskable: Bool[Array, 'B P']
  tokens: Int[Array, 'B L']
  sampler_logp: Float[Array, 'B L']
  commit_step: Int[Array, 'B L']
  num_steps: Int[Array, ' B']
  completion_mask: Bool[Array, 'B L']
  advantage: Float[Array, 'B L']
  guided: Bool[Array, ' B']
  group_id: Int[Array, ' B']
  row_id: Int[Array, ' B']


class RouterJitter(NamedTuple):
  """Noise on what a router reads: factors uniform in [1 - size, 1 + size].

  The experts themselves read their tokens without it.

  Attributes:
    key: of each row; consumed by the router.
    size: of each row, in [0, 1].

  References:
    Fedus et al. 2021, Switch Transformers, appendix C (arXiv:2101.03961).
  """

  key: Key[Array, '*N B']
  size: Float[Array, '*N B']


class RouterOverride(NamedTuple):
  """What is done to routers: other experts than their first choice, noise.

  By layer; of one layer without the leading axis. At most one of the first
  three fields says something of a token.

  Attributes:
    expert: an expert; -1 leaves the choice to the router.
    offset: that many experts after the router's choice, modulo their number.
    quantile: u in [0, 1): the expert at which the router's cumulative
      probability exceeds u, so that uniform u sample the router; negative
      leaves the choice.
    jitter: noise under which the router makes its choice.
  """

  expert: Int[Array, '*N B S'] | None = None
  offset: Int[Array, '*N B S'] | None = None
  quantile: Float[Array, '*N B S'] | None = None
  jitter: RouterJitter | None = None


class RouterOutputs(NamedTuple):
  """What the routers of the layers said, and what was done.

  Attributes:
    logits: unnormalised, float32.
    chosen: the experts of each token, the first choice first.
  """

  logits: Float[Array, 'N B S E']
  chosen: Int[Array, 'N B S k']


@runtime_checkable
class Denoiser(Protocol):
  """A model as decoders and losses see it; hashable, a static argument."""

  def __call__(
    self,
    params: Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q V']:
    """Float32 logits of the tokens at columns `query`, and of no other."""
    ...


@runtime_checkable
class Trainable(Denoiser, Protocol):
  """A denoiser that can make its own parameters, as `launch/train.py` needs."""

  def init(self, key: Key[Array, '']) -> Params:
    """Random parameters: a tree of dicts. `key` is consumed."""
    ...


@runtime_checkable
class SplitDenoiser(Denoiser, Protocol):
  """A denoiser whose logits can be computed for some columns at a time.

  unembed(params, states(params, tokens, attention_mask, query)) equals
  denoiser(params, tokens, attention_mask, query).
  """

  def states(
    self,
    params: Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q D']:
    """What the logits of columns `query` are computed from."""
    ...

  def unembed(
    self, params: Params, states: Float[Array, 'B Q D']
  ) -> Float[Array, 'B Q V']:
    """Float32 logits of the given states, column by column."""
    ...


@runtime_checkable
class CachedDenoiser(SplitDenoiser, Protocol):
  """A denoiser that can compute some columns of a canvas and keep the others.

  A cache holds the keys and values of all columns. Those of a bidirectional
  model depend on the whole canvas: they are stale once a token has changed.
  """

  def read(
    self,
    params: Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> tuple[Float[Array, 'B Q D'], Cache]:
    """`states`, and the cache of the canvas."""
    ...

  def read_window(
    self,
    params: Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
    cache: Cache,
    start: Int[Array, ' B'],
    width: int,
  ) -> tuple[Float[Array, 'B Q D'], Cache]:
    """`states` and the cache where a window of columns is computed anew.

    Args:
      params: parameters of the model.
      tokens: the whole canvas; only the window's tokens are read.
      attention_mask: True on real tokens.
      query: columns of the window.
      cache: keys and values of the columns outside of it.
      start: first column of the window of each row; columns beyond either end
        of the canvas do not exist.
      width: number of its columns.
    """
    ...

  def put(self, cache: Cache, new: Cache, rows: Int[Array, ' b']) -> Cache:
    """`cache` with `new` in the given rows; rows beyond the last are none."""
    ...


@runtime_checkable
class BlockCausal(SplitDenoiser, Protocol):
  """A denoiser that may be causal over blocks of a row.

  Attributes:
    block_causal: tokens of a block, counted from the first real token of a row:
      a column reads its own block and those before it. 0: it reads all.
  """

  @property
  def block_causal(self) -> int: ...

  def two_stream_states(
    self,
    params: Params,
    context: Int[Array, 'B S'],
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q D']:
    """`states` where each block of `tokens` follows the blocks of `context`.

    The states of a column in block b are those of a row with blocks < b of
    `context` and block b of `tokens`: all blocks in one call. The model is
    block-causal.
    """
    ...


def block_causal(denoiser: Denoiser) -> int:
  """Tokens of a block of a model that is causal over blocks; 0 of any other."""
  return denoiser.block_causal if isinstance(denoiser, BlockCausal) else 0


@runtime_checkable
class Routed(SplitDenoiser, Protocol):
  """A denoiser whose layers route tokens to experts.

  Attributes:
    num_experts: E; 0 where there are none.
    num_sparse_layers: N, the layers with experts.
  """

  @property
  def num_experts(self) -> int: ...

  @property
  def num_sparse_layers(self) -> int: ...

  def routed_states(
    self,
    params: Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
    override: RouterOverride | None = None,
  ) -> tuple[Float[Array, 'B Q D'], RouterOutputs]:
    """`states` under an override, and what the routers said of all columns."""
    ...

  def with_routers(self, params: Params, other: Params) -> Params:
    """`params` with the routers of `other`."""
    ...


@runtime_checkable
class Stacked(Protocol):
  """A denoiser whose layers are one stack of arrays."""

  def unstack(self, params: Params) -> Params:
    """The parameters for calls in a loop, where copies out of the stack cost.

    All calls of the denoiser take either but those that run ranges of layers
    (`LayeredLM.run_layers`). Call this inside `jax.jit`, before the loop.
    """
    ...


def unstacked(denoiser: Denoiser, params: Params) -> Params:
  """`Stacked.unstack`, or `params` of any other denoiser."""
  return denoiser.unstack(params) if isinstance(denoiser, Stacked) else params


@runtime_checkable
class Divisible(Protocol):
  """A denoiser whose parameters can be divided among the devices of a mesh.

  Any other denoiser is whole on every device.

  Attributes:
    sharding_rules: rules for its parameters (`runtime.sharding.RULES`).
  """

  sharding_rules: tuple[tuple[str, PartitionSpec], ...]

  def part(self, mesh: Mesh) -> Denoiser:
    """What one device computes, inside `jax.shard_map` over the whole mesh.

    It is given the device's part of every parameter and its rows. Devices along
    `tensor` have the same rows, and get the same logits. Devices along `fsdp`
    must call it equally often.

    Raises:
      errors.UserError: the mesh does not divide the model.
    """
    ...

  def placed(self, mesh: Mesh) -> Denoiser:
    """The same function for use under `jit`, with sharding constraints.

    Without them the compiler may split arrays along other axes than rows.
    """
    ...


@runtime_checkable
class CausalLM(Denoiser, Protocol):
  """A next-token model with a cache; hashable, a static argument.

  Each row of a cache holds tokens from position 0 on, without padding. Padding
  in `tokens`, on either side, is neither read nor written.
  """

  def init_cache(self, num_rows: int, num_slots: int) -> Cache:
    """An empty cache for rows of at most `num_slots` tokens."""
    ...

  def prefill(
    self,
    params: Params,
    tokens: Int[Array, 'B Q'],
    attention_mask: Bool[Array, 'B Q'],
    cache: Cache,
  ) -> tuple[Float[Array, 'B Q V'], Cache]:
    """As `extend`, but drops what the cache holds; cheaper than extending an
    empty one."""
    ...

  def extend(
    self,
    params: Params,
    tokens: Int[Array, 'B Q'],
    attention_mask: Bool[Array, 'B Q'],
    cache: Cache,
  ) -> tuple[Float[Array, 'B Q V'], Cache]:
    """Reads `tokens` after those in the cache, and adds them to it.

    The logits are float32: those at column k are of the token after column k.
    Where nobody uses them under `jit`, they are not computed. The caller makes
    sure that no row exceeds the cache's slots.
    """
    ...

  def truncate(self, cache: Cache, length: Int[Array, ' B']) -> Cache:
    """The cache with the first `length` tokens of each row; nothing is copied.

    Later calls give the same bits as if there had been no further tokens.
    """
    ...

  def take(self, cache: Cache, rows: Int[Array, ' b']) -> Cache:
    """The cache of some rows, which may repeat: a prompt is read once."""
    ...


@runtime_checkable
class LayeredLM(CausalLM, Protocol):
  """A causal model whose layers can be run in parts, and compressed.

  With `x = embed(params, tokens)`, `read_out(params, run_layers(params, x,
  attention_mask, cache, 0, num_layers))` are the logits of `extend`.

  Attributes:
    num_layers: N.
  """

  @property
  def num_layers(self) -> int: ...

  def embed(
    self, params: Params, tokens: Int[Array, 'B Q']
  ) -> Float[Array, 'B Q D']:
    """The input of layer 0."""
    ...

  def run_layers(
    self,
    params: Params,
    states: Float[Array, 'B Q D'],
    attention_mask: Bool[Array, 'B Q'],
    cache: Cache | None,
    start: Scalar,
    stop: Scalar,
  ) -> Float[Array, 'B Q D']:
    """Layers [start, stop) on columns that follow those in the cache.

    The bounds may be traced. The cache is read and not changed; with None, the
    columns follow nothing. There is no gradient.
    """
    ...

  def read_out(
    self, params: Params, states: Float[Array, 'B Q D']
  ) -> Float[Array, 'B Q V']:
    """Float32 logits from the output of the last layer."""
    ...

  def compress(self, params: Params, how: str) -> Params:
    """Parameters whose layers are smaller and coarser; the rest is the same.

    Args:
      params: arrays, outside of `jax.jit`.
      how: a key of `ops.quantize.COMPRESSIONS`.
    """
    ...


@runtime_checkable
class Decoder(Protocol):
  """A way to fill a canvas: a pytree, and one object of `decoding/`.

  Attributes:
    gen_length: L, completion tokens.
    is_causal: whether it is for causal models (`CausalLM`), not denoisers.
  """

  gen_length: int
  is_causal: ClassVar[bool]

  def check(self, denoiser: Denoiser) -> None:
    """Refuses a model that the decoder is not for; most take all.

    Raises:
      errors.UserError: in one line.
    """
    ...

  def prepare(self, denoiser: Denoiser, params: Params) -> Params:
    """What `__call__` takes as `params`; call this outside of `jax.jit`.

    Most decoders return `params` itself. For the same parameters the result
    can be used many times.
    """
    ...

  def __call__(
    self,
    denoiser: Denoiser,
    params: Params,
    row_keys: Key[Array, ' B'],
    canvas: Canvas,
    *,
    vocab: Vocabulary,
    lockstep: tuple[str, ...] = (),
  ) -> Trajectory:
    """Decides every [MASK] of the canvas.

    Args:
      denoiser: the model.
      params: the result of `prepare`.
      row_keys: one key a row, consumed: a row's tokens depend on nothing else
        of the batch.
      canvas: prompts, and completions of L columns.
      vocab: special ids.
      lockstep: mesh axes whose devices must call the denoiser equally often.
    """
    ...

  def largest_commit(self) -> int:
    """The most tokens that one step commits; sizes the learner's views."""
    ...

  def greedy(self) -> 'Decoder':
    """The same decoder without any randomness."""
    ...

  def resized(self, gen_length: int) -> 'Decoder':
    """The same decoder for completions of another length."""
    ...
