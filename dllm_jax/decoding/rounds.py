"""Left-to-right decoding in rounds: draft, verify, accept, commit.

In a round a drafter proposes the next W tokens of every row. The model reads
them in one call and chooses a token for each of their columns and for the one
behind them. The drafts that equal those choices are accepted up to the first
that does not, and the model's own choice follows them. So a round commits 1 to
W + 1 tokens, and they are those that the model chooses alone, whatever the
drafts are. W = 0 is decoding token by token.

The choice for completion column k draws from `fold_in(row_key, k)`, so sampled
completions are the same with and without drafts, too. (A draft d is a point
mass: accepting it if it equals a sample x of the model's p accepts it with
probability p(d), and an x that differs is a sample of p without d.)

Rows are at different columns; finished rows are frozen. Dims: B rows, S canvas
columns, P prompt columns, L completion columns, W drafts, V vocabulary.

References:
  Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types, validation
from dllm_jax.decoding import fields
from dllm_jax.decoding import lockstep as lockstep_lib
from dllm_jax.ops import sampling, schedules


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalDecoder:
  """Base of the decoders of causal models: a `types.Decoder`.

  A subclass is a frozen dataclass and a pytree (`fields.decoder`), whose fields
  are also flags and config keys. One that drafts defines `num_drafts`, `draft`
  and, where its drafter has parameters of its own, `prepare`.
  """

  is_causal: ClassVar[bool] = True

  gen_length: int = fields.static('completion tokens')
  use_cache: bool = fields.static(
    'keep keys and values; without them every call reads the whole text',
    default=True,
  )
  top_k: int = fields.static(
    'number of the most probable tokens that are drawn from; 0 is all',
    default=0,
  )
  top_p: float = fields.static(
    'probability of the nucleus that tokens are drawn from; 1 is the whole '
    'vocabulary',
    default=1.0,
  )
  temperature: types.Scalar = fields.traced(
    'sampling temperature of the tokens; 0 is greedy', default=0.0
  )

  def __post_init__(self):
    validation.positive(self, 'gen_length')
    validation.not_negative(self, 'top_k')
    validation.nucleus(self)
    validation.finite_not_negative(self, 'temperature')

  @property
  def num_drafts(self) -> int:
    """W, drafts of a round."""
    return 0

  def draft(
    self,
    lm: types.CausalLM,
    params: types.Params,
    state: 'RoundState',
    prompt: types.Canvas,
    vocab: types.Vocabulary,
  ) -> Int[Array, 'B W']:
    """The next tokens of every row, which need not be right.

    Args:
      lm: the model.
      params: the result of `unstacked`.
      state: state before the round; its cache may be read.
      prompt: prompt columns of the canvas.
      vocab: special ids.
    """
    del lm, params, prompt, vocab
    return jnp.zeros((state.tokens.shape[0], 0), jnp.int32)

  def check(self, denoiser: types.Denoiser) -> None:
    """See `types.Decoder`."""

  def prepare(
    self, denoiser: types.Denoiser, params: types.Params
  ) -> types.Params:
    """`{'model': params}`, and what the drafter adds to it."""
    del denoiser
    return {'model': params}

  def unstacked(self, lm: types.CausalLM, params: types.Params) -> types.Params:
    """What rounds take: the result of `prepare`, and 'read'.

    That is the model for the call that verifies the drafts. A drafter may run
    ranges of layers, which need the stack.
    """
    return {**params, 'read': types.unstacked(lm, params['model'])}

  def largest_commit(self) -> int:
    """All drafts and the token behind them."""
    return self.num_drafts + 1

  def greedy(self) -> 'CausalDecoder':
    """The same decoder without any randomness."""
    return dataclasses.replace(self, temperature=0.0)

  def resized(self, gen_length: int) -> 'CausalDecoder':
    """The same decoder for completions of another length."""
    return dataclasses.replace(self, gen_length=gen_length)

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
    """Rounds until every row has a stop token or L tokens.

    See `types.Decoder`. Prompts have a token at least, and padding on their
    left alone. The completion columns of the canvas are not read.
    """
    prompt = types.Canvas(*(x[:, : -self.gen_length] for x in canvas))

    unstacked = self.unstacked(denoiser, params)
    step = lambda state: self.round(
      denoiser, unstacked, row_keys, state, prompt, vocab=vocab
    )
    state = lockstep_lib.loop_while(
      lambda state: ~jnp.all(state.done),
      step,
      self.init_state(denoiser, params, prompt, vocab=vocab),
      lockstep,
    )
    never = state.commit_step < 0
    return types.Trajectory(
      tokens=state.tokens,
      logp=state.logp,
      commit_step=jnp.where(never, state.num_steps[:, None], state.commit_step),
      num_steps=state.num_steps,
      drafted=state.drafted if self.num_drafts else None,
    )

  def init_state(
    self,
    lm: types.CausalLM,
    params: types.Params,
    prompt: types.Canvas,
    *,
    vocab: types.Vocabulary,
  ) -> 'RoundState':
    """The state before the first round: the prompt is read but for its end."""
    rows, width = prompt.tokens.shape
    cache = None
    if self.use_cache:
      # A round reads the last token again, so that it has its logits.
      cache = lm.init_cache(rows, width - 1 + self.gen_length + self.num_drafts)
      if width > 1:
        before = (x[:, :-1] for x in prompt)
        _, cache = lm.prefill(params['model'], *before, cache)
    shape = (rows, self.gen_length)
    zeros = jnp.zeros(rows, jnp.int32)
    return RoundState(
      tokens=jnp.full(shape, vocab.eos_token, jnp.int32),
      logp=jnp.zeros(shape),
      commit_step=jnp.full(shape, -1, jnp.int32),
      drafted=jnp.full(shape, -1, jnp.int32),
      length=zeros,
      last=prompt.tokens[:, -1],
      done=jnp.zeros(rows, bool),
      num_steps=zeros,
      cache=cache,
    )

  def round(
    self,
    lm: types.CausalLM,
    params: types.Params,
    row_keys: Key[Array, ' B'],
    state: 'RoundState',
    prompt: types.Canvas,
    *,
    vocab: types.Vocabulary,
  ) -> 'RoundState':
    """One round of every row that is not done, with `unstacked` parameters."""
    live = ~state.done
    drafts = self.draft(lm, params, state, prompt, vocab)
    logits, cache = self.read(lm, params['read'], state, drafts, prompt)
    column = state.length[:, None] + jnp.arange(self.num_drafts + 1)[None]
    logits = sampling.allowed_logits(logits, vocab)
    chosen = self.choose(row_keys, column, logits)
    logp = sampling.token_logp(logits, chosen)

    agrees = (drafts == chosen[:, :-1]).astype(jnp.int32)
    num_accepted = jnp.sum(jnp.cumprod(agrees, axis=1), axis=1)
    stops = schedules.first_true(vocab.ends(chosen))
    count = jnp.minimum(num_accepted, stops) + 1
    count = jnp.minimum(count, self.gen_length - state.length)
    count = jnp.where(live, count, 0)
    ended = (stops < count) | (state.length + count == self.gen_length)

    taken = jnp.arange(self.num_drafts + 1)[None] < count[:, None]
    place = jnp.where(taken, column, self.gen_length)  # beyond: dropped
    row = jnp.arange(count.shape[0])[:, None]
    put = lambda old, new: old.at[row, place].set(new, mode='drop')
    none = jnp.full((count.shape[0], 1), -1, jnp.int32)
    final = jnp.take_along_axis(
      chosen, jnp.maximum(count - 1, 0)[:, None], axis=1
    )[:, 0]
    length = state.length + count
    if cache is not None:  # all committed tokens but the last
      num_prompt = jnp.sum(prompt.attention_mask, axis=1, dtype=jnp.int32)
      cache = lm.truncate(cache, num_prompt - 1 + length)
    return RoundState(
      tokens=put(state.tokens, chosen),
      logp=put(state.logp, logp),
      commit_step=put(
        state.commit_step,
        jnp.broadcast_to(state.num_steps[:, None], place.shape),
      ),
      drafted=put(state.drafted, jnp.concatenate([drafts, none], axis=1)),
      length=length,
      last=jnp.where(live, final, state.last),
      done=state.done | (live & ended),
      num_steps=state.num_steps + live.astype(jnp.int32),
      cache=cache,
    )

  def read(
    self,
    lm: types.CausalLM,
    params: types.Params,
    state: 'RoundState',
    drafts: Int[Array, 'B W'],
    prompt: types.Canvas,
  ) -> tuple[Float[Array, 'B W+1 V'], types.Cache | None]:
    """Logits of the columns of the drafts and of the one behind them."""
    if state.cache is not None:
      new = jnp.concatenate([state.last[:, None], drafts], axis=1)
      mask = jnp.broadcast_to(~state.done[:, None], new.shape)
      return lm.extend(params, new, mask, state.cache)
    whole = text(state, drafts, prompt)
    first = prompt.tokens.shape[1] + state.length[:, None]
    column = first + jnp.arange(drafts.shape[1] + 1)[None]
    return lm(params, whole.tokens, whole.attention_mask, column), None

  def choose(
    self,
    row_keys: Key[Array, ' B'],
    column: Int[Array, 'B Q'],
    logits: Float[Array, 'B Q V'],
  ) -> Int[Array, 'B Q']:
    """The model's tokens at completion columns; see the module."""
    temperature = jnp.float32(self.temperature)
    if self.top_k or self.top_p < 1.0:
      logits = jax.lax.cond(
        temperature > 0,
        lambda x: self._truncate(x, temperature),
        lambda x: x,
        logits,
      )
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))
    keys = fold(row_keys, column).reshape(-1)
    flat = logits.reshape(-1, 1, logits.shape[-1])
    chosen = sampling.gumbel_argmax(keys, flat, temperature)
    return chosen.reshape(column.shape)

  def _truncate(self, logits, temperature):
    if self.top_k:
      logits = sampling.top_k(logits, self.top_k)
    if self.top_p < 1.0:
      logits = sampling.nucleus(logits, self.top_p, temperature)
    return logits


