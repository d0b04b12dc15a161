"""Rollouts of models in parts: the same rows, early ends, few collectives."""

import collections
import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from dllm_jax import errors
from dllm_jax.decoding import fixed, gated
from dllm_jax.models import transformer
from dllm_jax.rollout import answer_free, answer_guided
from dllm_jax.runtime import sharding
from tests import recorded, tiny

L = 8
TEXTS = tiny.random_prompts(0, [3, 5, 1, 4, 2, 5, 5, 1])
MODELS = {
  'plain': tiny.MODEL,
  'dream': dataclasses.replace(
    tiny.MODEL, attention_bias=True, logit_shift=True, lora_rank=2
  ),
  'blocks': dataclasses.replace(tiny.MODEL, block_causal=4),
  'qwen3': dataclasses.replace(tiny.MODEL, qk_norm=True, tie_embeddings=True),
}
SAMPLED = fixed.Fixed(
  gen_length=L, block_length=4, num_steps=4, temperature=1.0
)
DECODINGS = {
  'sampled': SAMPLED,
  'greedy': dataclasses.replace(SAMPLED, temperature=0.0),
  'gated': gated.Gated(
    gen_length=L,
    block_length=4,
    temperature=1.0,
    gate='bernoulli',
    threshold=0.05,
  ),
  'guidance': dataclasses.replace(SAMPLED, cfg_scale=1.5),
  'dual': dataclasses.replace(SAMPLED, cache='dual', num_steps=8),
  'block': dataclasses.replace(SAMPLED, cache='block', num_steps=8),
  'prefix': dataclasses.replace(
    SAMPLED, cache='prefix', num_steps=8, cfg_scale=1.5
  ),
}
FAST = [
  ('plain', 'sampled', (2, 1, 1)),
  ('plain', 'sampled', (2, 2, 2)),
  ('dream', 'gated', (1, 4, 1)),
  ('qwen3', 'guidance', (1, 1, 2)),
  ('dream', 'dual', (2, 2, 2)),
  ('plain', 'prefix', (1, 2, 1)),
  ('blocks', 'block', (2, 2, 2)),
]
SLOW = [
  pytest.param(model, decoding, sizes, marks=pytest.mark.slow)
  for model in MODELS
  for decoding in DECODINGS
  if (model == 'blocks') == (decoding == 'block')
  for sizes in [
    (2, 1, 1),
    (4, 1, 1),
    (8, 1, 1),
    (2, 2, 2),
    (1, 4, 1),
    (1, 1, 2),
    (2, 4, 1),
    (4, 1, 2),
  ]
]


def mesh_of(data, fsdp, tensor):
  return sharding.make_mesh(
    sharding.MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
  )


def call(model, decoder, sizes):
  """Arguments of `answer_free.sample`; the parameters lie as the rules say."""
  mesh = mesh_of(*sizes)
  params = tiny.params(model)
  args = (
    transformer.TransformerDenoiser(cfg=model),
    jax.device_put(params, sharding.param_shardings(params, mesh)),
    jax.random.key(0),
    tiny.row_prompts(TEXTS, 5, range(8)),
    decoder,
  )
  return args, {'mesh': mesh, 'vocab': tiny.VOCAB}


@functools.cache
def sampled(model, decoding, sizes):
  args, static = call(MODELS[model], DECODINGS[decoding], sizes)
  return answer_free.sample(*args, **static)


