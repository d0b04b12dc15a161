"""Counting from a program's text: by hand, and against compiled programs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dllm_jax.bench import hlo, hlo_counts
from dllm_jax.runtime import sharding
from tests.bench import buffers, counts

# A loop of 3 without `known_trip_count`, as the TPU's compiler writes it; a
# product as a convolution; a collective that starts in one fusion and ends in
# another.
TPU = """HloModule jit_f, is_scheduled=true

%cond (p.1: (s32[], f32[4,8])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %n = s32[]{:T(128)} constant(3)
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %n), direction=LT
}

%product (a: f32[4,8], b: f32[8,16]) -> f32[4,16] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[8,16]{1,0} parameter(1)
  ROOT %conv = f32[4,16]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

%begin (c: f32[4,2]) -> f32[4,8] {
  %c = f32[4,2]{1,0} parameter(0)
  ROOT %g.1 = f32[4,8]{1,0} all-gather(%c), channel_id=5, dimensions={1}
}

%end (d: f32[4,2]) -> f32[4,8] {
  %d = f32[4,2]{1,0} parameter(0)
  ROOT %g.2 = f32[4,8]{1,0} all-gather(%d), channel_id=5, dimensions={1}
}

%body (p.2: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p.2 = (s32[], f32[4,8]{1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%p.2), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%p.2), index=1
  %w = f32[8,16]{1,0} constant({...})
  %y = f32[4,16]{1,0} fusion(%x, %w), kind=kOutput, calls=%product
  %part = f32[4,2]{1,0} slice(%y), slice={[0:4], [0:2]}
  %s.1 = f32[4,8]{1,0} fusion(%part), kind=kLoop, calls=%begin
  %s.2 = f32[4,8]{1,0} fusion(%part), kind=kLoop, calls=%end
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%i.2, %s.2)
}

ENTRY %main (arg: f32[4,8]) -> f32[4,8] {
  %arg = f32[4,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[4,8]{1,0}) tuple(%zero, %arg)
  %loop = (s32[], f32[4,8]{1,0}) while(%start), condition=%cond, body=%body
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def compiled(f, *shapes, **options):
  args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return hlo.parse(jax.jit(f, **options).lower(*args).compile().as_text())


def test_a_program_of_the_tpu_compiler_is_counted_by_hand():
  program = hlo.parse(TPU)
  assert hlo.runs(program)['product'] == 3
  assert counts.products(program) == 3 * 2 * 4 * 8 * 16
  assert hlo_counts.collectives(program) == {'all-gather': 3 * 4 * 8 * 4}


def test_kinds_of_a_program_of_the_tpu_compiler_by_hand():
  program = hlo.parse(TPU)
  kind = lambda name, where: hlo_counts.kind(
    program.computations[where][name], program.computations[where], program
  )
  assert kind('y', 'body') == 'products'  # a fusion
  assert kind('part', 'body') == 'copies'
  assert kind('s.1', 'body') == 'collectives'
  assert kind('loop', 'main') == 'control'
  assert kind('lt', 'cond') == 'others'


@pytest.mark.parametrize(
  ('instruction', 'want'),
  [
    ('f32[4] copy-start(%a)', 'copies'),
    ('f32[4] all-reduce-done(%a)', 'collectives'),
    ('f32[4] add(%a, %b)', 'others'),
    ('f32[4] async-done(%a)', 'others'),
  ],
)
def test_kinds_of_one_instruction(instruction, want):
  program = _one(instruction, a='f32[4]', b='f32[4]')
  scope = program.computations[program.entry]
  *_, op = scope.values()
  assert hlo_counts.kind(op, scope, program) == want


@pytest.mark.parametrize(
  ('inside', 'want'),
  [
    ('copy(%c)', 'copies'),
    ('add(%c, %c)', 'others'),
    ('dot(%c, %c), lhs_contracting_dims={0}', 'products'),
  ],
)
@pytest.mark.parametrize('caller', ['call', 'fusion'])
def test_kinds_of_what_calls(caller, inside, want):
  word = {'call': 'to_apply', 'fusion': 'calls'}[caller]
  program = hlo.parse(
    '%inner (c: f32[4]) -> f32[4] {\n'
    '  %c = f32[4] parameter(0)\n'
    f'  ROOT %d = f32[4] {inside}\n'
    '}\n\n'
    'ENTRY %main (a: f32[4]) -> f32[4] {\n'
    '  %a = f32[4] parameter(0)\n'
    f'  ROOT %b = f32[4] {caller}(%a), {word}=%inner\n'
    '}\n'
  )
  scope = program.computations['main']
  assert hlo_counts.kind(scope['b'], scope, program) == want


def test_buffers_are_outside_of_fusions():
  inner = hlo.Shape('f32', (8, 16))  # a parameter of `product`, and `w`
  assert [
    op for op, shape in buffers.buffers(hlo.parse(TPU)) if shape == inner
  ] == ['constant']


@pytest.mark.parametrize(
  'window, pairs',
  [
    ('size=3', 4 * 3),  # valid: 4 places, all 3 inside
    ('size=3 pad=1_1', 6 * 3 - 2),  # the two ends miss one each
    ('size=6 stride=5 pad=5_5 lhs_dilate=6', 6),  # a batch of 6
  ],
)
def test_convolutions_count_pairs_that_meet_the_input(window, pairs):
  out = {'size=3': 4}.get(window, 6)
  size = int(window.split()[0].removeprefix('size='))
  made = _one(
    f'f32[2,{out},7] convolution(%a, %b), window={{{window}}}, '
    'dim_labels=b0f_0io->b0f',
    a='f32[2,6,5]',
    b=f'f32[{size},5,7]',
  )
  assert counts.products(made) == 2 * 2 * 7 * 5 * pairs


def _one(instruction: str, *, a: str, b: str) -> hlo.Program:
  """A program of two parameters and one instruction."""
  return hlo.parse(
    f'ENTRY %main (a: {a}, b: {b}) -> f32[] {{\n'
    f'  %a = {a} parameter(0)\n'
    f'  %b = {b} parameter(1)\n'
    f'  ROOT %c = {instruction}\n'
    '}\n'
  )


def test_products_of_a_gpu_library_are_counted():
  config = {
    'gemm_backend_config': {
      'dot_dimension_numbers': {'lhs_contracting_dimensions': ['1']}
    }
  }
  made = _one(
    '(bf16[4,16], s8[64]) custom-call(%a, %b), '
    f'custom_call_target="__cublas$gemm", backend_config={json.dumps(config)}',
    a='bf16[4,8]',
    b='bf16[8,16]',
  )
  assert counts.products(made) == 2 * 4 * 8 * 16


@pytest.mark.parametrize(
  'target, num_products', [('Softmax', 2), ('SoftmaxBackward', 5)]
)
def test_fused_attention_of_a_gpu_library_is_counted(target, num_products):
  # The gradient makes the scores anew: 5 products, not 4.
  config = {
    'cudnn_fmha_backend_config': {
      'intermediate_tensor_shape': {'dimensions': ['2', '3', '5', '7']}
    }
  }
  made = _one(
    '(bf16[2,3,5,8], u8[0]) custom-call(%a, %b), custom_call_target='
    f'"__cudnn$fmhaScaleBias{target}", backend_config={json.dumps(config)}',
    a='bf16[2,5,3,8]',
    b='bf16[2,7,3,8]',
  )
  assert counts.products(made) == num_products * 2 * (2 * 3 * 5 * 7) * 8


def test_loops_count_as_often_as_they_run():
  def f(x, w):
    y, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)
    return jax.lax.while_loop(lambda y: jnp.sum(y) > 0, lambda y: y @ w[0], y)

  program = compiled(f, (4, 16), (5, 16, 16))
  one = 2 * 4 * 16 * 16
  products = counts.products(program)
  assert products == 5 * one + one  # the second loop's length is unknown: once
  assert hlo_counts.flops(program) >= 6 * one + 5 * 4 * 16  # and the tanh


