"""Speculative decoding with a compressed copy of the model itself.

`Draft` is the baseline of all self-speculation: the copy drafts token by token,
in W calls, and the model verifies them in one (`rounds`). With the cost c of a
call of the copy, in calls of the model, and the probability p that it agrees, a
round costs 1 + W c and commits 1 + sum_{i=1..W} p^i tokens.

Dims: B rows, W drafts.

References:
  Leviathan et al. 2023, arXiv:2211.17192; Zhang et al. 2024, Draft & Verify,
  arXiv:2309.08168.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dllm_jax import errors, types, validation
from dllm_jax.decoding import fields, rounds
from dllm_jax.ops import sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfSpeculative(rounds.CausalDecoder):
  """Base of the decoders whose drafter is the compressed model."""

  compression: Literal['int8', 'int4', 'none', 'noise', 'zeros'] = (
    fields.static(
      'weights of the copy that drafts; the last three are controls',
      default='int8',
    )
  )

  def __post_init__(self):
    super().__post_init__()
    validation.choices(self, 'compression')

  def prepare(
    self, denoiser: types.Denoiser, params: types.Params
  ) -> types.Params:
    """Adds the compressed parameters, as 'draft'.

    Raises:
      errors.UserError: as `check`.
    """
    self.check(denoiser)
    return {
      'model': params,
      'draft': denoiser.compress(params, self.compression),
    }

  def check(self, denoiser: types.Denoiser) -> None:
    """Refuses a model that cannot be decoded so.

    Raises:
      errors.UserError: it is none whose layers can be compressed.
    """
    if not isinstance(denoiser, types.LayeredLM):
      raise errors.UserError(
        'drafting with compressed layers needs a causal transformer '
        '(types.LayeredLM): use --decode autoregressive'
      )


@fields.decoder
class Draft(SelfSpeculative):
  """The compressed model drafts token by token; a `types.Decoder`."""

  draft_length: int = fields.static('tokens drafted in a round', default=4)

  def __post_init__(self):
    super().__post_init__()
    validation.positive(self, 'draft_length')

  @property
  def num_drafts(self) -> int:
    """See `CausalDecoder`."""
    return self.draft_length

  def unstacked(
    self, lm: types.LayeredLM, params: types.Params
  ) -> types.Params:
    """See `CausalDecoder`; the copy is read whole, too."""
    draft = types.unstacked(lm, params['draft'])
    return {**super().unstacked(lm, params), 'draft': draft}

  def draft(
    self,
    lm: types.LayeredLM,
    params: types.Params,
    state: rounds.RoundState,
    prompt: types.Canvas,
    vocab: types.Vocabulary,
  ) -> Int[Array, 'B W']:
    """Greedy tokens of the compressed model.

    With a cache it reads the model's own keys and values of the text; those of
    the drafts are kept for the round alone.
    """
    model = params['draft']

    def with_cache(carry, _):
      last, cache = carry
      logits, cache = lm.extend(model, last[:, None], live, cache)
      last = sampling.best(logits[:, 0], vocab)
      return (last, cache), last

    def without(drafts, k):
      whole = rounds.text(state, drafts, prompt)
      column = prompt.tokens.shape[1] + state.length[:, None] + k
      logits = lm(model, whole.tokens, whole.attention_mask, column)
      made = sampling.best(logits[:, 0], vocab)
      return drafts.at[:, k].set(made), None

    if state.cache is None:
      blank = jnp.zeros((len(state.last), self.draft_length), jnp.int32)
      return jax.lax.scan(without, blank, jnp.arange(self.draft_length))[0]
    live = ~state.done[:, None]
    start = state.last, state.cache
    _, drafts = jax.lax.scan(with_cache, start, length=self.draft_length)
    return drafts.T
