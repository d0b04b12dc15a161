"""What a compiled program does, counted from its text.

XLA's own `cost_analysis` counts the body of a loop once, whatever its trips,
and says nothing of collectives or of single buffers. Here a program is read
computation by computation, and a loop's body counts as often as it runs where
that is known, once where it is not: of a decoder's loop that is one denoising
step. Of a conditional every branch counts. The text is that of
`compiled.as_text()`: per device, optimised.
"""

import collections
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# Bytes of an element; a predicate takes one.
WIDTH = {
  **dict.fromkeys(('pred', 's8', 'u8', 's4', 'u4'), 1),
  **dict.fromkeys(('bf16', 'f16', 's16', 'u16'), 2),
  **dict.fromkeys(('f32', 's32', 'u32'), 4),
  **dict.fromkeys(('f64', 's64', 'u64', 'c64'), 8),
}
COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
_CALLERS = ('while', 'conditional', 'fusion', 'call', 'async-start')
# One operation an element of the result, as XLA counts.
_ARITHMETIC = frozenset(
  'abs add and clamp compare cosine divide exponential '
  'exponential-minus-one log log-plus-one logistic maximum minimum multiply '
  'negate not or power rem remainder round-nearest-even rsqrt select '
  'sign sine sqrt subtract tanh xor'.split()
)
_SHAPE = re.compile(r'([a-z]+\d*)\[([\d,]*)\]')
_NAME = re.compile(r'%([\w.\-]+)')
_CALLS = re.compile(
  r'(?:calls|to_apply|body|condition|true_computation|false_computation)='
  r'%?([\w.\-]+)'
)
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRIPS = re.compile(r'known_trip_count[^\d]*(\d+)')


class Shape(NamedTuple):
  """An array's element type and dimensions."""

  dtype: str
  dims: tuple[int, ...]

  @property
  def size(self) -> int:
    return math.prod(self.dims)

  @property
  def nbytes(self) -> int:
    return self.size * WIDTH.get(self.dtype, 1)


class Instruction(NamedTuple):
  """One line: what it makes (several where it is a tuple), of what, and how.

  `literal` is what is written of a constant.
  """

  name: str
  shapes: tuple[Shape, ...]
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  literal: str


Cost = Callable[[Instruction, dict[str, Instruction]], dict[str, int]]


class Program(NamedTuple):
  """Computations by name, their instructions by name, in order."""

  computations: dict[str, dict[str, Instruction]]
  entry: str


def parse(text: str) -> Program:
  """The program that `compiled.as_text()` wrote.

  Raises:
    ValueError: no entry computation is in it.
  """
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    header = re.match(r'(ENTRY )?%?([\w.\-]+) (\(.*)?.*\{$', line)
    if header and ' = ' not in line.split('->')[0]:
      current = computations.setdefault(header[2], {})
      entry = header[2] if header[1] else entry
    elif current is not None and ' = ' in line:
      made = _instruction(line)
      current[made.name] = made
    elif line.startswith('}'):
      current = None
  if entry is None:
    raise ValueError('the text holds no ENTRY computation')
  return Program(computations, entry)


def _instruction(line: str) -> Instruction:
  name, _, rest = line.strip().removeprefix('ROOT ').partition(' = ')
  end = _closing(rest) if rest.startswith('(') else rest.index(' ') - 1
  kind, rest = rest[: end + 1], rest[end + 1 :].lstrip()
  opcode = rest[: rest.index('(')]
  rest = rest[len(opcode) :]
  end = _closing(rest)
  return Instruction(
    name=name.removeprefix('%'),
    shapes=shapes(kind),
    opcode=opcode,
    operands=tuple(_NAME.findall(rest[: end + 1])),
    attributes=rest[end + 1 :],
    literal=rest[1:end] if opcode == 'constant' else '',
  )


def shapes(text: str) -> tuple[Shape, ...]:
  """Every array that a type names."""
  return tuple(
    Shape(dtype, tuple(int(d) for d in dims.split(',') if d))
    for dtype, dims in _SHAPE.findall(text)
  )


