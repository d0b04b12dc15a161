"""The step of decoders that fill a canvas block by block.

It reads the active block of every row, from the whole canvas or through a cache
(`caching`), and a decoder chooses, from the block's logits, the proposals to
commit. Dims: B rows, W columns of a block, S canvas columns, V vocabulary.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from dllm_jax import errors, types
from dllm_jax.decoding import blocks, caching, guidance
from dllm_jax.ops import sampling, schedules


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockDecoder(blocks.BlockConfig):
  """Base of the decoders here: a `types.Decoder` with a choice to define.

  A subclass is a frozen dataclass and a pytree (`fields.decoder`), whose fields
  are also flags, and keys where the config group `rollout` has them. It defines
  `choose` and `largest_commit`.
  """

  is_causal: ClassVar[bool] = False

  def greedy(self) -> 'BlockDecoder':
    """The same decoder without any randomness."""
    return dataclasses.replace(self, temperature=0.0)

  def resized(
    self, gen_length: int, block_length: int | None = None
  ) -> 'BlockDecoder':
    """The same decoder for another completion length or block length.

    Args:
      gen_length: new number of completion tokens.
      block_length: new tokens per block; None keeps it, but at most
        `gen_length`.
    """
    if block_length is None:
      block_length = min(self.block_length, gen_length)
    return dataclasses.replace(
      self, gen_length=gen_length, block_length=block_length
    )

  def check(self, denoiser: types.Denoiser) -> None:
    """See `types.Decoder`."""
    if self.cache != 'none' and not isinstance(denoiser, types.CachedDenoiser):
      raise errors.UserError(
        f'cache {self.cache!r}: the model keeps no keys and values; use none'
      )
    if self.cache != 'none' and isinstance(denoiser, types.CausalLM):
      raise errors.UserError(
        f'cache {self.cache!r}: the model is causal; use none, or --decode '
        'autoregressive, which has a cache of its own'
      )
    block = types.block_causal(denoiser)
    if block and self.block_length != block:
      raise errors.UserError(
        f'block_length {self.block_length}: the model is causal over blocks of '
        f'{block}; use block_length {block}'
      )
    fitting = ('none', 'block') if block else ('none', 'prefix', 'dual')
    if self.cache not in fitting:
      raise errors.UserError(
        f'cache {self.cache!r}: the model is {"" if block else "not "}causal '
        f'over blocks; use {" or ".join(fitting)}'
      )

  def prepare(
    self, denoiser: types.Denoiser, params: types.Params
  ) -> types.Params:
    """The parameters as they are."""
    return params

  def __call__(
    self,
    denoiser: types.Denoiser,
    params: types.Params,
    row_keys: Key[Array, ' B'],
    canvas: types.Canvas,
    *,
    vocab: types.Vocabulary,
    lockstep: tuple[str, ...] = (),
  ) -> types.Trajectory:
    """Decodes every row of the canvas to its end; see `blocks.run`."""
    self.check(denoiser)
    block_causal = types.block_causal(denoiser)
    params = types.unstacked(denoiser, params)
    denoiser, params = guidance.guided(
      denoiser, params, self.cfg_scale, gen_length=self.gen_length, vocab=vocab
    )

    def step(keys, state):
      return self.step(
        denoiser,
        params,
        keys,
        state,
        canvas.attention_mask,
        vocab=vocab,
        lockstep=lockstep,
      )

    start = blocks.init_state(canvas, vocab, self, block_causal)
    if self.cache != 'none':
      # A cache of blocks starts with all that precedes a row's first block.
      make = caching.whole if self.cache == 'block' else caching.empty
      start = start._replace(cache=make(denoiser, params, canvas))
    return blocks.run(
      step, row_keys, start, vocab=vocab, cfg=self, lockstep=lockstep
    )

  def step(
    self,
    denoiser: types.Denoiser,
    params: types.Params,
    keys: Key[Array, ' B'],
    state: blocks.DecodeState,
    attention_mask: Bool[Array, 'B S'],
    *,
    vocab: types.Vocabulary,
    lockstep: tuple[str, ...] = (),
  ) -> blocks.DecodeState:
    """Reads the active blocks, and commits in every row that is not done.

    Args:
      denoiser: the model, with guidance if `cfg_scale` is set.
      params: its parameters.
      keys: one key per row for this step, consumed.
      state: state before the step.
      attention_mask: True on real tokens of the canvas.
      vocab: special ids.
      lockstep: mesh axes whose devices make the same calls.

    Returns:
      The state after `blocks.commit`; rows that were done keep theirs.
    """
    block = blocks.active(state, vocab, self)
    if self.cache == 'none':
      query = jnp.clip(block.column, 0, state.tokens.shape[1] - 1)
      logits = denoiser(params, state.tokens, attention_mask, query)
    else:
      states, cache = self._read(
        denoiser, params, state, block, attention_mask, lockstep
      )
      logits = denoiser.unembed(params, states)
      state = state._replace(cache=cache)
    logits = sampling.allowed_logits(logits, vocab)
    choice = self.choose(keys, state, block, logits, vocab=vocab)
    if self.published == 'dream':
      # A window lacks the column that the first token is read from.
      first = schedules.first_true(block.eligible)
      alone = block.eligible & (
        jnp.arange(self.block_length)[None] == first[:, None]
      )
      is_first = (state.block_step == 0)[:, None]
      choice = choice._replace(chosen=jnp.where(is_first, alone, choice.chosen))
    return blocks.commit(state, block, choice, vocab=vocab, cfg=self)

  def _read(
    self,
    denoiser: types.CachedDenoiser,
    params: types.Params,
    state: blocks.DecodeState,
    block: blocks.Block,
    attention_mask: Bool[Array, 'B S'],
    lockstep: tuple[str, ...],
  ) -> tuple[Float[Array, 'B W D'], types.Cache]:
    """The states of the active block, and the cache after it was read."""
    enters = state.block_step == 0
    if self.cache == 'block':
      return caching.read_next(
        denoiser,
        params,
        state.tokens,
        attention_mask,
        block.column,
        state.cache,
        unread=jnp.where(
          block.live & enters, state.block - state.last_block, 0
        ),
        widths=caching.widths_of_next(self.gen_length, self.block_length),
        lockstep=lockstep,
      )
    if self.refresh_every:
      enters = state.block_step % self.refresh_every == 0
    size, after = state.tokens.shape[1], block.column[:, -1] + 1 + self.vicinity
    start = block.column[:, 0] - self.vicinity
    widths = caching.widths(
      self.cache, self.gen_length, self.block_length, self.vicinity
    )
    if self.published == 'dream':  # it does not read that token again
      start, widths = start + 1, tuple(width - 1 for width in widths)
    return caching.read_blocks(
      denoiser,
      params,
      state.tokens,
      attention_mask,
      block.column,
      state.cache,
      enters=block.live & enters,
      stays=block.live & ~enters,
      start=start,
      stop=after if self.cache == 'dual' else jnp.full_like(after, size),
      widths=widths,
      lockstep=lockstep,
    )

  def choose(
    self,
    keys: Key[Array, ' B'],
    state: blocks.DecodeState,
    block: blocks.Block,
    logits: Float[Array, 'B W V'],
    *,
    vocab: types.Vocabulary,
  ) -> blocks.Choice:
    """The tokens to commit in the active block.

    Args:
      keys: one key per row for this step, consumed.
      state: state before the step.
      block: the active block of every row.
      logits: of the block's columns, float32; -inf at excluded ids.
      vocab: special ids.

    Returns:
      A choice among the eligible columns, of at least one in every row that has
      any.
    """
    raise NotImplementedError

  def largest_commit(self) -> int:
    """The largest number of tokens that one step commits in a row."""
    raise NotImplementedError
