"""Rollouts of causal models on meshes: the same tokens as on one device."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from dllm_jax.decoding import autoregressive, fractal, speculative
from dllm_jax.models import transformer
from dllm_jax.rollout import answer_free
from dllm_jax.runtime import sharding
from tests import tiny, tiny_causal

L = 8
CFG = dataclasses.replace(tiny_causal.CFG, num_layers=2)
LM = transformer.TransformerCausalLM(cfg=CFG)
TEXTS = tiny.random_prompts(0, [3, 5, 1, 4, 2, 5, 5, 1])
DECODERS = {
  'alone': autoregressive.Autoregressive(gen_length=L),
  'fractal': fractal.Fractal(gen_length=L, num_modules=1, compression='int8'),
  'draft': speculative.Draft(gen_length=L, draft_length=2, use_cache=False),
}
MESHES = [(2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 2)]
FAST = [
  ('alone', (2, 2, 2)),
  ('fractal', (1, 1, 2)),
  ('fractal', (2, 2, 2)),
]
SLOW = [
  pytest.param(name, sizes, marks=pytest.mark.slow)
  for name in DECODERS
  for sizes in MESHES
  if (name, sizes) not in FAST
]


@functools.cache
def sampled(name, sizes):
  """A sample on a mesh; the compressed parameters lie as the rules say."""
  data, fsdp, tensor = sizes
  mesh = sharding.make_mesh(
    sharding.MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
  )
  # A token that some rows emit is EOS: rows end in different rounds.
  params = tiny_causal.renamed(tiny_causal.params(2, CFG), 12)
  decoder = dataclasses.replace(DECODERS[name], temperature=0.7)
  return answer_free.sample(
    LM,
    decoder.prepare(
      LM, jax.device_put(params, sharding.param_shardings(params, mesh))
    ),
    jax.random.key(0),
    tiny.row_prompts(TEXTS, 6, range(8)),
    decoder,
    mesh=mesh,
    vocab=tiny_causal.VOCAB,
  )


@pytest.mark.parametrize(('name', 'sizes'), FAST + SLOW)
def test_tokens_are_the_same_on_any_mesh(name, sizes):
  got, want = sampled(name, sizes), sampled(name, (1, 1, 1))
  assert len(got.tokens.sharding.device_set) == np.prod(sizes)
  tiny_causal.same(got, want, steps=name != 'alone')
  assert len(set(np.asarray(want.num_steps).tolist())) > 1
  assert len(np.unique(want.tokens, axis=0)) >= 7


@pytest.mark.parametrize(
  'name', ['fractal', pytest.param('draft', marks=pytest.mark.slow)]
)
def test_drafting_changes_no_token(name):
  got, want = sampled(name, (1, 1, 1)), sampled('alone', (1, 1, 1))
  tiny_causal.same(got, want, steps=False)
  tiny_causal.check_accounts(got, DECODERS[name].num_drafts)
  assert np.sum(got.num_steps) < np.sum(want.num_steps)
