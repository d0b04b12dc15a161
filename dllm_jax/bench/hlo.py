"""A compiled program, read from its text: computations and how often they run.

The text is that of `compiled.as_text()`: of one device, optimised.
"""

import collections
import math
import re
from typing import NamedTuple

# Bytes of an element; a predicate takes one.
WIDTH = {
  **dict.fromkeys(('pred', 's8', 'u8', 's4', 'u4'), 1),
  **dict.fromkeys(('bf16', 'f16', 's16', 'u16'), 2),
  **dict.fromkeys(('f32', 's32', 'u32'), 4),
  **dict.fromkeys(('f64', 's64', 'u64', 'c64'), 8),
}
_CALLERS = ('while', 'conditional', 'fusion', 'call', 'async-start')
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


def fused(program: Program) -> set[str]:
  """Computations whose instructions make no buffers of their own."""
  return {
    callee
    for inside in program.computations.values()
    for made in inside.values()
    if made.opcode == 'fusion'
    for callee in _callees(made)
  }
