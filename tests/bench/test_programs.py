"""What decode steps and updates cost, from the compiled programs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from dllm_jax import types
from dllm_jax.bench import cases, hlo, hlo_counts, programs
from dllm_jax.decoding import autoregressive, speculative
from dllm_jax.models import config, transformer
from dllm_jax.runtime import sharding
from tests.bench import buffers, counts

MODEL = config.ModelConfig(
  vocab_size=2048,
  hidden_size=256,
  num_layers=2,
  num_heads=4,
  num_kv_heads=4,
  head_dim=64,
  mlp_size=704,
)
SMALL = config.ModelConfig(
  vocab_size=256,
  hidden_size=64,
  num_layers=2,
  num_heads=4,
  num_kv_heads=4,
  head_dim=16,
  mlp_size=176,
)
CASE = cases.make_case('test', MODEL, 8, 64, 128, 32, 64)
TOO_LARGE = CASE.rows * CASE.decoder.gen_length * MODEL.vocab_size


def compiled(lowered):
  return hlo.parse(lowered.compile().as_text())


def largest(program):
  """Number of elements of the largest array in memory."""
  return max(shape.size for _, shape in buffers.buffers(program))


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(sharding.MeshConfig(data=1))


@pytest.mark.parametrize('name', ['rollout', 'inner_step'])
def test_cost_is_within_a_tenth_of_the_minimum(mesh, name):
  program = compiled(programs.PROGRAMS[name](CASE, mesh))
  minimum = CASE.minimum()[name]
  assert minimum <= counts.products(program) <= hlo_counts.flops(program)
  assert hlo_counts.flops(program) <= 1.10 * minimum
  assert largest(program) < TOO_LARGE
  # Logits are of a block, or of a chunk of a micro-batch.
  logits = [s.size for _, s in buffers.buffers(program) if 2048 in s.dims]
  assert 0 < max(logits) <= TOO_LARGE / 4


def test_an_update_moves_few_bytes(mesh):
  """Of arrays of 64 kB or more, beside the products' own reads and writes."""
  moved = {}
  for unroll in (0, 4):
    model = dataclasses.replace(MODEL, unroll=unroll)
    case = dataclasses.replace(CASE, model=model)
    program = compiled(programs.inner_step(case, mesh))
    moved[unroll] = counts.copied(program)
  assert moved[4] < 0.4 * moved[0]
  # 63 MB at the time of writing; the moments and weights are 22 MB.
  assert moved[4] < 70e6


def test_a_decode_step_moves_few_bytes(mesh):
  program = compiled(programs.rollout(CASE, mesh))
  assert counts.copied(program) < 36e6  # 34 MB at the time of writing


def copies_weights_in_a_loop(program):
  wide = sorted((MODEL.hidden_size, MODEL.mlp_size))
  return any(
    hlo_counts.kind(op, scope, program) == 'copies'
    and any(sorted(shape.dims)[-2:] == wide for shape in op.shapes)
    for name, scope in program.computations.items()
    if name not in hlo.fused(program) and name != program.entry
    for op in scope.values()
  )


@pytest.mark.parametrize('unroll', [7, 8])
def test_a_denoising_loop_reads_unrolled_weights_in_place(mesh, unroll):
  model = dataclasses.replace(MODEL, num_layers=8, unroll=unroll)
  case = dataclasses.replace(CASE, model=model)
  program = compiled(programs.rollout(case, mesh))
  assert copies_weights_in_a_loop(program) == (unroll < 8)


@pytest.mark.parametrize('unroll', [7, 8])
@pytest.mark.parametrize(
  'decoder',
  [
    autoregressive.Autoregressive(gen_length=8),
    speculative.Draft(gen_length=8, draft_length=2, compression='none'),
  ],
)
def test_a_causal_loop_reads_unrolled_weights_in_place(decoder, unroll):
  """The drafter's too. The prompt is read before the loop, from the stack."""
  cfg = dataclasses.replace(MODEL, num_layers=8, unroll=unroll, causal=True)
  lm = transformer.of_config(cfg)
  params = jax.eval_shape(lm.init, jax.random.key(0))
  shape = (2, 1 + decoder.gen_length)  # prompts of one token are not read
  canvas = types.Canvas(
    jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, bool)
  )
  decode = jax.jit(functools.partial(decoder, lm, vocab=CASE.vocab))
  program = compiled(
    decode.lower(
      {'model': params, 'draft': params},
      jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2)),
      canvas,
    )
  )
  assert copies_weights_in_a_loop(program) == (unroll < 8)


@pytest.mark.parametrize('sizes', [{'data': 8}, {'data': 2, 'fsdp': 4}])
def test_devices_share_the_work_of_an_update(sizes):
  """Without KL, where rows are put in another order first."""
  case = cases.make_case('shared', SMALL, 32, 16, 32, 16, 16)
  assert not case.policy.has_kl
  mesh = sharding.make_mesh(sharding.MeshConfig(**sizes))
  program = compiled(programs.inner_step(case, mesh))
  assert counts.products(program) <= 1.10 * case.minimum()['inner_step'] / 8


def test_the_logits_of_all_columns_would_be_too_large(mesh):
  def bad(params, tokens):
    mask = jnp.ones(tokens.shape, bool)
    query = jnp.broadcast_to(jnp.arange(128)[None], (CASE.rows, 128))
    logits = CASE.denoiser(params, tokens, mask, query)
    return jnp.argmax(jax.nn.softmax(logits), -1)

  tokens = jax.ShapeDtypeStruct((CASE.rows, CASE.columns), jnp.int32)
  lowered = jax.jit(bad).lower(programs.params(CASE, mesh), tokens)
  assert largest(compiled(lowered)) >= TOO_LARGE


def test_shapes_equal_those_of_a_run(mesh):
  batch = cases.rollouts(CASE)
  made = jax.tree.map(lambda x: (x.shape, x.dtype), batch)
  want = jax.tree.map(lambda x: (x.shape, x.dtype), programs.batch(CASE, mesh))
  assert made == want
  assert isinstance(CASE.denoiser, types.SplitDenoiser)
  assert CASE.views == (1, 128) and CASE.columns == 192
