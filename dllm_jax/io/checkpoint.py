"""Checkpoints on disk: all or nothing, and checked when they are read.

The one file that imports orbax. A checkpoint is a directory:

  arrays/          the leaves, written by orbax under their paths in the tree
  meta.json        whatever else the caller wants to find again
  manifest.json    written last: each leaf's shape and dtype, and the SHA-256
                   of every other file

It is put together beside its place and moved there by one rename, so a killed
process leaves a whole checkpoint or none. Orbax restores flipped bits without
a word, hence the digests. Saving is synchronous: when `save` returns, the
checkpoint is there. With several processes all of them call, on one shared
file system, and the first writes all but the arrays.
"""

import hashlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from dllm_jax import errors, processes

PyTree = Any
MANIFEST_FILE = 'manifest.json'
META_FILE = 'meta.json'
_ARRAYS = 'arrays'
_PARTIAL = '.partial'
_BATCH_BYTES = 2**26
# What to do about kept parameters: never 'remove', the path may be anything.
OTHER_PARAMS = 'name other parameters, or train them again in a new workdir'


class Checkpoints:
  """The numbered checkpoints of a run, the newest `max_to_keep` of them."""

  def __init__(self, directory: str | os.PathLike, *, max_to_keep: int):
    if max_to_keep < 1:
      raise ValueError(f'max_to_keep is {max_to_keep}; at least 1 is needed')
    self._directory = pathlib.Path(directory).absolute()
    self._max_to_keep = max_to_keep

  def save(self, step: int, state: PyTree, meta: dict) -> None:
    """Writes the checkpoint of `step`, then removes those grown too old.

    Args:
      step: its number, >= 0.
      state: a tree of jax arrays (typed keys too); no other leaves.
      meta: JSON values.

    Raises:
      UserError: where that step is there already, or the disk refuses.
    """
    _write(self._directory / str(step), state, meta)
    if processes.is_first():
      for old in self._finished()[: -self._max_to_keep]:
        # Without its manifest it counts as unfinished, whenever we are killed.
        (self._directory / str(old) / MANIFEST_FILE).unlink()
        shutil.rmtree(self._directory / str(old))

  def latest(self) -> int | None:
    """The newest finished step; None where there is none."""
    return max(self._finished(), default=None)

  def restore(self, step: int, like: PyTree) -> tuple[PyTree, dict]:
    """(state, meta) of `step`, bit for bit.

    Args:
      step: one that was saved.
      like: the tree to fill: arrays, or ShapeDtypeStructs, whose shardings
        say where each leaf goes (the first device, where there is none).

    Raises:
      UserError: where the step is missing, is damaged, or holds another tree.
    """
    older = [s for s in self._finished() if s < step]
    hint = f', to go on from step {older[-1]}' if older else ''
    path = self._directory / str(step)
    return _read(path, like, f'remove {path}{hint}')

  def wait(self) -> None:
    """Returns when everything saved is on disk: at once, saves being so."""

  def close(self) -> None:
    """Ends the use of this object; nothing is held open."""

  def _finished(self) -> list[int]:
    manifests = self._directory.glob(f'*/{MANIFEST_FILE}')
    names = [m.parent.name for m in manifests]
    return sorted(int(name) for name in names if name.isdecimal())


def save_params(
  directory: str | os.PathLike, params: PyTree, meta: dict
) -> None:
  """Writes one tree as a checkpoint of its own; see `Checkpoints.save`."""
  _write(pathlib.Path(directory).absolute(), params, meta)


def load_params(
  directory: str | os.PathLike, like: PyTree
) -> tuple[PyTree, dict]:
  """(params, meta) from `save_params`; see `Checkpoints.restore`."""
  path = pathlib.Path(directory).absolute()
  return _read(path, like, OTHER_PARAMS)


def read_meta(directory: str | os.PathLike) -> dict:
  """What `save_params` was given beside the tree; no array is read.

  Raises:
    UserError: it is missing, or is not as it was written.
  """
  path = pathlib.Path(directory).absolute()
  _, files = _manifest(path, OTHER_PARAMS)
  _check_digest(path, META_FILE, files.get(META_FILE), OTHER_PARAMS)
  return json.loads((path / META_FILE).read_bytes())


def check_params(directory: str | os.PathLike, like: PyTree) -> None:
  """Raises the UserError that `load_params` would, and reads no array."""
  _check(pathlib.Path(directory).absolute(), like, OTHER_PARAMS)


def _write(path: pathlib.Path, tree: PyTree, meta: dict) -> None:
  leaves = _leaves_by_path(tree)
  for name, leaf in leaves.items():
    if not isinstance(leaf, jax.Array) or not leaf.size:
      raise TypeError(
        f'leaf {name} is {leaf!r}: only jax arrays with elements can be saved'
      )
  if (path / MANIFEST_FILE).exists():
    raise errors.UserError(
      f'checkpoint {path} is there already; remove it to save it again'
    )
  partial = path.with_name(path.name + _PARTIAL)
  first = processes.is_first()
  try:
    if first:
      # What a killed process left. A directory without a manifest is unfinished
      # whatever it holds, and orbax's own leavings lie inside the partial one.
      shutil.rmtree(partial, ignore_errors=True)
      shutil.rmtree(path, ignore_errors=True)
      partial.mkdir(parents=True)
    processes.barrier(f'the start of checkpoint {path}')
    _save_arrays(partial / _ARRAYS, leaves)
    if first:
      _write_synced(partial / META_FILE, meta)
      manifest = {
        'leaves': {k: [v.shape, str(v.dtype)] for k, v in leaves.items()},
        'files': _digests(partial),
      }
      _write_synced(partial / MANIFEST_FILE, manifest)
      partial.rename(path)
    processes.barrier(f'the end of checkpoint {path}')
  except OSError as e:
    if first:
      shutil.rmtree(partial, ignore_errors=True)
    raise errors.UserError(
      f'cannot write checkpoint {path}: {e.strerror or e}; free some space, or '
      'use another --workdir'
    ) from e