def same(a, b):
  for name in ('tokens', 'commit_step', 'num_steps'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  np.testing.assert_allclose(a.logp, b.logp, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('model', 'decoding', 'sizes'), FAST + SLOW)
def test_tokens_are_the_same_on_any_mesh(model, decoding, sizes):
  got = sampled(model, decoding, sizes)
  assert len(got.tokens.sharding.device_set) == np.prod(sizes)
  want = sampled(model, decoding, (1, 1, 1))
  # Greedy rows of a random model are alike; a few differ all the same.
  assert len(np.unique(want.tokens, axis=0)) >= (
    5 if decoding == 'greedy' else 8
  )
  same(got, want)


RECORDED_ON = [
  pytest.param(
    sizes,
    *case,
    marks=[] if i == 0 and case[1].startswith('dual_thr') else pytest.mark.slow,
  )
  for i, sizes in enumerate(
    [(2, 2, 2), (1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)]
  )
  for case in recorded.CACHED
]


@pytest.mark.parametrize(('sizes', 'family', 'name'), RECORDED_ON)
def test_recorded_decodes_on_any_mesh(shared_dir, sizes, family, name):
  want = recorded.read_cached(shared_dir, family, name)
  mesh = mesh_of(*sizes)
  # Ragged rows in different blocks, as many as fill every mesh.
  rows = np.arange(8) % len(want.prompts)
  got = answer_free.sample(
    want.denoiser,
    jax.device_put(want.params, sharding.param_shardings(want.params, mesh)),
    jax.random.key(0),
    tiny.row_prompts(
      [want.prompts[i] for i in rows], max(map(len, want.prompts)), range(8)
    ),
    want.decoder,
    mesh=mesh,
    vocab=want.vocab,
  )
  for name in ('tokens', 'commit_step', 'num_steps'):
    expected = getattr(want, name)[rows]
    if name != 'num_steps':
      expected = expected[:, -want.decoder.gen_length :]
    np.testing.assert_array_equal(getattr(got, name), expected, name)


@pytest.mark.parametrize('cfg_scale', [0.0, 1.5])
def test_guided_rows_are_the_same_on_any_mesh(cfg_scale):
  free = dataclasses.replace(SAMPLED, cfg_scale=cfg_scale)
  cfg = answer_guided.GuidedConfig(
    num_guided=1, num_steps=3, answer_steps=2, margin=0, max_anchor=3
  )
  anchor = tiny.pad(tiny.random_prompts(1, [3, 2] * 4), 3)

  def run(sizes):
    (*args, encoded, decoder), static = call(tiny.MODEL, free, sizes)
    return answer_guided.sample(
      *args,
      answer_guided.Anchored(encoded, *anchor),
      answer_guided.passes(decoder, cfg),
      **static,
    )

  same(run((2, 2, 2)), run((1, 1, 1)))


TRIPS = collections.Counter()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting:
  """A table of logits that counts its calls on every device."""

  table: tiny.Table
  axes: tuple[str, ...]

  def __call__(self, params, tokens, attention_mask, query):
    place = [jax.lax.axis_index(axis) for axis in self.axes]
    jax.debug.callback(lambda *at: TRIPS.update([tuple(map(int, at))]), *place)
    return self.table(params, tokens, attention_mask, query)


@pytest.mark.parametrize('sizes', [(4, 1, 1), (2, 2, 1)])
def test_a_shard_stops_when_its_own_rows_are_done(sizes):
  """Devices of one fsdp group take as many steps as its longest row."""
  TRIPS.clear()
  table = tiny.table_params(0, L)
  # What a prompt ends in says how sure the model is: rows 0 and 1 are done in
  # one step a block, the others take one a token.
  sure = np.zeros((L, tiny.ROWS), np.float32)
  sure[:, 3] = 60.0
  table['table'] = sure
  table['context'][:] = 0.0
  table['context'][7] = -sure[0] * 0.99
  ids = np.full((8, 5), 5, np.int32)
  ids[2:, 0] = 7
  denoiser = Counting(table=tiny.Table(gen_length=L), axes=('data', 'fsdp'))
  got = answer_free.sample(
    denoiser,
    table,
    jax.random.key(0),
    tiny.row_prompts(ids.tolist(), 5, range(8)),
    gated.Gated(gen_length=L, block_length=4, threshold=0.9),
    mesh=mesh_of(*sizes),
    vocab=tiny.VOCAB,
  )
  jax.block_until_ready(got)
  jax.effects_barrier()
  steps = np.asarray(got.num_steps)
  assert steps.tolist() == [2, 2] + [8] * 6
  by_data = steps.reshape(sizes[0], -1).max(axis=1)
  assert dict(TRIPS) == {
    (i, j): by_data[i] for i in range(sizes[0]) for j in range(sizes[1])
  }


def groups(text):
  """The device groups of every collective of a compiled program."""
  found = []
  for line in text.splitlines():
    if not re.search(r' (all-|reduce-scatter|collective-)[a-z-]*\(', line):
      continue
    listed = re.search(r'replica_groups=\{(\{[\d,{}]*\})\}', line)
    iota = re.search(
      r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', line
    )
    assert listed or iota, line
    if listed:
      parts = re.findall(r'\{([\d,]+)\}', listed[1])
      found.append([[int(x) for x in part.split(',')] for part in parts])
    else:
      shape, dims = ([int(x) for x in iota[i].split(',')] for i in (1, 2))
      ids = np.arange(np.prod(dims)).reshape(dims)
      if iota[3]:
        ids = ids.transpose([int(x) for x in iota[3].split(',')])
      found.append(ids.reshape(shape).tolist())
  return found


def compiled(model, sizes):
  args, static = call(model, SAMPLED, sizes)
  return answer_free.sample.lower(*args, **static).compile()


def test_no_collectives_without_a_divided_model():
  assert groups(compiled(tiny.MODEL, (8, 1, 1)).as_text()) == []


def test_no_collectives_over_data():
  found = groups(compiled(tiny.MODEL, (2, 2, 2)).as_text())
  assert len(found) > 5
  for group in sum(found, []):
    assert len(group) == 2 and len({device // 4 for device in group}) == 1


def test_no_device_holds_the_whole_model():
  """Its part, one layer, the tables, and activations."""
  model = dataclasses.replace(
    tiny.MODEL, hidden_size=64, mlp_size=256, num_layers=16
  )
  whole = sum(x.nbytes for x in jax.tree.leaves(tiny.params(model)))
  memory = compiled(model, (1, 4, 1)).memory_analysis()
  assert memory.argument_size_in_bytes < 0.26 * whole
  used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  assert used < 0.45 * whole


def test_mesh_that_splits_key_heads_is_refused():
  args, static = call(tiny.MODEL, SAMPLED, (1, 1, 4))
  with pytest.raises(errors.UserError, match='mesh.tensor=4 .* 2 key heads'):
    answer_free.sample(*args, **static)
