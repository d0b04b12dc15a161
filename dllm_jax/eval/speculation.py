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

from dllm_jax import types
from dllm_jax.decoding import autoregressive, fractal, rounds, speculative
from dllm_jax.ops import sampling
from dllm_jax.rollout import answer_free, prompts, score
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
    if self.num_prompts < 0:
      raise ValueError(f'num_prompts {self.num_prompts} is negative')
    for name in ('modules', 'compressions'):
      if not getattr(self, name):
        raise ValueError(f'{name} is empty')

  def decoders(self) -> list[rounds.CausalDecoder]:
    """The sequential draft, and both forms of the fractal decoder."""
    pairs = [(how, m) for how in self.compressions for m in self.modules]
    made = [
      speculative.Draft(
        gen_length=self.gen_length, compression=how, draft_length=m
      )
      for how, m in pairs
    ]
    forms = [(count, True, pairs) for count in self.placeholders]
    if self.no_cache:  # slow: with one compression
      forms.append((0, False, pairs[: len(self.modules)]))
    for num_placeholders, use_cache, pairs in forms:
      made += [
        fractal.Fractal(
          gen_length=self.gen_length,
          compression=how,
          num_modules=m,
          num_placeholders=num_placeholders,
          use_cache=use_cache,
        )
        for how, m in pairs
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
    self._lm, self._params, self._cfg = lm, params, cfg
    self._vocab, self._mesh = vocab, mesh
    padded = prompts.pad_left(rows, max(map(len, rows)), vocab.eos_token)
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
    self._seconds = {}  # of a greedy token, by use_cache
    for use_cache in (False, True)[not cfg.no_cache :]:
      self.greedy, seconds = self._decode(make(use_cache=use_cache), params)
      self._seconds[use_cache] = seconds / int(self.greedy.num_steps.max())
    self._mask = score.completion_mask(self.greedy.tokens, vocab.stop_tokens)
    self._copies = {how: lm.compress(params, how) for how in cfg.compressions}
    tokens, mask = process_rows.place(
      (self.greedy.tokens, self._mask), mesh, len(rows)
    )
    self._inputs = _Inputs(self._prompts, tokens, mask)
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
      'num_layers': self._lm.num_layers,
      'agreement': self._agreement,
      'greedy': {
        'cache' if use_cache else 'no_cache': {
          'tokens_per_second': tokens
          / (seconds * int(self.greedy.num_steps.max()))
        }
        for use_cache, seconds in self._seconds.items()
      },
    }

  def compare(
    self, decoder: speculative.SelfSpeculative
  ) -> tuple[dict[str, Any], types.Trajectory]:
    """A row of the table, one decoder beside the greedy one; its completions.

    tokens_per_round: over rounds that neither a stop nor the length cut short.
    predicted_tokens: of such a round, from `agreement`.
    cost: seconds of a round over those of a call of the model with as many
      columns; predicted_cost: from the cost c of a compressed call.
    """
    params = {
      'model': self._params,
      'draft': self._copies[decoder.compression],
    }
    made, seconds = self._decode(decoder, params)
    is_same = made.tokens == self.greedy.tokens
    counts = _tokens_by_round(made, self._mask)
    num_tokens, num_rounds = int(self._mask.sum()), int(made.num_steps.sum())
    p = self._agreement[decoder.compression]
    is_fractal = isinstance(decoder, fractal.Fractal)
    own, m = (
      (2, decoder.num_modules) if is_fractal else (1, decoder.draft_length)
    )
    width = decoder.num_drafts if is_fractal else 1
    model_call, copy_call = (
      self._call_seconds(params[name], width, decoder.use_cache)
      for name in ('model', 'draft')
    )
    round_seconds = seconds / int(made.num_steps.max())
    c = copy_call / model_call
    regime = 'cache' if decoder.use_cache else 'no_cache'
    greedy = self.summary()['greedy'][regime]['tokens_per_second']
    row = {
      'decode': 'fractal' if is_fractal else 'draft',
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
      'speedup': num_tokens / seconds / greedy,
      'c': c,
      'cost': round_seconds / model_call,
      'predicted_cost': own + m * c,
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
    if 'model' not in params:
      params = decoder.prepare(self._lm, params)

    def run():
      trajectory = answer_free.sample(
        self._lm,
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
      width=width,
      use_cache=use_cache,
      vocab=self._vocab,
    )
    run = lambda: jax.block_until_ready(call())
    return timed(run, self._cfg.repeats)[1] / NUM_CALLS


def study(
  lm: types.LayeredLM,
  params: types.Params,
  rows: Sequence[Sequence[int]],
  cfg: StudyConfig,
  *,
  vocab: types.Vocabulary,
  mesh: Mesh,
  advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """The whole comparison: `Study.summary`, and a row for each decoder.

  Args:
    lm: the model.
    params: its parameters, on `mesh`.
    rows: prompt ids.
    cfg: what to compare.
    vocab: special ids.
    mesh: device mesh.
    advance: called after each decoder.
  """
  made, table = Study(lm, params, rows, cfg, vocab=vocab, mesh=mesh), []
  for decoder in cfg.decoders():
    table.append(made.compare(decoder)[0])
    advance()
  return made.summary() | {'rows': table}


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


def _tokens_by_round(
  made: types.Trajectory, mask: Bool[np.ndarray, 'B L']
) -> Int[np.ndarray, ' N']:
  """Tokens of every round but the last of a row, which may be cut short."""
  counts = []
  for step, counted, num in zip(
    made.commit_step, mask, made.num_steps, strict=True
  ):
    counts.append(np.bincount(step[counted], minlength=num)[: num - 1])
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


@functools.partial(
  jax.jit, static_argnames=('lm', 'width', 'use_cache', 'vocab')
)
def _calls(
  lm: types.LayeredLM,
  params: types.Params,
  inputs: _Inputs,
  *,
  width: int,
  use_cache: bool,
  vocab: types.Vocabulary,
) -> Int[Array, 'B Q']:
  """`NUM_CALLS` calls of Q columns, each of which needs the one before it."""
  rows, length = inputs.tokens.shape
  size = inputs.prompts.ids.shape[1]
  start = jnp.broadcast_to(inputs.prompts.ids[:, -1:], (rows, width))
  ones = jnp.ones((rows, width), bool)
  if use_cache:
    cache = lm.init_cache(rows, size + length + width)
    _, cache = lm.prefill(params, *inputs.prompts[:2], cache)

    def call(_, tokens):
      logits, _ = lm.extend(params, tokens, ones, cache)
      return sampling.best(logits, vocab)

    return jax.lax.fori_loop(0, NUM_CALLS, call, start)
  mask = jnp.concatenate([inputs.prompts.mask, inputs.mask], axis=1)
  mask = jnp.concatenate([mask, ones], axis=1)
  column = jnp.broadcast_to(size + length + jnp.arange(width)[None], ones.shape)

  def call(_, tokens):
    text = jnp.concatenate([inputs.prompts.ids, inputs.tokens, tokens], axis=1)
    return sampling.best(lm(params, text, mask, column), vocab)

  return jax.lax.fori_loop(0, NUM_CALLS, call, start)
