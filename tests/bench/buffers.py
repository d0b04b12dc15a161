"""The arrays of a compiled program that are in memory."""

from collections.abc import Iterator

from dllm_jax.bench import hlo


def buffers(program: hlo.Program) -> Iterator[tuple[str, hlo.Shape]]:
  """(opcode, shape of its result) of all arrays in memory.

  Arrays inside of fusions are not in memory.
  """
  fused = hlo.fused(program)
  for name, scope in program.computations.items():
    if name not in fused:
      for op in scope.values():
        for shape in op.shapes:
          yield op.opcode, shape