def test_an_all_gather_counts_the_bytes_it_produces():
  mesh = sharding.make_mesh(sharding.MeshConfig(data=8))
  split = NamedSharding(mesh, P('data'))
  whole = sharding.replicated(mesh)
  program = compiled(
    lambda x: x + 1, (16, 4), in_shardings=split, out_shardings=whole
  )
  assert hlo_counts.collectives(program) == {'all-gather': 16 * 4 * 4}
  sizes = [shape.size for _, shape in buffers.buffers(program)]
  assert max(sizes) == 16 * 4


COPIES = """HloModule jit_g

%turn (a: f32[4,8]) -> f32[8,4] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[4,8]{0,1} copy(%a)
  ROOT %c = f32[8,4]{1,0} bitcast(%b)
}

%add (d: f32[4,8]) -> f32[8,4] {
  %d = f32[4,8]{1,0} parameter(0)
  %e = f32[8,4]{1,0} transpose(%d), dimensions={1,0}
  ROOT %f = f32[8,4]{1,0} add(%e, %e)
}

ENTRY %main (arg: f32[4,8]) -> f32[8,4] {
  %arg = f32[4,8]{1,0} parameter(0)
  %g = f32[8,4]{1,0} fusion(%arg), kind=kLoop, calls=%turn
  %h = f32[8,4]{1,0} fusion(%arg), kind=kLoop, calls=%add
  %i = f32[2,4]{1,0} slice(%h), slice={[0:2], [0:4]}
  ROOT %j = f32[8,4]{1,0} bitcast(%g)
}
"""


@pytest.mark.parametrize('at_least, want', [(0, 128 + 32), (33, 128), (129, 0)])
def test_copies_count_unless_they_are_part_of_a_computation(at_least, want):
  program = hlo.parse(COPIES)
  assert counts.copied(program, at_least=at_least) == want


def test_text_that_is_not_a_program_is_refused():
  with pytest.raises(ValueError, match='ENTRY'):
    hlo.parse(str(np.zeros(3)))
