"""Small causal models, drafts that are given, and twins that tests share.

Dims: B rows, S slots or canvas columns, Q columns, L completion columns, W
drafts, V vocabulary.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from dllm_jax import types
from dllm_jax.decoding import fields, rounds
from dllm_jax.models import transformer
from dllm_jax.ops import schedules
from tests import tiny

EOS = tiny.EOS
# Ids 30 and 31 are beyond the text, as in `tiny.VOCAB`; there is no [MASK].
VOCAB = types.Vocabulary(size=30, mask_token=None, eos_token=EOS)
CFG = dataclasses.replace(tiny.MODEL, causal=True, num_layers=4)
LM = transformer.TransformerCausalLM(cfg=CFG)


@functools.partial(jax.jit, static_argnames=('lm', 'vocab'))
def decode(lm, params, keys, canvas, decoder, *, vocab=VOCAB):
  """What a decoder makes of a canvas; `params` come from `prepare`."""
  return decoder(lm, params, keys, canvas, vocab=vocab)


@functools.cache
def params(seed: int = 0, cfg=CFG):
  """Random parameters, under which EOS is never the best token."""
  made = tiny.params(cfg, seed)
  kernel = made['lm_head']['kernel'].copy()
  kernel[:, EOS] = 0.0
  kernel[:, VOCAB.size :] *= 3.0  # so that they would often be the best
  return {**made, 'lm_head': {'kernel': kernel}}


def renamed(params, token: int):
  """The same model, in which `token` and EOS have exchanged their ids."""
  ids = np.arange(tiny.ROWS)
  ids[[token, EOS]] = EOS, token
  return {
    **params,
    'embed_tokens': params['embed_tokens'][ids],
    'lm_head': {'kernel': params['lm_head']['kernel'][:, ids]},
  }


def canvas(prompts, gen_length: int, *, width=None):
  return tiny.canvas(prompts, gen_length, width=width, mask_token=EOS)


class TextCache(NamedTuple):
  """The tokens that a `TableLM` has read; others stay in the slots."""

  tokens: Int[Array, 'B S']
  length: Int[Array, ' B']


@dataclasses.dataclass(frozen=True)
class TableLM:
  """A `types.CausalLM` whose logits are read from tables.

  logits = table[last token] + sum over all tokens x of the text of context[x]

  So they are wrong if any token is missing, or is there twice. Every value is a
  multiple of 1/64: the sums are exact in any order.
  """

  def init_cache(self, num_rows, num_slots):
    shape = num_rows, num_slots
    return TextCache(jnp.zeros(shape, int), jnp.zeros(num_rows, int))

  def truncate(self, cache, length):
    return cache._replace(length=jnp.minimum(cache.length, length))

  def take(self, cache, rows):
    return TextCache(cache.tokens[rows], cache.length[rows])

  def prefill(self, params, tokens, attention_mask, cache):
    empty = self.truncate(cache, jnp.zeros_like(cache.length))
    return self.extend(params, tokens, attention_mask, empty)

  def extend(self, params, tokens, attention_mask, cache):
    rows, num_slots = cache.tokens.shape
    place = cache.length[:, None] + schedules.positions(attention_mask)
    slot = jnp.where(attention_mask, place, num_slots)
    held = cache.tokens.at[jnp.arange(rows)[:, None], slot].set(
      tokens, mode='drop'
    )
    reads = jnp.arange(num_slots)[None, None] <= place[..., None]
    logits = self._logits(params, tokens, held, reads)
    length = cache.length + jnp.sum(attention_mask, axis=1)
    return logits, TextCache(held, length)

  def __call__(self, params, tokens, attention_mask, query):
    columns = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    reads = attention_mask[:, None] & (columns[:, None] < query[..., None])
    before = jnp.max(jnp.where(reads, columns[:, None], 0), axis=-1)
    last = jnp.take_along_axis(tokens, before, axis=1)
    return self._logits(params, last, tokens, reads)

  def _logits(self, params, last, held, reads):
    table, context = map(jnp.asarray, (params['table'], params['context']))
    seen = jnp.where(reads[..., None], context[held][:, None], 0.0)
    return table[last] + seen.sum(2)


@fields.decoder
class Scripted(rounds.CausalDecoder):
  """Drafts for completion columns from `params['script']`, [B, L + W]."""

  width: int = fields.static('drafts of a round', default=3)

  @property
  def num_drafts(self) -> int:
    return self.width

  def draft(self, lm, params, state, prompt, vocab):
    column = state.length[:, None] + jnp.arange(self.width)[None]
    return jnp.take_along_axis(params['script'], column, axis=1)


def first_stop(tokens, vocab=VOCAB) -> int:
  """Number of tokens up to and including the first stop token."""
  at = np.flatnonzero(np.isin(tokens, vocab.stop_tokens))
  return int(at[0]) + 1 if len(at) else len(tokens)


def round_sizes(trajectory) -> list[list[int]]:
  """Committed tokens of every round of every row."""
  sizes = []
  for when, total in zip(
    np.asarray(trajectory.commit_step), trajectory.num_steps, strict=True
  ):
    count = np.bincount(when[when < int(total)], minlength=int(total))
    sizes.append(count.tolist())
  return sizes


def offsets(when) -> list[int]:
  """The place of each column in the round that committed it."""
  return [int(k - np.argmax(when == t)) for k, t in enumerate(when)]


def check_accounts(trajectory, num_drafts: int, vocab=VOCAB) -> None:
  """Asserts what holds of every trajectory of rounds, whoever drafts."""
  tokens, logp, when, num_steps, drafted = map(np.asarray, trajectory)
  width = tokens.shape[1]
  for row in range(len(tokens)):
    n = first_stop(tokens[row], vocab)
    # Behind the stop token nothing is committed.
    np.testing.assert_array_equal(tokens[row, n:], vocab.eos_token)
    np.testing.assert_array_equal(when[row, n:], num_steps[row])
    np.testing.assert_array_equal(drafted[row, n:], -1)
    np.testing.assert_array_equal(logp[row, n:], 0.0)
    assert (logp[row, :n] <= 0).all()
    assert (tokens[row] >= 0).all() and (tokens[row] < vocab.size).all()
    # Every round commits, and the rounds go from left to right.
    assert (np.diff(when[row]) >= 0).all()
    sizes = np.bincount(when[row, :n], minlength=num_steps[row])
    assert len(sizes) == num_steps[row] and sizes.sum() == n
    assert (sizes >= 1).all() and (sizes <= num_drafts + 1).all()
    place = np.array(offsets(when[row, :n]))
    is_last = np.append(when[row, 1:n] != when[row, : n - 1], True)
    draft = drafted[row, :n]
    np.testing.assert_array_equal(draft == -1, place == num_drafts)
    agrees = draft == tokens[row, :n]
    assert agrees[~is_last].all()
    # A round ends at its first wrong draft, if neither L nor a stop does it.
    assert not agrees[is_last][:-1].any()
    if n == width and tokens[row, -1] not in vocab.stop_tokens:
      continue
    assert tokens[row, n - 1] in vocab.stop_tokens


def rows_of(trajectory, rows):
  at = np.asarray(rows)
  return jax.tree.map(lambda x: np.asarray(x)[at], trajectory)


def same(a, b, *, steps=True) -> None:
  names = (
    'tokens',
    *(('commit_step', 'num_steps', 'drafted') if steps else ()),
  )
  for name in names:
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  np.testing.assert_allclose(a.logp, b.logp, rtol=1e-4, atol=1e-5)
