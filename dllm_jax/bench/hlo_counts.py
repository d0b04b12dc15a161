"""What a compiled program costs, counted from its text.

XLA's own `cost_analysis` counts the body of a loop once, whatever its trips,
and says nothing of collectives or of single buffers. Here a loop's body counts
as often as it runs where that is known, once where it is not: of a decoder's
loop that is one denoising step. Of a conditional every branch counts.
"""

import collections
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from dllm_jax.bench import hlo

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
# One operation an element of the result, as XLA counts.
_ARITHMETIC = frozenset(
  'abs add and clamp compare cosine divide exponential '
  'exponential-minus-one log log-plus-one logistic maximum minimum multiply '
  'negate not or power rem remainder round-nearest-even rsqrt select '
  'sign sine sqrt subtract tanh xor'.split()
)

Cost = Callable[[hlo.Instruction, dict[str, hlo.Instruction]], dict[str, int]]


def _total(program: hlo.Program, cost: Cost) -> dict[str, int]:
  """Sums the named costs of all instructions, as often as they run."""
  found, count = collections.Counter(), hlo.runs(program)
  for name, inside in program.computations.items():
    for made in inside.values():
      for kind, amount in cost(made, inside).items():
        found[kind] += amount * count[name]
  return dict(found)


def flops(program: hlo.Program) -> int:
  """Operations of one run on one device, matrix products and all others."""
  return sum(_total(program, _flops).values())


def products(program: hlo.Program) -> int:
  """Operations of the matrix products alone."""
  return _total(program, _flops).get('products', 0)


def _flops(
  made: hlo.Instruction, inside: dict[str, hlo.Instruction]
) -> dict[str, int]:
  if made.opcode in ('dot', 'convolution', 'custom-call'):
    count = _PRODUCTS[made.opcode](made, inside)
    return {'products': count} if count else {}
  if made.opcode in _ARITHMETIC:
    return {'others': made.shapes[0].size}
  if made.opcode in ('reduce', 'reduce-window'):
    return {'others': inside[made.operands[0]].shapes[0].size}
  return {}


def _dims(made: hlo.Instruction, name: str) -> list[int]:
  found = re.search(name + r'=\{([\d,]*)\}', made.attributes)
  return [int(d) for d in found[1].split(',') if d] if found else []


def _dot(made: hlo.Instruction, inside: dict[str, hlo.Instruction]) -> int:
  left = inside[made.operands[0]].shapes[0].dims
  contracted = _dims(made, 'lhs_contracting_dims')
  return 2 * made.shapes[0].size * math.prod(left[d] for d in contracted)


def _library(made: hlo.Instruction, inside: dict[str, hlo.Instruction]) -> int:
  """Products that a GPU's library computes; 0 for any other call."""
  config = re.search(r'backend_config=(\{.*\})', made.attributes)
  if 'cudnn$fmha' in made.attributes:
    return _fused_attention(made, json.loads(config[1]))
  if 'cublas' not in made.attributes:
    return 0
  gemm = json.loads(config[1])['gemm_backend_config']
  dims = gemm['dot_dimension_numbers']['lhs_contracting_dimensions']
  left = inside[made.operands[0]].shapes[0].dims
  contracted = math.prod(left[int(d)] for d in dims)
  return 2 * made.shapes[0].size * contracted


def _fused_attention(made: hlo.Instruction, config: dict[str, Any]) -> int:
  """Two products of scores; five of the gradient, which makes them anew."""
  fmha = config['cudnn_fmha_backend_config']
  scores = math.prod(
    int(d) for d in fmha['intermediate_tensor_shape']['dimensions']
  )
  num_products = 5 if 'Backward' in made.attributes else 2
  return num_products * 2 * scores * made.shapes[0].dims[-1]


def _convolution(
  made: hlo.Instruction, inside: dict[str, hlo.Instruction]
) -> int:
  """A TPU's matrix product; its batch dimensions are windows that are dilated.

  A pair of (position in the result, position in the window) counts where it
  meets an element of the input, and no padding or hole.
  """
  left, kernel = (inside[name].shapes[0].dims for name in made.operands[:2])
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', made.attributes)
  window = re.search(r'window=\{([^}]*)\}', made.attributes)
  fields = dict(part.split('=') for part in window[1].split()) if window else {}
  pairs = 1
  spatial = [label for label in labels[2] if label.isdigit()]
  for label in sorted(spatial):
    take = lambda name, default, at=int(label): (
      fields[name].split('x')[at] if name in fields else default
    )
    pairs *= _pairs(
      made.shapes[0].dims[labels[3].index(label)],
      int(take('size', '1')),
      left[labels[1].index(label)],
      stride=int(take('stride', '1')),
      pad=int(take('pad', '0_0').split('_')[0]),
      holes=int(take('lhs_dilate', '1')),
      spread=int(take('rhs_dilate', '1')),
    )
  out = made.shapes[0].dims
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


def collectives(program: hlo.Program) -> dict[str, int]:
  """Bytes that each kind of collective makes on a device, in one run.

  One that is in several pieces (a TPU starts it in one fusion and ends it in
  another) has one channel, and counts once.
  """
  by_channel, count, inner = {}, hlo.runs(program), hlo.fused(program)
  for name, inside in program.computations.items():
    for made in inside.values():
      kind = made.opcode.removesuffix('-start')
      if kind in COLLECTIVES:
        shapes = made.shapes
        if kind != made.opcode and kind != 'all-reduce':
          shapes = shapes[len(shapes) // 2 :]  # operands come first
        nbytes = count[name] * sum(shape.nbytes for shape in shapes)
        channel = re.search(r'channel_id=(\d+)', made.attributes)
        key = kind, channel[1] if name in inner else made.name
        by_channel[key] = max(nbytes, by_channel.get(key, 0))
  found = collections.Counter()
  for (kind, _), nbytes in by_channel.items():
    found[kind] += nbytes
  return dict(found)


def buffers(program: hlo.Program) -> Iterator[tuple[str, hlo.Shape]]:
  """Every array that exists in memory: what fusions keep to themselves is not.

  Gives the opcode that makes it, and its shape.
  """
  fused = hlo.fused(program)
  for name, inside in program.computations.items():
    if name not in fused:
      for made in inside.values():
        for shape in made.shapes:
          yield made.opcode, shape


def largest(program: hlo.Program) -> hlo.Shape:
  """The array with the most elements."""
  return max((shape for _, shape in buffers(program)), key=lambda s: s.size)
