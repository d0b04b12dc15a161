"""Decoding through each cache beside decoding without one.

Speed, operations, bytes, and how far the model is from what it says without a
cache. Dims: B rows, W columns of a block.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from dllm_jax import errors, types
from dllm_jax import model as model_lib
from dllm_jax.bench import cache_costs, cases, programs, suites
from dllm_jax.decoding import block_decoder, blocks, caching, guidance
from dllm_jax.ops import sampling, streams
from dllm_jax.rollout import answer_free, prompts
from dllm_jax.run import prompt_file

NAMES = ('none', 'prefix', 'dual', 'refresh', 'vicinity')


def decoders(
  decoder: block_decoder.BlockDecoder, names: Sequence[str] = NAMES
) -> dict[str, block_decoder.BlockDecoder]:
  """The decoder with each cache, by name.

  'refresh' and 'vicinity' are remedies of 'dual' for stale keys and values: a
  call on the whole canvas every W / 8 steps (at least 2), and a window of W / 4
  more columns (at least 1) on either side.

  Args:
    decoder: how to decode.
    names: some of `NAMES`; 'none', which the others are compared with, is made
      in any case.
  """
  width = decoder.block_length
  fields = {
    'none': {'cache': 'none'},
    'prefix': {'cache': 'prefix'},
    'dual': {'cache': 'dual'},
    'refresh': {'cache': 'dual', 'refresh_every': max(2, width // 8)},
    'vicinity': {'cache': 'dual', 'vicinity': max(1, width // 4)},
  }
  plain = dataclasses.replace(decoder, refresh_every=0, vicinity=0)
  return {
    name: dataclasses.replace(plain, **changes)
    for name, changes in fields.items()
    if name == 'none' or name in names
  }


class _Kept:
  """A denoiser that keeps the logits that it returned."""

  def __init__(self, denoiser: types.CachedDenoiser):
    self._denoiser = denoiser

  def __getattr__(self, name: str) -> Any:
    return getattr(self._denoiser, name)

  def unembed(self, params, states):
    self.logits = self._denoiser.unembed(params, states)
    return self.logits


def divergence(
  denoiser: types.CachedDenoiser,
  params: types.Params,
  row_keys: Key[Array, ' B'],
  canvas: types.Canvas,
  decoder: block_decoder.BlockDecoder,
  *,
  vocab: types.Vocabulary,
) -> Float[Array, '']:
  """Mean of KL(p || q) over the undecided columns of the blocks, in nats.

  q is what the model says through the cache of `decoder`, and p what it says of
  the same canvas without one, at every step of a decode through the cache.

  Args:
    denoiser: the model.
    params: its parameters.
    row_keys: one key per row, consumed as by `blocks.run`.
    canvas: prompts followed by the completion columns.
    decoder: how rows are decoded; with a cache.
    vocab: special ids.
  """
  denoiser, params = guidance.guided(
    denoiser,
    params,
    decoder.cfg_scale,
    gen_length=decoder.gen_length,
    vocab=vocab,
  )
  mask = canvas.attention_mask
  logp = lambda x: jax.nn.log_softmax(sampling.allowed_logits(x, vocab), -1)

  def goes_on(carry):
    return ~jnp.all(blocks.is_done(carry[0], vocab, decoder))

  def step(carry):
    state, total, count = carry
    keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, state.step)
    block, kept = blocks.active(state, vocab, decoder), _Kept(denoiser)
    p = logp(denoiser(params, state.tokens, mask, block.column))
    state = decoder.step(kept, params, keys, state, mask, vocab=vocab)
    q = logp(kept.logits)
    own = jnp.where(jnp.isfinite(p), jnp.exp(p) * (p - q), 0.0).sum(-1)
    total += jnp.where(block.eligible, own, 0.0).sum()
    return state, total, count + block.eligible.sum()

  cache = caching.empty(denoiser, params, canvas)
  start = blocks.init_state(canvas, vocab, decoder)._replace(cache=cache)
  carry = start, jnp.float32(0), jnp.int32(0)
  _, total, count = jax.lax.while_loop(goes_on, step, carry)
  return total / jnp.maximum(count, 1)


def compare(
  denoiser: types.CachedDenoiser,
  params: types.Params,
  encoded: prompts.RowPrompts,
  tried: Mapping[str, block_decoder.BlockDecoder],
  *,
  vocab: types.Vocabulary,
  mesh: Mesh,
  rounds: int,
  others: Mapping[str, Callable[[], object]] | None = None,
  with_kl: bool = False,
) -> list[dict[str, Any]]:
  """Decodes a batch through each cache in turn; a row of a table for each.

  Args:
    denoiser: the model.
    params: its parameters, for all decoders.
    encoded: the prompts.
    tried: of `decoders`.
    vocab: special ids.
    mesh: a mesh of one device.
    rounds: number of measured decodes of each, the first of which warms up.
    others: more functions to take turns, such as the PyTorch loops.
    with_kl: compute `divergence` as well, at the cost of a decode or two.
  """
  key = streams.step_key(jax.random.key(0), 'eval', 0)
  kwargs = {'mesh': mesh, 'vocab': vocab}
  found = {}

  def decode(name):
    run, decoder = compiled[name], tried[name]
    found[name] = jax.device_get(run(params, key, encoded, decoder))

  compiled = {
    name: answer_free.sample.lower(
      denoiser, params, key, encoded, decoder, **kwargs
    ).compile()
    for name, decoder in tried.items()
  }
  timed = {name: lambda name=name: decode(name) for name in tried}
  taken = suites.in_turns(timed | dict(others or {}), rounds, warm_up=False)
  plain = tried['none']
  rows, columns = len(encoded.ids), encoded.ids.shape[1] + plain.gen_length
  shape = {'columns': columns, 'block': plain.block_length}
  table = []
  for name, decoder in tried.items():
    steps = cache_costs.block_steps(found[name], decoder.block_length)
    made = cache_costs.calls(decoder, steps)
    row = {
      'cache': name,
      'decoder': dataclasses.asdict(decoder),
      'device': jax.devices()[0].device_kind,
      'tokens_per_second': rows * decoder.gen_length / taken[name].wall,
      'mean_steps': float(np.mean(found[name].num_steps)),
      'calls': {'whole': made.whole, 'windows': made.windows},
      'flops': cache_costs.flops(made, denoiser, params, **shape),
      'cache_bytes': 0,
      'same_as_none': float(
        np.mean(found[name].tokens == found['none'].tokens)
      ),
      'kl': None,
      'seconds': taken[name]._asdict(),
      'speedup': {
        other: {
          'wall': taken[other].wall / taken[name].wall,
          'cpu': taken[other].cpu / taken[name].cpu,
        }
        for other in ('none', *(others or {}))
      },
    }
    row['flops_over_none'] = row['flops'] / (table or [row])[0]['flops']
    if name != 'none':
      row['cache_bytes'] = cache_costs.cache_bytes(
        denoiser, params, rows=rows, columns=columns
      )
      if with_kl:
        row['kl'] = _kl(denoiser, params, key, encoded, decoder, vocab)
    table.append(row)
  return table


def of_case(
  case: programs.Case,
  mesh: Mesh,
  *,
  reference: Any,
  rounds: int,
  names: Sequence[str],
) -> list[dict[str, Any]]:
  """`compare` of greedy decoding with random weights and prompts.

  Args:
    case: the model and its decoder.
    mesh: a mesh of one device.
    reference: the module `torch_reference`, or None.
    rounds: number of measured decodes of each.
    names: some of `NAMES`.
  """
  params, ids = cases.weights(case.model), cases.prompts(case)
  if reference is not None:
    model = reference.Model(cfg=case.model, params=reference.leaves(params))

  def theirs(_, tuned):
    return lambda: reference.decode(model, case, ids, tuned=tuned)

  encoded = prompts.RowPrompts(
    jnp.asarray(ids),
    jnp.ones(ids.shape, bool),
    jnp.arange(case.rows, dtype=jnp.int32),
  )
  rows = compare(
    case.denoiser,
    params,
    encoded,
    decoders(case.decoder, names),
    vocab=case.vocab,
    mesh=mesh,
    rounds=rounds,
    others=suites.reference_calls(reference, theirs),
  )
  return [{'case': case.name, 'weights': 'random'} | row for row in rows]


def of_model(
  model: model_lib.Model,
  requests: Sequence[prompt_file.Request],
  decoder: block_decoder.BlockDecoder,
  *,
  rounds: int,
  names: Sequence[str],
) -> list[dict[str, Any]]:
  """`compare` of a model's own completions, all prompts in one batch.

  Args:
    model: with its parameters, on one device.
    requests: prompts.
    decoder: how to decode; its cache is not read.
    rounds: number of measured decodes of each.
    names: some of `NAMES`.

  Raises:
    errors.UserError: the model or the decoder has no cache of this kind.
  """
  if decoder.is_causal:
    raise errors.UserError(
      '--suite caches compares the caches of masked diffusion models, and this '
      'model is causal: use --suite speculative'
    )
  tried = decoders(decoder, names)
  for each in tried.values():
    each.check(model.denoiser)
  template = model.prompt_template(None)
  ids = [
    model.encode(r.ids if r.text is None else r.text, template)
    for r in requests
  ]
  padded = prompts.pad_left(ids, max(map(len, ids)), model.vocab.eos_token)
  rows = compare(
    model.denoiser,
    model.params,
    prompts.RowPrompts(
      jnp.asarray(padded.ids),
      jnp.asarray(padded.mask),
      jnp.arange(len(ids), dtype=jnp.int32),
    ),
    tried,
    vocab=model.vocab,
    mesh=model.mesh,
    rounds=rounds,
    with_kl=True,
  )
  case = f'{len(ids)} rows'
  return [{'case': case, 'weights': model.name} | row for row in rows]


def _kl(denoiser, params, key, encoded, decoder, vocab) -> float:
  blank = jnp.full(
    (len(encoded.ids), decoder.gen_length), vocab.blank, jnp.int32
  )
  measure = jax.jit(divergence, static_argnames=('denoiser', 'vocab'))
  return float(
    measure(
      denoiser,
      params,
      streams.row_keys(key, encoded.row_id),
      prompts.canvas(encoded.ids, encoded.mask, blank),
      decoder,
      vocab=vocab,
    )
  )
