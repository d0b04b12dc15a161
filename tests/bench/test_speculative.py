"""Operations of a round of FractalLLM, and the suite of a model folder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from dllm_jax import types
from dllm_jax.bench import flops, hlo
from dllm_jax.decoding import fractal
from dllm_jax.models import transformer
from tests import tiny
from tests.bench import counts

CFG = dataclasses.replace(
  tiny.MODEL,
  causal=True,
  hidden_size=64,
  num_layers=4,
  head_dim=16,
  mlp_size=160,
)
LM = transformer.TransformerCausalLM(cfg=CFG)
VOCAB = types.Vocabulary(size=30, mask_token=None, eos_token=28)
ROWS, WIDTH, LENGTH = 3, 9, 16


@pytest.mark.parametrize(
  ('modules', 'layers', 'compression'),
  [
    (2, 'even', 'int8'),
    pytest.param(1, 'even', 'int8', marks=pytest.mark.slow),
    pytest.param(4, 'late', 'int4', marks=pytest.mark.slow),
  ],
)
def test_a_round_has_the_operations_of_the_cost_model(
  modules, layers, compression, monkeypatch
):
  # Else the compiled program does not say how many layers a module runs.
  monkeypatch.setattr(fractal, 'UNROLL', modules)
  decoder = fractal.Fractal(
    gen_length=LENGTH,
    num_modules=modules,
    layers=layers,
    compression=compression,
  )
  params = decoder.prepare(LM, jax.tree.map(jnp.asarray, tiny.params(CFG)))
  prompt = types.Canvas(
    jnp.ones((ROWS, WIDTH), jnp.int32), jnp.ones((ROWS, WIDTH), bool)
  )
  start = functools.partial(decoder.init_state, LM, vocab=VOCAB)
  state = jax.eval_shape(start, params, prompt)
  keys = jax.random.split(jax.random.key(0), ROWS)
  step = jax.jit(functools.partial(decoder.round, LM, vocab=VOCAB))
  looped = decoder.unstacked(LM, params)
  compiled = step.lower(looped, keys, state, prompt).compile()
  counted = counts.products(hlo.parse(compiled.as_text()))
  # With a cache, all of whose slots are read: 1 + m calls of W columns, and one
  # that is a column wider.
  drafts = decoder.num_drafts
  slots = WIDTH - 1 + LENGTH + drafts
  one_pass, verify = (
    flops.forward(CFG, columns, slots + columns, columns)
    for columns in (drafts, drafts + 1)
  )
  predicted = ROWS * ((1 + modules) * one_pass + verify)
  assert abs(counted / predicted - 1) < 0.1