def _closing(text: str) -> int:
  """Where the parenthesis that `text` begins with is closed."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return i
  raise ValueError(f'unbalanced: {text[:80]!r}')


def _callees(made: Instruction) -> list[str]:
  branches = _BRANCHES.search(made.attributes)
  inside = re.findall(r'[\w.\-]+', branches[1]) if branches else []
  return _CALLS.findall(made.attributes) + inside


def trips(made: Instruction, program: Program) -> int | None:
  """How often a `while` runs; None where that depends on the data.

  Said by the compiler (CPU, GPU), or read off a condition that compares a
  counter with a constant (TPU): those of `lax.scan` count from 0 by 1.
  """
  found = _TRIPS.search(made.attributes)
  if found:
    return int(found[1])
  condition = re.search(r'condition=%?([\w.\-]+)', made.attributes)
  inside = program.computations[condition[1]]
  bodies = [inside] + [
    program.computations[name]
    for each in inside.values()
    if each.opcode == 'fusion'
    for name in _callees(each)
  ]
  compared = any(
    each.opcode == 'compare' and 'direction=LT' in each.attributes
    for body in bodies
    for each in body.values()
  )
  bounds = {
    each.literal
    for body in bodies
    for each in body.values()
    if each.opcode == 'constant' and each.shapes == (Shape('s32', ()),)
  }
  return int(bounds.pop()) if compared and len(bounds) == 1 else None


def runs(program: Program) -> dict[str, int]:
  """How often each computation runs in one run of the program.

  Loops of unknown length count once, and so does every branch.
  """
  count = collections.Counter({program.entry: 1})
  for name in reversed(program.computations):  # callers come after callees
    for made in program.computations[name].values():
      if made.opcode in _CALLERS:
        times = (trips(made, program) or 1) if made.opcode == 'while' else 1
        for callee in _callees(made):
          count[callee] += count[name] * times
  return count


def _total(program: Program, cost: Cost) -> dict[str, int]:
  """Sums the named costs of all instructions, as often as they run."""
  found, count = collections.Counter(), runs(program)
  for name, inside in program.computations.items():
    for made in inside.values():
      for kind, amount in cost(made, inside).items():
        found[kind] += amount * count[name]
  return dict(found)


def flops(program: Program) -> int:
  """Operations of one run on one device, matrix products and all others."""
  return sum(_total(program, _flops).values())


def products(program: Program) -> int:
  """Operations of the matrix products alone."""
  return _total(program, _flops).get('products', 0)


def _flops(made: Instruction, inside: dict[str, Instruction]) -> dict[str, int]:
  if made.opcode in ('dot', 'convolution', 'custom-call'):
    count = _PRODUCTS[made.opcode](made, inside)
    return {'products': count} if count else {}
  if made.opcode in _ARITHMETIC:
    return {'others': made.shapes[0].size}
  if made.opcode in ('reduce', 'reduce-window'):
    return {'others': inside[made.operands[0]].shapes[0].size}
  return {}


def _dims(made: Instruction, name: str) -> list[int]:
  found = re.search(name + r'=\{([\d,]*)\}', made.attributes)
  return [int(d) for d in found[1].split(',') if d] if found else []


def _dot(made: Instruction, inside: dict[str, Instruction]) -> int:
  left = inside[made.operands[0]].shapes[0].dims
  contracted = _dims(made, 'lhs_contracting_dims')
  return 2 * made.shapes[0].size * math.prod(left[d] for d in contracted)


def _library(made: Instruction, inside: dict[str, Instruction]) -> int:
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


def _fused_attention(made: Instruction, config: dict[str, Any]) -> int:
  """Two products of scores; five of the gradient, which makes them anew."""
  fmha = config['cudnn_fmha_backend_config']
  scores = math.prod(
    int(d) for d in fmha['intermediate_tensor_shape']['dimensions']
  )
  num_products = 5 if 'Backward' in made.attributes else 2
  return num_products * 2 * scores * made.shapes[0].dims[-1]


def _convolution(made: Instruction, inside: dict[str, Instruction]) -> int:
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


def collectives(program: Program) -> dict[str, int]:
  """Bytes that each kind of collective makes on a device, in one run.

  One that is in several pieces (a TPU starts it in one fusion and ends it in
  another) has one channel, and counts once.
  """
  by_channel, count, inner = {}, runs(program), _fused(program)
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


def _fused(program: Program) -> set[str]:
  """Computations whose instructions make no buffers of their own."""
  return {
    callee
    for inside in program.computations.values()
    for made in inside.values()
    if made.opcode == 'fusion'
    for callee in _callees(made)
  }


def buffers(program: Program) -> Iterator[tuple[str, Shape]]:
  """Every array that exists in memory: what fusions keep to themselves is not.

  Gives the opcode that makes it, and its shape.
  """
  fused = _fused(program)
  for name, inside in program.computations.items():
    if name not in fused:
      for made in inside.values():
        for shape in made.shapes:
          yield made.opcode, shape


def largest(program: Program) -> Shape:
  """The array with the most elements."""
  return max((shape for _, shape in buffers(program)), key=lambda s: s.size)
