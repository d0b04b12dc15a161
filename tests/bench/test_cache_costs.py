"""Calls, operations and bytes of decoding through caches.

Operations are those of compiled programs.
"""

import dataclasses

import jax
import numpy as np
import pytest

from dllm_jax import types
from dllm_jax.bench import cache_costs, caches, cases, hlo, programs
from dllm_jax.decoding import fixed, gated
from dllm_jax.models import network
from dllm_jax.runtime import sharding
from tests import tiny
from tests.bench import buffers, counts

# The shape of d1's rollouts on GSM8K: 16 steps in each of 8 blocks.
LLADA = cases.make_case('LLaDA-8B', cases.LLADA, 2, 200, 256, 32, 128)
SMALL = cases.make_case('small', tiny.MODEL, 8, 5, 12, 4, 6)
DECODERS = {
  'fixed': fixed.Fixed(gen_length=12, block_length=4, num_steps=6),
  'gated': gated.Gated(gen_length=12, block_length=4, threshold=0.04),
}


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(sharding.MeshConfig(data=1))


def compiled(lowered):
  return hlo.parse(lowered.compile().as_text())


@pytest.mark.parametrize(
  'cache, least, most',
  [
    ('dual', 0.13, 0.17),
    ('prefix', 0.36, 0.45),
  ],
)
def test_operations_of_8b(cache, least, most):
  """At least those of the columns alone, and not much more."""
  params = network.shapes(LLADA.model)
  steps = np.full((1, 8), 16)

  def total(cache):
    decoder = dataclasses.replace(LLADA.decoder, cache=cache)
    return cache_costs.flops(
      cache_costs.calls(decoder, steps),
      LLADA.denoiser,
      params,
      columns=LLADA.columns,
      block=32,
    )

  plain = total('none')
  minimum = 128 * LLADA.minimum()['rollout'] / LLADA.rows
  assert minimum <= plain <= 1.02 * minimum
  assert least <= total(cache) / plain <= most


@pytest.mark.parametrize(
  'cache', ['dual', pytest.param('prefix', marks=pytest.mark.slow)]
)
def test_no_logits_of_all_columns(mesh, cache):
  """In the whole decoder, at the shape of 8B: logits are of a block."""
  decoder = dataclasses.replace(LLADA.decoder, cache=cache)
  rollout = dataclasses.replace(LLADA.rollout, decoder=decoder)
  case = dataclasses.replace(LLADA, rollout=rollout)
  size, width = case.model.vocab_size, case.model.hidden_size
  logits = [
    shape.size
    for _, shape in buffers.buffers(compiled(programs.rollout(case, mesh)))
    if size in shape.dims and width not in shape.dims
  ]
  assert max(logits) == case.rows * 32 * size < case.rows * case.columns * size


def test_parts_add_up_to_the_decoder(mesh):
  """Its step: a chunk of one row read whole, a window of all, one unembedding.

  A chunk's logits, 2 D V W operations, are those of the batch in the decoder.
  """
  decoder = dataclasses.replace(SMALL.decoder, cache='dual')
  rollout = dataclasses.replace(SMALL.rollout, decoder=decoder)
  case = dataclasses.replace(SMALL, rollout=rollout)
  whole = counts.products(compiled(programs.rollout(case, mesh)))
  part = lambda rows, width: counts.products(
    compiled(
      cache_costs.program(
        case.denoiser,
        programs.params(case, mesh),
        rows=rows,
        columns=case.columns,
        block=4,
        width=width,
      )
    )
  )
  unembedding = 2 * case.model.hidden_size * case.model.vocab_size * 4
  assert whole == part(1, None) + part(8, 4) - unembedding


def test_calls_by_hand():
  steps = np.array([[2, 3, 0], [4, 1, 1]])
  made = lambda **changes: cache_costs.calls(
    dataclasses.replace(DECODERS['fixed'], **changes), steps
  )
  assert made() == (11, {})
  # Five blocks are entered; the other calls are 1 + 2 and 3.
  assert made(cache='dual') == (5, {4: 6})
  assert made(cache='dual', vicinity=1) == (5, {6: 6})
  # From block 0 all 12 columns, from block 1 the last 8.
  assert made(cache='prefix') == (5, {12: 4, 8: 2})
  assert made(cache='prefix', vicinity=1) == (5, {13: 4, 9: 2})
  # ceil(2/2) + ceil(3/2) + ceil(4/2) + 1 + 1 whole ones.
  assert made(cache='dual', refresh_every=2) == (7, {4: 4})


class Recorder:
  """The tiny model, which notes its calls as they are made."""

  def __init__(self):
    self.whole, self.windows = 0, []

  def __getattr__(self, name):
    return getattr(tiny.DENOISER, name)

  def __call__(self, *args):
    self._note(None)
    return tiny.DENOISER(*args)

  def read(self, *args):
    self._note(None)
    return tiny.DENOISER.read(*args)

  def read_window(self, *args):
    self._note(args[-1])
    return tiny.DENOISER.read_window(*args)

  def _note(self, width):
    def note():
      if width is None:
        self.whole += 1
      else:
        self.windows.append(width)

    jax.debug.callback(note)


@pytest.mark.parametrize('decoder', DECODERS)
@pytest.mark.parametrize('name', caches.NAMES)
def test_calls_are_those_that_a_decoder_makes(decoder, name):
  decoder = caches.decoders(DECODERS[decoder])[name]
  recorder = Recorder()
  canvas = tiny.canvas(tiny.random_prompts(1, [5]), 12)
  keys = tiny.row_keys(0, [0])

  @jax.jit
  def decode(params, canvas):
    return decoder(recorder, params, keys, canvas, vocab=tiny.VOCAB)

  trajectory = decode(tiny.params(), canvas)
  jax.effects_barrier()
  made = cache_costs.calls(decoder, cache_costs.block_steps(trajectory, 4))
  assert made.whole == recorder.whole
  assert made.windows == {
    width: recorder.windows.count(width) for width in set(recorder.windows)
  }


def test_steps_of_blocks_by_hand():
  trajectory = types.Trajectory(
    tokens=np.zeros((2, 6), int),
    logp=np.zeros((2, 6)),
    # Step 3 was the last of row 0. Row 1 was given three tokens.
    commit_step=np.array([[0, 1, 0, 2, 3, 3], [2, 2, 2, 0, 1, 1]]),
    num_steps=np.array([4, 2]),
  )
  found = cache_costs.block_steps(trajectory, 3)
  np.testing.assert_array_equal(found, [[2, 2], [0, 2]])
