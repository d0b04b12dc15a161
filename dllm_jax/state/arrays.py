"""The leaves of a checkpoint, written and read by orbax.

The one file that imports it. Nothing is checked here: `state.checkpoint` knows
what was written.
"""

import contextlib
import functools
import logging
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

_BATCH_BYTES = 2**26


def save(path: pathlib.Path, leaves: dict[str, jax.Array]) -> None:
  """Writes the leaves, by name; a disk that refuses is an OSError."""
  # Weights do not compress, and what is compressed is in memory twice.
  handler = ocp.PyTreeCheckpointHandler(use_compression=False)
  with _os_errors(), ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(path, args=ocp.args.PyTreeSave(leaves))


def restore(path: pathlib.Path, wanted: dict[str, Any]) -> dict[str, jax.Array]:
  """The leaves by name, where the shardings of `wanted` say.

  A disk that cannot be read is an OSError.
  """
  on_first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  abstract = {
    name: jax.ShapeDtypeStruct(
      leaf.shape,
      leaf.dtype,
      sharding=getattr(leaf, 'sharding', None) or on_first,
    )
    for name, leaf in wanted.items()
  }
  restored = {}
  handler = ocp.PyTreeCheckpointHandler()
  with _os_errors(), ocp.Checkpointer(handler) as c:
    for batch in _batches(abstract):
      args = ocp.args.PyTreeRestore(
        batch,
        restore_args=ocp.checkpoint_utils.construct_restore_args(batch),
        partial_restore=True,
      )
      restored |= c.restore(path, args=args)
  return {name: restored[name] for name in wanted}


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
  """Turns orbax's way to say that the disk failed into an OSError."""
  # Its threads log such an error with its traceback before raising it.
  log = logging.getLogger('absl')
  level, hook = log.level, sys.unraisablehook
  log.setLevel(logging.CRITICAL)
  sys.unraisablehook = functools.partial(_but_for_closed_loops, hook)
  try:
    yield
  except ValueError as e:
    code = re.search(r"os_error_code='(\d+)'", str(e))
    if not code:
      raise
    # Its other tasks failed likewise, and would tell of it later, each.
    hook = sys.unraisablehook
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    warnings.filterwarnings('ignore', 'coroutine .* was never awaited')
    raise OSError(int(code[1]), os.strerror(int(code[1]))) from e
  finally:
    log.setLevel(level)
    sys.unraisablehook = hook


def _but_for_closed_loops(hook, report) -> None:
  """What tensorstore prints of a write that ends after the first failure."""
  if str(report.exc_value) != 'Event loop is closed':
    hook(report)


def _batches(
  leaves: dict[str, jax.ShapeDtypeStruct],
) -> Iterator[dict[str, jax.ShapeDtypeStruct]]:
  """Leaves to be read together, the largest first.

  What is in flight is in memory twice, so what is large is read while there is
  room.
  """
  batch, room = {}, _BATCH_BYTES
  sizes = {k: leaf.size * leaf.dtype.itemsize for k, leaf in leaves.items()}
  for name, size in sorted(sizes.items(), key=lambda x: x[1], reverse=True):
    if batch and size > room:
      yield batch
      batch, room = {}, _BATCH_BYTES
    batch[name] = leaves[name]
    room -= size
  yield batch