class RoundState(NamedTuple):
  """The carry of the loop.

  Attributes:
    tokens: completions; EOS in the columns that are undecided.
    logp: log-probability of each token when it was committed (nats).
    commit_step: 0-based round that committed each token; -1 while undecided.
    drafted: the draft of its column in that round; -1 where there was none.
    length: tokens that are decided.
    last: the last token of prompt and completion, which is not in the cache.
    done: rows that need no further round.
    num_steps: rounds of each row.
    cache: of all tokens but the last; None without one.
  """

  tokens: Int[Array, 'B L']
  logp: Float[Array, 'B L']
  commit_step: Int[Array, 'B L']
  drafted: Int[Array, 'B L']
  length: Int[Array, ' B']
  last: Int[Array, ' B']
  done: Bool[Array, ' B']
  num_steps: Int[Array, ' B']
  cache: Any


def text(
  state: RoundState, drafts: Int[Array, 'B W'], prompt: types.Canvas
) -> types.Canvas:
  """Prompt, completion so far, and drafts, side by side.

  The completion has W more columns than L, so that all drafts have a place.
  """
  rows, num_drafts = drafts.shape
  wide = jnp.pad(state.tokens, ((0, 0), (0, num_drafts)))
  place = state.length[:, None] + jnp.arange(num_drafts)[None]
  wide = wide.at[jnp.arange(rows)[:, None], place].set(drafts)
  is_text = jnp.arange(wide.shape[1])[None] < state.length[:, None] + num_drafts
  return types.Canvas(
    jnp.concatenate([prompt.tokens, wide], axis=1),
    jnp.concatenate([prompt.attention_mask, is_text], axis=1),
  )
