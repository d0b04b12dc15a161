"""Checkpoints on disk: all or nothing, and checked when they are read.

A checkpoint is a directory:

  arrays/          the leaves, written by orbax under their paths in the tree
  meta.json        whatever else the caller wants to find again
  manifest.json    written last: each leaf's shape and dtype, the digest of
                   every other file, and that of all this

It is put together beside its place and moved there by one rename, so a killed
process leaves a whole checkpoint or none. Orbax restores flipped bits without
a word, hence the digests; a numbered checkpoint that fails them is set aside
and the one before it is used. Saving is synchronous: when `save` returns, the
checkpoint is there. With several processes all of them call, on one shared
file system, and the first writes all but the arrays.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax

from dllm_jax import errors
from dllm_jax.runtime import processes
from dllm_jax.state import arrays, manifest

PyTree = Any
MANIFEST_FILE = manifest.FILE
META_FILE = 'meta.json'
PARTIAL = '.partial'  # ends the name of what is not finished
DAMAGED = '.damaged'  # ends the name of what was set aside
_ARRAYS = 'arrays'


class Checkpoints:
  """The numbered checkpoints of a run, the newest `max_to_keep` of them."""

  def __init__(self, directory: str | os.PathLike, *, max_to_keep: int):
    if max_to_keep < 1:
      raise ValueError(f'max_to_keep is {max_to_keep}; at least 1 is needed')
    self._directory = pathlib.Path(directory).absolute()
    self._max_to_keep = max_to_keep

  def save(self, step: int, state: PyTree, meta: dict) -> None:
    """Writes the checkpoint of `step`, then removes the oldest ones.

    Args:
      step: its number, >= 0.
      state: a tree of jax arrays (typed keys too); no other leaves.
      meta: JSON values.

    Raises:
      UserError: that step already exists, the disk does not have twice the room
        that the last one took (for the first: its own), or it refuses.
    """
    path = self._directory / str(step)
    leaves = _savable(state).values()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    processes.from_first(
      'the room for a checkpoint', lambda: self._check_room(path, size)
    )
    _write(path, state, meta)
    processes.from_first('the end of old checkpoints', self._remove_old)

  def latest(self) -> int | None:
    """The newest step, intact or not; None where there is none."""
    return max(self._steps(), default=None)

  def restore_newest(
    self, like: PyTree, say: Callable[[str], None]
  ) -> tuple[PyTree, dict] | None:
    """(state, meta) of the newest step that is whole; None without any.

    One that is damaged is set aside: it gets another name, stays for the user
    to look at, and the step before it is tried.

    Args:
      like: the tree to fill: arrays, or ShapeDtypeStructs, whose shardings
        say where each leaf goes (the first device, where there is none).
      say: is told, in one line, of each that is set aside.

    Raises:
      UserError: there are steps and all are damaged, or one holds another tree.
    """
    step = processes.from_first(
      'the newest checkpoint', lambda: self._set_damaged_aside(like, say)
    )
    return None if step is None else _load(self._directory / str(step), like)

  def _steps(self) -> list[int]:
    names = [path.name for path in self._directory.glob('*/')]
    return sorted(int(name) for name in names if name.isdecimal())

  def _check_room(self, path: pathlib.Path, needed: int) -> None:
    """Refuses to begin what will not fit; the first needs what it is told."""
    if steps := self._steps():
      last = self._directory / str(steps[-1])
      needed = 2 * sum(p.stat().st_size for p in last.rglob('*'))
    existing = next(p for p in path.parents if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
      raise errors.UserError(
        f'no room for checkpoint {path}: it needs {needed / 1e6:.1f} MB free '
        f'and there are {free / 1e6:.1f}; free some, and the same command '
        'continues'
      )

  def _remove_old(self) -> None:
    for old in self._steps()[: -self._max_to_keep]:
      path = self._directory / str(old)
      # A step is whole or gone, whenever we are killed.
      going = path.with_name(path.name + PARTIAL)
      try:
        path.rename(going)
        shutil.rmtree(going)
      except OSError as e:
        raise errors.UserError(
          f'cannot remove the old checkpoint {path}: {e.strerror}; make '
          f'{self._directory} writable'
        ) from e

  def _set_damaged_aside(
    self, like: PyTree, say: Callable[[str], None]
  ) -> int | None:
    """The newest whole step, once those after it have another name."""
    steps, aside = self._steps(), []
    while steps:
      path = self._directory / str(steps[-1])
      try:
        _check(path, like)
        return steps[-1]
      except manifest.Damaged as e:
        steps.pop()
        aside.append(set_aside(path))
        onward = f'going on from step {steps[-1]}' if steps else 'none is left'
        say(f'{e.reason}; kept as {aside[-1].name}, {onward}')
    if aside:
      raise errors.UserError(
        f'no whole checkpoint is left in {self._directory}; the damaged '
        f'{"one is" if len(aside) == 1 else "ones are"} kept there. To begin '
        'again, use another --workdir'
      )
    return None


def set_aside(path: pathlib.Path) -> pathlib.Path:
  """Gives a damaged checkpoint a name that nothing reads; the new path."""
  taken = sorted(path.parent.glob(f'{path.name}{DAMAGED}*'))
  number = f'{len(taken) + 1}' if taken else ''
  target = path.with_name(f'{path.name}{DAMAGED}{number}')
  try:
    path.rename(target)
  except OSError as e:
    raise errors.UserError(
      f'checkpoint {path} is damaged and cannot be renamed: {e.strerror}; make '
      f'{path.parent} writable'
    ) from e
  return target


def _write(path: pathlib.Path, tree: PyTree, meta: dict) -> None:
  leaves = _savable(tree)
  partial = path.with_name(path.name + PARTIAL)

  def begin():
    if (path / MANIFEST_FILE).exists():
      raise errors.UserError(
        f'checkpoint {path} already exists; remove it to save it again'
      )
    # What a killed process left. A directory without a manifest is unfinished
    # whatever it holds, and orbax's own leftovers are inside the partial one.
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
    partial.mkdir(parents=True)

  def finish():
    _write_synced(partial / META_FILE, meta)
    content = manifest.make(partial, leaves)
    _write_synced(partial / MANIFEST_FILE, content)
    partial.rename(path)

  @contextlib.contextmanager
  def refusals():
    try:
      yield
    except OSError as e:
      if processes.is_first():
        shutil.rmtree(partial, ignore_errors=True)
      raise errors.UserError(
        f'cannot write checkpoint {path}: {e.strerror or e}; free some space, '
        'or use another --workdir'
      ) from e

  processes.from_first('the start of a checkpoint', refusals()(begin))
  with refusals():
    arrays.save(partial / _ARRAYS, leaves)
  processes.from_first('the end of a checkpoint', refusals()(finish))


def _load(path: pathlib.Path, like: PyTree) -> tuple[PyTree, dict]:
  """(tree, meta) of what was checked."""
  try:
    leaves = arrays.restore(path / _ARRAYS, _leaves_by_path(like))
    meta = json.loads((path / META_FILE).read_bytes())
  except OSError as e:
    raise errors.UserError(
      f'cannot read checkpoint {path}: {e.strerror or e}; look at the disk'
    ) from e
  return jax.tree.unflatten(jax.tree.structure(like), leaves.values()), meta


def _check(path: pathlib.Path, like: PyTree) -> None:
  """Refuses files that are not as they were written, and another tree."""
  leaves, files = manifest.read(path)
  manifest.check_files(path, files)
  manifest.check_same_tree(path, leaves, _leaves_by_path(like))


def _savable(tree: PyTree) -> dict[str, jax.Array]:
  """The leaves by path; a TypeError names one that would not come back."""
  leaves = _leaves_by_path(tree)
  for name, leaf in leaves.items():
    if not isinstance(leaf, jax.Array) or not leaf.size:
      raise TypeError(
        f'leaf {name} is {leaf!r}: only jax arrays with elements can be saved'
      )
  return leaves


def _leaves_by_path(tree: PyTree) -> dict[str, Any]:
  """{'params.layers.0.kernel': leaf}, in the tree's own order."""
  pairs = jax.tree_util.tree_leaves_with_path(tree)
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator='.') or 'root': leaf
    for path, leaf in pairs
  }
  if len(leaves) != len(pairs):
    raise ValueError('two leaves of the tree have the same dotted path')
  return leaves


def _write_synced(path: pathlib.Path, obj: Any) -> None:
  with path.open('w', encoding='utf-8') as f:
    json.dump(obj, f, indent=2)
    f.flush()
    os.fsync(f.fileno())
