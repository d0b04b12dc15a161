"""Parses compiled programs: their computations, and how often each runs.

The text is `compiled.as_text()`: the optimised program of one device.
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
  """One line of a computation.

  Attributes:
    name: of its result.
    shapes: of its result; several for a tuple.
    opcode: such as 'dot'.
    operands: names of the inputs.
    attributes: the text after the operands.
    literal: the value of a constant; '' for other instructions.
  """

  name: str
  shapes: tuple[Shape, ...]
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  literal: str


class Program(NamedTuple):
  """Computations by name; each has its instructions by name, in order."""

  computations: dict[str, dict[str, Instruction]]
  entry: str


def parse(text: str) -> Program:
  """Parses the text of `compiled.as_text()`.

  Raises:
    ValueError: it has no entry computation.
  """
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    header = re.match(r'(ENTRY )?%?([\w.\-]+) (\(.*)?.*\{$', line)
    if header and ' = ' not in line.split('->')[0]:
      current = computations.setdefault(header[2], {})
      entry = header[2] if header[1] else entry
    elif current is not None and ' = ' in line:
      instruction = _instruction(line)
      current[instruction.name] = instruction
    elif line.startswith('}'):
      current = None
  if entry is None:
    raise ValueError('the text has no ENTRY computation')
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
  """All arrays in the text of a type."""
  return tuple(
    Shape(dtype, tuple(int(d) for d in dims.split(',') if d))
    for dtype, dims in _SHAPE.findall(text)
  )


def _closing(text: str) -> int:
  """Index of the parenthesis that closes the one at the start of `text`."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return i
  raise ValueError(f'unbalanced parentheses: {text[:80]!r}')


def op_name(instruction: Instruction) -> str:
  """The path of JAX operations that it was compiled from; '' if unknown."""
  match = re.search(r'op_name="([^"]*)"', instruction.attributes)
  return match[1] if match else ''


def callees(instruction: Instruction) -> list[str]:
  """Names of the computations that an instruction calls."""
  branches = _BRANCHES.search(instruction.attributes)
  names = re.findall(r'[\w.\-]+', branches[1]) if branches else []
  return _CALLS.findall(instruction.attributes) + names


def trips(loop: Instruction, program: Program) -> int | None:
  """Trip count of a `while`; None if it depends on the data.

  The CPU and GPU compilers write it down. For the TPU it is read off a
  condition that compares a counter with a constant; loops of `lax.scan` count
  from 0 by 1.
  """
  if known := _TRIPS.search(loop.attributes):
    return int(known[1])
  name = re.search(r'condition=%?([\w.\-]+)', loop.attributes)[1]
  condition = list(program.computations[name].values())
  for each in tuple(condition):
    if each.opcode == 'fusion':
      for callee in callees(each):
        condition += program.computations[callee].values()
  compared = any(
    each.opcode == 'compare' and 'direction=LT' in each.attributes
    for each in condition
  )
  bounds = {
    each.literal
    for each in condition
    if each.opcode == 'constant' and each.shapes == (Shape('s32', ()),)
  }
  return int(bounds.pop()) if compared and len(bounds) == 1 else None


def runs(program: Program) -> dict[str, int]:
  """How often each computation runs in one run of the program.

  Loops of unknown length count once, and so does every branch.
  """
  count = collections.Counter({program.entry: 1})
  for name in reversed(program.computations):  # callers come after callees
    for each in program.computations[name].values():
      if each.opcode in _CALLERS:
        times = (trips(each, program) or 1) if each.opcode == 'while' else 1
        for callee in callees(each):
          count[callee] += count[name] * times
  return count


def fused(program: Program) -> set[str]:
  """Computations inside of fusions, whose results are not in memory."""
  return {
    callee
    for instructions in program.computations.values()
    for each in instructions.values()
    if each.opcode == 'fusion'
    for callee in callees(each)
  }
