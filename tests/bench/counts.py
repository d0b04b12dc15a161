"""Numbers of a compiled program that only the tests bound."""

from dllm_jax.bench import hlo, hlo_counts


def products(program: hlo.Program) -> int:
  """Operations of the matrix products only."""
  return hlo_counts.operations(program)['products']


def copied(program: hlo.Program, *, at_least: int = 2**16) -> int:
  """Bytes of arrays that one run on a device only writes in another place.

  A bitcast moves nothing; the inside of a call counts, not the call.

  Args:
    program: the compiled program.
    at_least: bytes of the smallest array that counts.
  """
  count, inner, total = hlo.runs(program), hlo.fused(program), 0
  for name, scope in program.computations.items():
    for op in scope.values():
      nbytes = sum(shape.nbytes for shape in op.shapes)
      if name in inner or nbytes < at_least or op.opcode == 'call':
        continue
      if hlo_counts.kind(op, scope, program) == 'copies':
        total += nbytes * count[name]
  return total
