"""Causal models through the cache: as without one, whatever the chunks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dllm_jax import types
from dllm_jax.hf import load
from dllm_jax.models import attention, network, stack, transformer
from dllm_jax.ops import schedules
from dllm_jax.runtime import sharding
from tests import tiny

CAUSAL = dataclasses.replace(tiny.MODEL, causal=True)
LM = transformer.TransformerCausalLM(cfg=CAUSAL)
ROWS = tiny.random_prompts(0, [7, 3, 5])

extend, prefill = (
  jax.jit(method, static_argnums=0)
  for method in (
    transformer.TransformerCausalLM.extend,
    transformer.TransformerCausalLM.prefill,
  )
)


@functools.partial(jax.jit, static_argnums=0)
def uncached(cfg, params, tokens, mask):
  return network.Transformer(cfg).apply({'params': params}, tokens, mask)


def read(lm, params, ids, mask, widths, *, num_slots, first=extend):
  """Logits of all columns, read in chunks of the given widths; the cache."""
  cache, start, logits = lm.init_cache(len(ids), num_slots), 0, []
  for i, width in enumerate(widths):
    chunk = slice(start, start + width)
    call = extend if i else first
    made, cache = call(lm, params, ids[:, chunk], mask[:, chunk], cache)
    logits.append(made)
    start += width
  assert start == ids.shape[1]
  return np.concatenate(logits, 1), cache


@pytest.fixture(scope='module', params=['llama', 'qwen2', 'qwen3', 'gpt2'])
def recorded(request, shared_dir):
  """(causal model, its parameters, recorded arrays)."""
  folder = shared_dir / 'golden' / f'{request.param}_tiny'
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  lm, params = load.load(load.read(folder), mesh)
  return lm, params, tiny.recorded(folder, 'golden.npz')


@pytest.mark.parametrize('chunk', [1, 5, None])
def test_chunks_give_the_recorded_logits(recorded, chunk):
  lm, params, want = recorded
  ids = want['tokens']
  width = ids.shape[1] if chunk is None else chunk
  whole, rest = divmod(ids.shape[1], width)
  widths = [width] * whole + [rest] * (rest > 0)
  got, _ = read(
    lm, params, ids, ids >= 0, widths, num_slots=ids.shape[1], first=prefill
  )
  np.testing.assert_allclose(got, want['logits'], atol=5e-4, rtol=0)


@pytest.mark.parametrize('side', ['left', 'right'])
def test_ragged_rows_in_chunks_give_the_recorded_logits(recorded, side):
  lm, params, want = recorded
  lengths = want['mixed_lengths'].tolist()
  rows = [
    row[:n].tolist()
    for row, n in zip(want['mixed_tokens'], lengths, strict=True)
  ]
  width = max(lengths) + 2
  ids, mask = tiny.pad(rows, width, 9, side=side)
  got, cache = read(
    lm, params, ids, mask, [3, width - 4, 1], num_slots=max(lengths)
  )
  np.testing.assert_array_equal(cache.length, lengths)
  for i, n in enumerate(lengths):
    np.testing.assert_allclose(
      got[i, mask[i]], want['mixed_logits'][i, :n], atol=5e-4, rtol=0
    )


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'qk_norm': True, 'attention_bias': True},
    {'tie_embeddings': True},
    tiny.GPT2,
  ],
)
def test_cached_equals_uncached(changes):
  cfg = dataclasses.replace(CAUSAL, **changes)
  lm, params = transformer.TransformerCausalLM(cfg=cfg), tiny.params(cfg)
  ids, mask = tiny.pad(ROWS, 8)
  want = np.asarray(uncached(cfg, params, ids, mask))
  for first in (extend, prefill):
    got, _ = read(lm, params, ids, mask, [2, 1, 5], num_slots=11, first=first)
    np.testing.assert_allclose(got[mask], want[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('changes', [{}, tiny.GPT2], ids=['llama', 'gpt2'])
def test_ranges_of_layers_are_the_whole(changes):
  """Empty ranges too; a table of positions is added once."""
  cfg = dataclasses.replace(CAUSAL, **changes)
  lm = transformer.of_config(cfg)
  params = jax.tree.map(jnp.asarray, tiny.params(cfg))
  ids, mask = map(jnp.asarray, tiny.pad(ROWS, 8))
  states = lm.embed(params, ids)
  run = jax.jit(lm.run_layers)
  for start, stop in ((0, 0), (0, 1), (1, 1), (1, 2)):
    states = run(params, states, mask, None, start, stop)
  got = np.asarray(lm.read_out(params, states))
  want = np.asarray(uncached(cfg, params, ids, mask))
  real = np.asarray(mask)
  np.testing.assert_allclose(got[real], want[real], rtol=1e-5, atol=1e-5)


def test_prefill_drops_what_the_cache_holds():
  params = tiny.params(CAUSAL)
  ids, mask = tiny.pad(ROWS, 7)
  _, used = read(LM, params, ids[::-1], mask[::-1], [7], num_slots=9)
  want, fresh = prefill(LM, params, ids, mask, LM.init_cache(3, 9))
  got, again = prefill(LM, params, ids, mask, used)
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(again.length, fresh.length)
  more = jnp.array([[3], [4], [5]]), jnp.ones((3, 1), bool)
  np.testing.assert_array_equal(
    extend(LM, params, *more, again)[0], extend(LM, params, *more, fresh)[0]
  )


def test_truncated_cache_gives_the_bits_of_one_that_never_went_on():
  params = tiny.params(CAUSAL)
  ids, mask = tiny.pad(ROWS, 7)
  _, cache = read(LM, params, ids, mask, [7], num_slots=16)
  gone = cache
  for step in range(3):  # rows go on by different numbers of tokens
    tokens = jnp.full((3, 2), 11 + step)
    real = jnp.array([[1, 1], [0, 1], [step != 1, 0]], bool)
    _, gone = extend(LM, params, tokens, real, gone)
  assert (gone.length > cache.length).all()
  back = LM.truncate(gone, cache.length)
  for width in (1, 4):
    tokens = jnp.arange(3 * width).reshape(3, width)
    real = jnp.ones((3, width), bool)
    want, next_cache = extend(LM, params, tokens, real, cache)
    got, next_back = extend(LM, params, tokens, real, back)
    np.testing.assert_array_equal(got, want)
    again, _ = extend(LM, params, tokens, real, next_back)
    np.testing.assert_array_equal(
      again, extend(LM, params, tokens, real, next_cache)[0]
    )


def test_a_row_depends_on_itself_alone():
  params = tiny.params(CAUSAL)
  ids, mask = tiny.pad(ROWS, 7)
  want, cache = read(LM, params, ids, mask, [4, 3], num_slots=8)
  others = ids.copy()
  others[[0, 2]] = (others[[0, 2]] + 5) % 28
  others[~mask] = 13
  got, other_cache = read(LM, params, others, mask, [4, 3], num_slots=8)
  np.testing.assert_array_equal(got[1, mask[1]], want[1, mask[1]])
  n = int(cache.length[1])
  for a, b in zip(cache.kv, other_cache.kv, strict=True):
    np.testing.assert_array_equal(a[:, 1, :n], b[:, 1, :n])


def test_gradients_reach_no_later_column_and_no_padding():
  params = tiny.params(CAUSAL)
  mask = jnp.array([[0, 1, 1, 1, 1, 1]], bool)
  position = schedules.positions(mask)
  allowed = attention.visible(position, position, mask, block=1)
  x = jax.random.normal(jax.random.key(0), (1, 6, 16))

  @functools.partial(jax.jit, static_argnums=0)
  def reach(column, x):
    def state(x):
      y, _ = stack.run_layers(CAUSAL, params['layers'], x, allowed, position)
      return jnp.sum(jnp.sin(y[0, column]))

    return jnp.abs(jax.grad(state)(x)[0]).max(-1) > 0

  for column in range(1, 6):
    want = [1 <= k <= column for k in range(6)]
    assert reach(column, x).tolist() == want


def test_it_is_a_denoiser_that_reads_the_token_before():
  params = tiny.params(CAUSAL)
  ids, mask = map(jnp.asarray, tiny.pad(ROWS, 7))
  query = jnp.array([[6, 3], [6, 5], [6, 4]])
  logits = uncached(CAUSAL, params, ids, mask)
  want = jnp.take_along_axis(logits, query[..., None] - 1, axis=1)
  got = jax.jit(LM)(params, ids, mask, query)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  assert isinstance(LM, types.CausalLM) and isinstance(LM, types.Trainable)


def test_a_bidirectional_config_is_refused():
  with pytest.raises(ValueError, match='causal=False'):
    transformer.TransformerCausalLM(cfg=tiny.MODEL)


SHARED = tiny.GPT2 | {
  'feed_forward': 'gelu_experts',
  'num_experts': 4,
  'experts_per_token': 2,
  'shared_size': 6,
}


@pytest.mark.parametrize(
  'changes', [{}, tiny.GPT2, SHARED], ids=['llama', 'gpt2', 'shared expert']
)
@pytest.mark.parametrize('sizes', [(2, 1, 2), (1, 2, 2)])
def test_devices_of_a_mesh_hold_their_heads_and_rows_of_the_cache(
  sizes, changes
):
  cfg = dataclasses.replace(CAUSAL, **changes)
  lm, params = transformer.of_config(cfg), tiny.params(cfg)
  ids, mask = map(jnp.asarray, tiny.pad([*ROWS, [4, 4]], 7))
  want, _ = read(lm, params, ids, mask, [7], num_slots=8)
  data, fsdp, tensor = sizes
  mesh = sharding.make_mesh(
    sharding.MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
  )
  part = lm.part(mesh)

  def step(params, ids, mask):
    cache = part.init_cache(ids.shape[0], 8)
    assert cache.kv.k.shape == (2, 4 // (data * fsdp), 8, 2 // tensor, 4)
    first, cache = part.prefill(params, ids[:, :4], mask[:, :4], cache)
    last, _ = part.extend(params, ids[:, 4:], mask[:, 4:], cache)
    return jnp.concatenate([first, last], axis=1)

  rows = P(('data', 'fsdp'))
  got = jax.jit(
    jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(sharding.specs(params), rows, rows),
      out_specs=rows,
      check_vma=False,
    )
  )(params, ids, mask)
  real = np.asarray(mask)
  np.testing.assert_allclose(
    np.asarray(got)[real], want[real], rtol=1e-5, atol=1e-5
  )


def test_greedy_tokens_through_the_cache_are_the_recorded_ones(recorded):
  lm, params, want = recorded
  lengths = want['greedy_prompt_len'].tolist()
  total = want['greedy_output'].shape[1]
  prompts = [
    r[:n].tolist() for r, n in zip(want['greedy_prompt'], lengths, strict=True)
  ]
  ids, mask = tiny.pad(prompts, max(lengths))
  logits, cache = read(
    lm, params, ids, mask, [len(ids[0])], num_slots=64, first=prefill
  )
  out = []
  for _ in range(total):
    out.append(np.argmax(logits[:, -1], -1)[:, None])
    logits, cache = extend(lm, params, out[-1], np.ones((4, 1), bool), cache)
  np.testing.assert_array_equal(np.concatenate(out, 1), want['greedy_output'])


def test_a_causal_config_gives_a_causal_model():
  values = dataclasses.asdict(CAUSAL)
  vocab = types.Vocabulary(
    size=values.pop('vocab_size'), mask_token=None, eos_token=0
  )
  made = transformer.TransformerDenoiser.from_config(values, vocab)
  assert made == transformer.of_config(CAUSAL)
  assert type(made) is transformer.TransformerCausalLM
