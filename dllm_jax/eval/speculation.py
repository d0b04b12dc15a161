"""What speculative decoding gains and costs, beside decoding token by token.

Every decoder completes the same prompts as the greedy one. Reported are: that
the completions are the same; tokens a round, beside what the agreement p of the
compressed model with the model predicts; and the time of a round, beside what
the cost c of a compressed call predicts. Dims: B rows, L completion columns, Q
columns of a call.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from dllm_jax import types, validation
from dllm_jax.decoding import autoregressive, fractal, rounds, speculative
from dllm_jax.ops import sampling
from dllm_jax.rollout import answer_free, prompts, score, sharded
from dllm_jax.runtime import process_rows

NUM_CALLS = 4  # of a timed loop of calls


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
  """Which decoders are compared, and on what.

  Attributes:
    num_prompts: held-out prompts; 0 is no comparison.
    gen_length: completion tokens, at most.
    modules: m of the fractal decoder, and drafts of the sequential one.
    compressions: of the copy that drafts.
    placeholders: D of the fractal decoder.
    no_cache: whether its form without a cache is compared too, with the first
      of the compressions.
    repeats: timed runs of a decoder, of which the fastest counts.
  """

  num_prompts: int
  gen_length: int
  modules: tuple[int, ...]
  compressions: tuple[str, ...]
  placeholders: tuple[int, ...] = (1, 0)
  no_cache: bool = True
  repeats: int = 2

  def __post_init__(self):
    validation.not_negative(self, 'num_prompts', 'repeats')
    for name in ('modules', 'compressions', 'placeholders'):
      if not getattr(self, name):
        raise ValueError(f'{name} is empty')
    self.decoders()  # which check the other values

  def decoders(self) -> list[rounds.CausalDecoder]:
    """Sequential draft and fractal decoder, with a cache and without."""
    pairs = [(how, m) for how in self.compressions for m in self.modules]
    regimes = [(True, pairs)]
    if self.no_cache:  # slow: with one compression
      regimes.append((False, pairs[: len(self.modules)]))
    made = []
    for use_cache, chosen in regimes:
      shared = {'gen_length': self.gen_length, 'use_cache': use_cache}
      made += [
        speculative.Draft(compression=how, draft_length=m, **shared)
        for how, m in chosen
      ]
      made += [
        fractal.Fractal(
          compression=how, num_modules=m, num_placeholders=count, **shared
        )
        for count in (self.placeholders if use_cache else (0,))
        for how, m in chosen
      ]
    return made


class _Inputs(NamedTuple):
  """Prompts, padded on the left, and greedy completions."""

  prompts: prompts.RowPrompts
  tokens: Int[Array, 'B L']
  mask: Bool[Array, 'B L']


class Study:
  """The comparison on one batch of prompts.

  Attributes:
    greedy: trajectory of the greedy decoder.
  """

  def __init__(
    self,
    lm: types.LayeredLM,
    params: types.Params,
    rows: Sequence[Sequence[int]],
    cfg: StudyConfig,
    *,
    vocab: types.Vocabulary,
    mesh: Mesh,
  ):
    """Decodes the prompts greedily, with a cache and without.

    Args:
      lm: the model.
      params: its parameters, on `mesh`.
      rows: prompt ids; decoded together.
      cfg: what to compare.
      vocab: special ids.
      mesh: device mesh; its row shards must divide the number of prompts.
    """
    self._whole, self._params, self._cfg = lm, params, cfg
    self._vocab, self._mesh = vocab, mesh
    size = max(map(len, rows))
    widest = max(decoder.num_drafts for decoder in cfg.decoders())
    self._num_slots = size - 1 + cfg.gen_length + widest
    padded = prompts.pad_left(rows, size, vocab.eos_token)
    self._prompts = process_rows.place(
      prompts.RowPrompts(
        padded.ids, padded.mask, np.arange(len(rows), dtype=np.int32)
      ),
      mesh,
      len(rows),
    )
    make = functools.partial(
      autoregressive.Autoregressive, gen_length=cfg.gen_length
    )
    self._lm = sharded.placed(lm, mesh)
    greedy = {
      use_cache: self._decode(make(use_cache=use_cache), {'model': params})
      for use_cache in (True, False)[: 1 + cfg.no_cache]
    }
    self.greedy = greedy[True][0]
    self._mask = score.completion_mask(self.greedy.tokens, vocab.stop_tokens)
    self._copies = {how: lm.compress(params, how) for how in cfg.compressions}
    tokens, mask = process_rows.place(
      (self.greedy.tokens, self._mask), mesh, len(rows)
    )
    self._inputs = _Inputs(self._prompts, tokens, mask)
    prefill = functools.partial(
      _prefill, self._lm, params, self._prompts, num_slots=self._num_slots
    )
    # It is subtracted from other times: noise in it must not exceed those.
    self._cache, self._prefill_seconds = timed(
      lambda: jax.block_until_ready(prefill()), max(cfg.repeats, 5)
    )
    num_steps = int(self.greedy.num_steps.max())
    self._regimes = {
      use_cache: {
        'seconds': seconds,
        'step': (seconds - self._prefill_seconds * use_cache) / num_steps,
        'identical': int((made.tokens == self.greedy.tokens).all(axis=1).sum()),
      }
      for use_cache, (made, seconds) in greedy.items()
    }
    _, self._gaps = self._read(params)
    self._agreement = {
      how: float(self._read(copy)[0][self._mask].mean())
      for how, copy in self._copies.items()
    }

  def summary(self) -> dict[str, Any]:
    """What does not depend on a speculative decoder."""
    tokens = int(self._mask.sum())
    return {
      'num': len(self.greedy.tokens),
      'tokens': tokens,
      'num_layers': self._whole.num_layers,
      'agreement': self._agreement,
      'greedy': {
        'cache' if use_cache else 'no_cache': {
          'tokens_per_second': tokens / regime['seconds'],
          'identical': regime['identical'],
        }
        for use_cache, regime in self._regimes.items()
      },
    }

  def compare(
    self, decoder: speculative.SelfSpeculative
  ) -> tuple[dict[str, Any], types.Trajectory]:
    """A row of the table, one decoder beside the greedy one; its completions.

    tokens_per_round: of rounds that the end of the text could not cut short.
    predicted_tokens: of such a round, 2 + sum_{i=1..m} p^i, without the 2's
      first 1 for the sequential draft; p is the agreement over whole texts.
    c: seconds of a call of the compressed model over those of the model, with
      as many columns as a pass of the drafter has.
    cost: seconds of a round over those of a greedy token, both after the prompt
      is read.
    predicted_cost: from the seconds of the single calls; 2 + m c (1 + m c) if a
      call costs the same whatever its number of columns.
    """
    params = {
      'model': self._params,
      'draft': self._copies[decoder.compression],
    }
    made, seconds = self._decode(decoder, params)
    is_same = made.tokens == self.greedy.tokens
    counts = _full_rounds(made, self._mask, decoder.num_drafts + 1)
    num_tokens, num_rounds = int(self._mask.sum()), int(made.num_steps.sum())
    p = self._agreement[decoder.compression]
    call = functools.partial(self._call_seconds, use_cache=decoder.use_cache)
    verify = call(params['model'], decoder.num_drafts + 1)
    if isinstance(decoder, fractal.Fractal):
      own, m, width = 2, decoder.num_modules, decoder.num_drafts
    else:
      own, m, width = 1, decoder.draft_length, 1
    model, copy = (call(params[name], width) for name in ('model', 'draft'))
    one_pass = model if own == 2 else 0.0
    regime = self._regimes[decoder.use_cache]
    in_rounds = seconds - self._prefill_seconds * decoder.use_cache
    row = {
      'decode': 'fractal' if own == 2 else 'draft',
      'compression': decoder.compression,
      'm': m,
      'num_placeholders': getattr(decoder, 'num_placeholders', None),
      'use_cache': decoder.use_cache,
      'identical': int(is_same.all(axis=1).sum()),
      'worst_gap': self._worst_gap(is_same),
      'tokens_per_round': float(np.mean(counts)) if len(counts) else None,
      'predicted_tokens': own + sum(p**i for i in range(1, m + 1)),
      'histogram': np.bincount(counts, minlength=m + 3).tolist(),
      'calls_per_token': own * num_rounds / num_tokens,
      'compressed_calls_per_token': m * num_rounds / num_tokens,
      'tokens_per_second': num_tokens / seconds,
      'speedup': regime['seconds'] / seconds,
      'c': copy / model,
      'cost': in_rounds / int(made.num_steps.max()) / regime['step'],
      'predicted_cost': (one_pass + m * copy + verify) / regime['step'],
    }
    return row, made

  def _worst_gap(self, is_same: Bool[np.ndarray, 'B L']) -> float | None:
    """The largest gap between the two best logits where rows first differ."""
    rows = np.flatnonzero(~is_same.all(axis=1))
    first = np.argmin(is_same[rows], axis=1)
    return float(self._gaps[rows, first].max()) if len(rows) else None

  def _decode(
    self, decoder: types.Decoder, params: types.Params
  ) -> tuple[types.Trajectory, float]:
    """The completions on the host, and the least seconds of the timed runs."""

    def run():
      trajectory = answer_free.sample(
        self._whole,
        params,
        jax.random.key(0),
        self._prompts,
        decoder,
        mesh=self._mesh,
        vocab=self._vocab,
      )
      return process_rows.fetch(trajectory)

    return timed(run, self._cfg.repeats)

  def _read(
    self, params: types.Params
  ) -> tuple[Bool[np.ndarray, 'B L'], Float[np.ndarray, 'B L']]:
    """Where the greedy tokens are the best of `params`, and its gaps there."""
    read = _read(self._lm, params, self._inputs, vocab=self._vocab)
    return process_rows.fetch(read)

  def _call_seconds(
    self, params: types.Params, width: int, use_cache: bool
  ) -> float:
    """Seconds of a call of Q columns, after the text or with all of it."""
    call = functools.partial(
      _calls,
      self._lm,
      params,
      self._inputs,
      self._cache if use_cache else None,
      width=width,
      vocab=self._vocab,
    )
    run = lambda: jax.block_until_ready(call())
    return timed(run, self._cfg.repeats)[1] / NUM_CALLS


def timed(run: Callable[[], Any], repeats: int) -> tuple[Any, float]:
  """The result of a function, and the least seconds of its repetitions.

  The first call is not timed, since it compiles; with no repetition it is.
  """
  began = time.perf_counter()
  result = run()
  seconds = [time.perf_counter() - began]
  for _ in range(repeats):
    began = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - began)
  return result, min(seconds[repeats > 0 :])


def _full_rounds(
  made: types.Trajectory, mask: Bool[np.ndarray, 'B L'], width: int
) -> Int[np.ndarray, ' N']:
  """Tokens of every round that begins at least `width` before the text's end.

  To leave out each row's last round would favour short ones.
  """
  counts = [np.zeros(0, int)]
  for step, counted, num in zip(
    made.commit_step, mask, made.num_steps, strict=True
  ):
    tokens = np.bincount(step[counted], minlength=num)
    begin = np.cumsum(tokens) - tokens
    counts.append(tokens[begin + width <= counted.sum()])
  return np.concatenate(counts)


@functools.partial(jax.jit, static_argnames=('lm', 'vocab'))
def _read(
  lm: types.Denoiser,
  params: types.Params,
  inputs: _Inputs,
  *,
  vocab: types.Vocabulary,
) -> tuple[Bool[Array, 'B L'], Float[Array, 'B L']]:
  """Whether each token is the best of its column, and by how much one leads."""
  column = inputs.prompts.ids.shape[1] + jnp.arange(inputs.tokens.shape[1])
  logits = lm(
    params,
    jnp.concatenate([inputs.prompts.ids, inputs.tokens], axis=1),
    jnp.concatenate([inputs.prompts.mask, inputs.mask], axis=1),
    jnp.broadcast_to(column[None], inputs.tokens.shape),
  )
  two, _ = jax.lax.top_k(sampling.allowed_logits(logits, vocab), 2)
  best = sampling.best(logits, vocab)
  return best == inputs.tokens, two[..., 0] - two[..., 1]


@functools.partial(jax.jit, static_argnames=('lm', 'num_slots'))
def _prefill(
  lm: types.CausalLM,
  params: types.Params,
  before: prompts.RowPrompts,
  *,
  num_slots: int,
) -> types.Cache:
  """The cache of the prompts."""
  cache = lm.init_cache(before.ids.shape[0], num_slots)
  return lm.prefill(params, before.ids, before.mask, cache)[1]


@functools.partial(jax.jit, static_argnames=('lm', 'width', 'vocab'))
def _calls(
  lm: types.CausalLM,
  params: types.Params,
  inputs: _Inputs,
  cache: types.Cache | None,
  *,
  width: int,
  vocab: types.Vocabulary,
) -> Int[Array, 'B Q']:
  """`NUM_CALLS` calls of Q columns, each of which needs the one before it.

  They follow the prompts in the cache; without one, each reads prompts and
  completions as well.
  """
  params = types.unstacked(lm, params)  # as decoding reads them
  rows, length = inputs.tokens.shape
  start = jnp.broadcast_to(inputs.tokens[:, :1], (rows, width))
  ones = jnp.ones((rows, width), bool)

  def with_cache(_, tokens):
    logits, _ = lm.extend(params, tokens, ones, cache)
    return sampling.best(logits, vocab)

  def without(_, tokens):
    text = jnp.concatenate([inputs.prompts.ids, inputs.tokens, tokens], axis=1)
    mask = jnp.concatenate([inputs.prompts.mask, inputs.mask, ones], axis=1)
    first = inputs.prompts.ids.shape[1] + length
    column = jnp.broadcast_to(first + jnp.arange(width)[None], ones.shape)
    return sampling.best(lm(params, text, mask, column), vocab)

  call = without if cache is None else with_cache
  return jax.lax.fori_loop(0, NUM_CALLS, call, start)
