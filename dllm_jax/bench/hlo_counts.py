"""Operations and collectives of a compiled program, from its text.

XLA's own `cost_analysis` counts the body of a loop once whatever its trip
count, and does not report collectives. Here the body of a loop counts as often
as it runs, or once if that is unknown: for a decoder's loop that is one
denoising step. All branches of a conditional count.
"""

import collections
import json
import math
import re
from typing import Any

from dllm_jax.bench import hlo

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
# One operation per element of the result, as XLA counts.
_ARITHMETIC = frozenset(
  'abs add and clamp compare cosine divide exponential '
  'exponential-minus-one log log-plus-one logistic maximum minimum multiply '
  'negate not or power rem remainder round-nearest-even rsqrt select '
  'sign sine sqrt subtract tanh xor'.split()
)
_MOVES = frozenset(
  'concatenate copy dynamic-slice dynamic-update-slice slice transpose'.split()
)
_NOTHING = frozenset(
  'bitcast constant get-tuple-element parameter reshape tuple'.split()
)

Scope = dict[str, hlo.Instruction]  # a computation


def operations(program: hlo.Program) -> collections.Counter[str]:
  """Operations of one run on one device: of matrix products, and of others."""
  total, count = collections.Counter(), hlo.runs(program)
  for name, scope in program.computations.items():
    for op in scope.values():
      for kind, amount in _flops(op, scope).items():
        total[kind] += amount * count[name]
  return total


def flops(program: hlo.Program) -> int:
  """Operations of one run on one device: matrix products and all others."""
  return operations(program).total()


def _flops(op: hlo.Instruction, scope: Scope) -> dict[str, int]:
  if op.opcode in ('dot', 'convolution', 'custom-call'):
    count = _PRODUCTS[op.opcode](op, scope)
    return {'products': count} if count else {}
  if op.opcode in _ARITHMETIC:
    return {'others': op.shapes[0].size}
  if op.opcode in ('reduce', 'reduce-window'):
    return {'others': scope[op.operands[0]].shapes[0].size}
  return {}


def _dims(op: hlo.Instruction, name: str) -> list[int]:
  dims = re.search(name + r'=\{([\d,]*)\}', op.attributes)
  return [int(d) for d in dims[1].split(',') if d] if dims else []


def _dot(op: hlo.Instruction, scope: Scope) -> int:
  left = scope[op.operands[0]].shapes[0].dims
  contracted = _dims(op, 'lhs_contracting_dims')
  return 2 * op.shapes[0].size * math.prod(left[d] for d in contracted)


def _library(op: hlo.Instruction, scope: Scope) -> int:
  """Products computed by a GPU library; 0 for any other call."""
  config = re.search(r'backend_config=(\{.*\})', op.attributes)
  if 'cudnn$fmha' in op.attributes:
    return _fused_attention(op, json.loads(config[1]))
  if 'cublas' not in op.attributes:
    return 0
  gemm = json.loads(config[1])['gemm_backend_config']
  dims = gemm['dot_dimension_numbers']['lhs_contracting_dimensions']
  left = scope[op.operands[0]].shapes[0].dims
  contracted = math.prod(left[int(d)] for d in dims)
  return 2 * op.shapes[0].size * contracted


def _fused_attention(op: hlo.Instruction, config: dict[str, Any]) -> int:
  """Two products forward; five backward, which recomputes the scores."""
  fmha = config['cudnn_fmha_backend_config']
  scores = math.prod(
    int(d) for d in fmha['intermediate_tensor_shape']['dimensions']
  )
  num_products = 5 if 'Backward' in op.attributes else 2
  return num_products * 2 * scores * op.shapes[0].dims[-1]


def _convolution(op: hlo.Instruction, scope: Scope) -> int:
  """A matrix product on a TPU, whose batch dimensions are dilated windows.

  A pair of (position in the result, position in the window) counts if it meets
  an element of the input instead of padding or a hole.
  """
  left, kernel = (scope[name].shapes[0].dims for name in op.operands[:2])
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', op.attributes)
  window = re.search(r'window=\{([^}]*)\}', op.attributes)
  fields = dict(part.split('=') for part in window[1].split()) if window else {}
  pairs = 1
  spatial = [label for label in labels[2] if label.isdigit()]
  for label in sorted(spatial):
    take = lambda name, default, at=int(label): (
      fields[name].split('x')[at] if name in fields else default
    )
    pairs *= _pairs(
      op.shapes[0].dims[labels[3].index(label)],
      int(take('size', '1')),
      left[labels[1].index(label)],
      stride=int(take('stride', '1')),
      pad=int(take('pad', '0_0').split('_')[0]),
      holes=int(take('lhs_dilate', '1')),
      spread=int(take('rhs_dilate', '1')),
    )
  out = op.shapes[0].dims
  features = out[labels[3].index('b')] * out[labels[3].index('f')]
  return 2 * features * kernel[labels[2].index('i')] * pairs


def _pairs(out, size, length, *, stride, pad, holes, spread) -> int:
  last = (length - 1) * holes
  return sum(
    0 <= at <= last and at % holes == 0
    for o in range(out)
    for at in (o * stride + k * spread - pad for k in range(size))
  )


_PRODUCTS = {'dot': _dot, 'convolution': _convolution, 'custom-call': _library}


def kind(op: hlo.Instruction, scope: Scope, program: hlo.Program) -> str:
  """'products', 'collectives', 'copies', 'control' or 'others'.

  A fusion or a call is the first of these that it has inside it; copies if it
  does nothing else. Control is loops and branches without what is inside them.

  Args:
    op: an instruction.
    scope: its computation.
    program: the program.
  """
  opcode = re.sub('-(start|done)$', '', op.opcode)
  if opcode in ('while', 'conditional'):
    return 'control'
  if opcode in COLLECTIVES:
    return 'collectives'
  if 'products' in _flops(op, scope):
    return 'products'
  if opcode in _MOVES:
    return 'copies'
  if opcode in ('fusion', 'call', 'async'):
    kinds = {
      kind(each, program.computations[callee], program)
      for callee in hlo.callees(op)
      for each in program.computations[callee].values()
      if each.opcode not in _NOTHING
    }
    for name in ('products', 'collectives', 'control'):
      if name in kinds:
        return name
    if kinds == {'copies'}:
      return 'copies'
  return 'others'


def collectives(program: hlo.Program) -> dict[str, int]:
  """Bytes produced by each kind of collective on a device in one run.

  A collective in several pieces (a TPU starts it in one fusion and ends it in
  another) has one channel and counts once.
  """
  by_channel, count, inner = {}, hlo.runs(program), hlo.fused(program)
  for name, scope in program.computations.items():
    for op in scope.values():
      kind = op.opcode.removesuffix('-start')
      if kind in COLLECTIVES:
        shapes = op.shapes
        if kind != op.opcode and kind != 'all-reduce':
          shapes = shapes[len(shapes) // 2 :]  # operands come first
        nbytes = count[name] * sum(shape.nbytes for shape in shapes)
        channel = re.search(r'channel_id=(\d+)', op.attributes)
        key = kind, channel[1] if name in inner else op.name
        by_channel[key] = max(nbytes, by_channel.get(key, 0))
  total = collections.Counter()
  for (kind, _), nbytes in by_channel.items():
    total[kind] += nbytes
  return dict(total)
