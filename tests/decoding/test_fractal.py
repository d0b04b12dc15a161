"""FractalLLM's draft pass: the paper's own form, and which layers it takes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import errors, types
from dllm_jax.decoding import autoregressive, fractal, speculative
from dllm_jax.models import transformer
from tests import tiny, tiny_causal

LM = tiny_causal.LM
# One layer at a time: the same program for all of them.
SINGLE = transformer.TransformerCausalLM(
  cfg=dataclasses.replace(tiny_causal.CFG, num_layers=1)
)


@jax.jit
def layer(params, i, states, cache):
  """Layer i on the states that follow those of a cache, if there is one."""
  at = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i)
  if cache is not None:
    cache = cache._replace(kv=jax.tree.map(at, cache.kv))
  own = {**params, 'layers': jax.tree.map(at, params['layers'])}
  mask = jnp.ones(states.shape[:2], bool)
  return SINGLE.run_layers(own, states, mask, cache, 0, 1)


@jax.jit
def embed(params, ids):
  return LM.embed(params, ids[None])


@jax.jit
def read_out(params, states):
  logits = LM.read_out(params, states)[0]
  return jnp.argmax(logits[:, : tiny_causal.VOCAB.size], axis=-1)


def paper_drafts(model, copy, text, chosen, num_placeholders, cache=None):
  """The drafts behind a text: section 3.1 of the paper, with growing lists.

  Args:
    model: parameters.
    copy: the compressed ones.
    text: ids; with a cache, those that it lacks.
    chosen: layers before which a module stands.
    num_placeholders: D.
    cache: of the model itself; None without one.
  """
  prefix, m = len(text), len(chosen)
  ids = list(text) + [text[-1]] * num_placeholders
  states = embed(model, np.array(ids))
  for l in range(LM.num_layers):
    if l in chosen:
      tail = states
      for i in range(l, LM.num_layers):
        tail = layer(copy, i, tail, cache)
      best = read_out(copy, tail)
      drafts = [int(token) for token in best[prefix - 1 :]]
      assert len(drafts) == num_placeholders + chosen.index(l) + 1
      ids = list(text) + drafts
      head = embed(copy, np.array(ids))
      for i in range(l):
        head = layer(copy, i, head, cache)
      states = jnp.concatenate([states[:, :prefix], head[:, prefix:]], axis=1)
    states = layer(model, l, states, cache)
  drafts = read_out(model, states)[prefix - 1 :].tolist()
  assert len(drafts) == num_placeholders + m + 1
  return drafts


# Texts of 7 tokens, of which a prompt and a completion have different parts.
TEXTS = tiny.random_prompts(5, [7, 7, 7, 7, 7, 7])
PROMPT = [3, 5, 1, 7, 4, 2]  # tokens of the prompts


def state_of(decoder, params):
  """The state before a round in which all rows have 7 tokens; the prompts."""
  canvas = tiny_causal.canvas(
    [text[:n] for text, n in zip(TEXTS, PROMPT, strict=True)],
    decoder.gen_length,
    width=8,
  )
  prompt = types.Canvas(canvas.tokens[:, :8], canvas.attention_mask[:, :8])
  init = functools.partial(decoder.init_state, LM, vocab=tiny_causal.VOCAB)
  state = jax.jit(init)(params, prompt)
  made, real = tiny.pad(
    [text[n:] for text, n in zip(TEXTS, PROMPT, strict=True)],
    decoder.gen_length,
    tiny.EOS,
    side='right',
  )
  cache = state.cache
  if cache is not None:
    ids = jnp.array([text[:-1] for text in TEXTS])  # all but the last token
    _, cache = jax.jit(LM.prefill)(
      params['model'], ids, jnp.ones(ids.shape, bool), cache
    )
  return prompt, state._replace(
    tokens=jnp.asarray(made),
    length=jnp.asarray(real.sum(1), jnp.int32),
    last=jnp.asarray([text[-1] for text in TEXTS], jnp.int32),
    cache=cache,
  )


PASSES = [
  # (layers, D, use_cache)
  ('0,2', 1, False),
  ('1,3', 2, True),
  pytest.param('2', 0, True, marks=pytest.mark.slow),
  pytest.param('2', 3, False, marks=pytest.mark.slow),
  pytest.param('0,1,2,3', 0, False, marks=pytest.mark.slow),
  pytest.param('0,1,2,3', 1, True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(('layers', 'num_placeholders', 'use_cache'), PASSES)
def test_drafts_equal_the_papers_pass_in_python(
  layers, num_placeholders, use_cache
):
  chosen = tuple(map(int, layers.split(',')))
  params = tiny_causal.params(3)
  drawn = {}
  for compression in ('int8', 'noise', 'none'):
    decoder = fractal.Fractal(
      gen_length=6,
      num_modules=len(chosen),
      layers=layers,
      num_placeholders=num_placeholders,
      use_cache=use_cache,
      compression=compression,
    )
    prepared = decoder.prepare(LM, params)
    prompt, state = state_of(decoder, prepared)
    same = dataclasses.replace(decoder, compression='none')
    got = draft(same, prepared, state, prompt)
    for row, text in enumerate(TEXTS):
      cache = None
      if use_cache:  # of the row; its last token is not in it
        kv = jax.tree.map(lambda x: x[:, row : row + 1], state.cache.kv)  # noqa: B023
        cache = type(state.cache)(kv, state.cache.length[row : row + 1])
        text = text[-1:]
      want = paper_drafts(
        prepared['model'],
        prepared['draft'],
        text,
        chosen,
        num_placeholders,
        cache,
      )
      np.testing.assert_array_equal(got[row], want, f'{compression}, {row}')
    drawn[compression] = np.asarray(got)
  # The compression decides most drafts, but the first is the model's own.
  for other in ('int8', 'noise'):
    np.testing.assert_array_equal(drawn[other][:, 0], drawn['none'][:, 0])
  assert (drawn['noise'] != drawn['none'])[:, 1:].mean() > 0.5


@functools.partial(jax.jit, static_argnums=0)
def draft(decoder, params, state, prompt):
  return decoder.draft(LM, params, state, prompt, tiny_causal.VOCAB)


# Layers.


def modules(num_layers, num_modules, layers='even'):
  decoder = fractal.Fractal(
    gen_length=8, num_modules=num_modules, layers=layers
  )
  return decoder.module_layers(num_layers)


@pytest.mark.parametrize(
  ('num_layers', 'num_modules', 'want'),
  [
    (8, 1, (7,)),
    (8, 2, (3, 7)),
    (8, 3, (1, 4, 7)),
    (8, 4, (1, 3, 5, 7)),
    (8, 5, (0, 2, 3, 5, 7)),
    (8, 8, (0, 1, 2, 3, 4, 5, 6, 7)),
    (16, 4, (3, 7, 11, 15)),
    (16, 5, (2, 5, 8, 11, 15)),
    (32, 8, (3, 7, 11, 15, 19, 23, 27, 31)),
    (32, 3, (9, 20, 31)),
  ],
)
def test_even_layers_by_hand(num_layers, num_modules, want):
  assert modules(num_layers, num_modules) == want


def test_late_and_numbered_layers_by_hand():
  assert modules(8, 3, 'late') == (5, 6, 7)
  assert modules(16, 1, 'late') == (15,)
  assert modules(32, 8, 'late') == tuple(range(24, 32))
  assert modules(2, 2, 'late') == (0, 1)
  assert modules(16, 4, '6,10,11,15') == (6, 10, 11, 15)
  assert modules(8, 1, '0') == (0,)
  assert modules(8, 2, '0, 7') == (0, 7)


@pytest.mark.parametrize(
  'layers',
  ['odd', '', '3,1', '1,1', '-1,2', '1,,2', '1.5,2', 'even,late', '1;2'],
)
def test_unknown_sets_of_layers_are_refused(layers):
  with pytest.raises(ValueError, match="'even', 'late', or ascending") as e:
    modules(8, 2, layers)
  assert repr(layers) in str(e.value) and '\n' not in str(e.value)


def test_numbers_that_are_not_the_modules_are_refused():
  with pytest.raises(ValueError, match='are 2, not num_modules=4'):
    fractal.Fractal(gen_length=8, layers='1,3')


@pytest.mark.parametrize(
  ('how', 'line'),
  [
    ({'num_modules': 5}, 'num_modules is 5, more than the 4 layers'),
    ({'num_modules': 5, 'layers': 'late'}, 'num_modules is 5, more than'),
    ({'num_modules': 2, 'layers': '1,4'}, "'1,4': .* has layers 0 to 3"),
  ],
)
def test_models_that_lack_the_layers_are_refused(how, line):
  decoder = fractal.Fractal(gen_length=8, **how)
  with pytest.raises(errors.UserError, match=line) as caught:
    decoder.prepare(LM, tiny_causal.params())
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'decoder',
  [
    fractal.Fractal(gen_length=8, num_modules=2),
    speculative.Draft(gen_length=8),
  ],
)
def test_models_without_layers_are_refused(decoder):
  table = tiny_causal.TableLM()
  with pytest.raises(errors.UserError, match='--decode autoregressive'):
    decoder.prepare(table, {})
  # Which goes with any causal model.
  alone = autoregressive.Autoregressive(gen_length=8)
  assert alone.prepare(table, {'a': 1}) == {'model': {'a': 1}}