def _read(path: pathlib.Path, like: PyTree, remedy: str) -> tuple[PyTree, dict]:
  wanted = _check(path, like, remedy)
  arrays = _restore_arrays(path / _ARRAYS, wanted)
  tree = jax.tree.unflatten(jax.tree.structure(like), arrays.values())
  return tree, json.loads((path / META_FILE).read_bytes())


def _check(path: pathlib.Path, like: PyTree, remedy: str) -> dict[str, Any]:
  """The leaves of `like` by path, once all files are as they were written."""
  saved, files = _manifest(path, remedy)
  for name, digest in files.items():
    _check_digest(path, name, digest, remedy)
  wanted = _leaves_by_path(like)
  _check_same_tree(path, saved, wanted)
  return wanted


def _manifest(
  path: pathlib.Path, remedy: str
) -> tuple[dict[str, tuple], dict[str, str]]:
  """(shape and dtype by leaf, digest by file)."""
  try:
    manifest = json.loads((path / MANIFEST_FILE).read_bytes())
    leaves, files = manifest['leaves'], manifest['files']
    saved = {k: (tuple(shape), dtype) for k, (shape, dtype) in leaves.items()}
    return saved, dict(files.items())
  except FileNotFoundError:
    raise errors.UserError(
      f'no finished checkpoint in {path} ({MANIFEST_FILE} is missing); {remedy}'
      if path.exists()
      else f'no checkpoint {path}; check the path'
    ) from None
  except (ValueError, KeyError, TypeError, AttributeError):
    raise errors.UserError(
      f'checkpoint {path} is damaged: {MANIFEST_FILE} cannot be read; {remedy}'
    ) from None


def _check_digest(
  path: pathlib.Path, name: str, digest: str | None, remedy: str
) -> None:
  found = _digest(path / name) if (path / name).is_file() else None
  if found is None or found != digest:
    how = 'is missing' if found is None else 'is not as it was written'
    raise errors.UserError(
      f'checkpoint {path} is damaged: {name} {how}; {remedy}'
    )


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


def _check_same_tree(
  path: pathlib.Path, saved: dict[str, tuple], wanted: dict[str, Any]
) -> None:
  remedy = 'restore it with the config that wrote it'
  for name in dict.fromkeys([*wanted, *saved]):
    if name not in saved or name not in wanted:
      where = 'the checkpoint' if name in saved else 'the program'
      raise errors.UserError(
        f'checkpoint {path} holds another model: {name} is in {where} alone; '
        f'{remedy}'
      )
    want = (tuple(wanted[name].shape), str(wanted[name].dtype))
    if saved[name] != want:
      raise errors.UserError(
        f'checkpoint {path} holds another model: {name} is '
        f'{_typed(saved[name])} there and {_typed(want)} here; {remedy}'
      )


def _typed(spec: tuple) -> str:
  shape, dtype = spec
  return f'{dtype}[{",".join(map(str, shape))}]'


def _save_arrays(path: pathlib.Path, leaves: dict[str, jax.Array]) -> None:
  """Writes the leaves; a disk that refuses is an OSError."""
  # Orbax's threads log such an error with its traceback before raising it.
  log = logging.getLogger('absl')
  level = log.level
  log.setLevel(logging.CRITICAL)
  # Weights do not compress, and what is compressed is in memory twice.
  handler = ocp.PyTreeCheckpointHandler(use_compression=False)
  try:
    with ocp.Checkpointer(handler) as checkpointer:
      checkpointer.save(path, args=ocp.args.PyTreeSave(leaves))
  except ValueError as e:
    code = re.search(r"os_error_code='(\d+)'", str(e))
    if not code:
      raise
    raise OSError(int(code[1]), os.strerror(int(code[1]))) from e
  finally:
    log.setLevel(level)


def _restore_arrays(
  path: pathlib.Path, wanted: dict[str, Any]
) -> dict[str, jax.Array]:
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
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as c:
    for batch in _batches(abstract):
      args = ocp.args.PyTreeRestore(
        batch,
        restore_args=ocp.checkpoint_utils.construct_restore_args(batch),
        partial_restore=True,
      )
      restored |= c.restore(path, args=args)
  return {name: restored[name] for name in wanted}


def _batches(
  leaves: dict[str, jax.ShapeDtypeStruct],
) -> Iterator[dict[str, jax.ShapeDtypeStruct]]:
  """Leaves to be read together: what is in flight is in memory twice."""
  batch, room = {}, _BATCH_BYTES
  for name, leaf in leaves.items():
    size = math.prod(leaf.shape) * leaf.dtype.itemsize
    if batch and size > room:
      yield batch
      batch, room = {}, _BATCH_BYTES
    batch[name] = leaf
    room -= size
  yield batch


def _digests(directory: pathlib.Path) -> dict[str, str]:
  files = sorted(p for p in directory.rglob('*') if p.is_file())
  return {str(p.relative_to(directory)): _digest(p) for p in files}


def _digest(path: pathlib.Path) -> str:
  with path.open('rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def _write_synced(path: pathlib.Path, obj: Any) -> None:
  with path.open('w', encoding='utf-8') as f:
    json.dump(obj, f, indent=2)
    f.flush()
    os.fsync(f.fileno())
