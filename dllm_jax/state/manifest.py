"""What a checkpoint says of itself: leaves, digests, and a digest of both.

Written last and checked first, so that no damage goes unseen. The digest of the
manifest is of its content, however its text is laid out.
"""

import json
import pathlib
from typing import Any

from dllm_jax import errors
from dllm_jax.runtime import digests

FILE = 'manifest.json'
_KIND = 'xxh3_128'  # of the files' digests
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class Damaged(errors.UserError):
  """A checkpoint is not as it was written.

  Attributes:
    reason: what is wrong, without what to do.
  """

  def __init__(self, path: pathlib.Path, how: str):
    self.reason = f'checkpoint {path} is damaged: {how}'
    super().__init__(f'{self.reason}; remove it to go on from an older one')


def make(directory: pathlib.Path, leaves: dict[str, Any]) -> dict[str, Any]:
  """The JSON of a manifest: arrays by path, and all files that are there."""
  saved = {k: [list(v.shape), str(v.dtype)] for k, v in leaves.items()}
  files = digests.of_folder(directory)
  return {
    'leaves': saved,
    'files': files,
    'digest': _KIND,
    'sha256': _seal(saved, files),
  }


def read(path: pathlib.Path) -> tuple[dict[str, tuple], dict[str, str]]:
  """The manifest of the checkpoint `path`.

  Returns:
    (shape, dtype) by path in the tree, and digests by path in the directory.

  Raises:
    Damaged: it is missing, or not as it was written.
    UserError: there is no checkpoint, or the disk does not give it.
  """
  try:
    manifest = json.loads((path / FILE).read_bytes())
    leaves, files = manifest.pop('leaves'), manifest.pop('files')
    if manifest != {'digest': _KIND, 'sha256': _seal(leaves, files)}:
      raise ValueError('it is not what its digest says')
    saved = {k: (tuple(shape), dtype) for k, (shape, dtype) in leaves.items()}
    return saved, files
  except FileNotFoundError:
    if not path.exists():
      raise errors.UserError(f'no checkpoint {path}; check the path') from None
    how = f'{FILE} is missing'
    raise Damaged(path, how) from None
  except OSError as e:
    raise _unreadable(path, FILE, e) from e
  except (ValueError, KeyError, TypeError, AttributeError):
    how = f'{FILE} is not as it was written'
    raise Damaged(path, how) from None


def _seal(leaves: dict[str, list], files: dict[str, str]) -> str:
  """The digest of a manifest's content, however its text is laid out."""
  return digests.of_text(json.dumps([leaves, files], sort_keys=True))


def check_files(path: pathlib.Path, files: dict[str, str]) -> None:
  """Raises `Damaged` where files are missing or have other digests.

  A file that is there and cannot be read (too many open files, a file server
  that is away) says nothing of its content, and is a plain UserError.

  Args:
    path: folder of the checkpoint.
    files: their digests, of its manifest.
  """
  found = digests.of_files([path / name for name in files])
  for name, digest in zip(files, found, strict=True):
    if isinstance(digest, _MISSING):
      raise Damaged(path, f'{name} is missing')
    if isinstance(digest, OSError):
      raise _unreadable(path, name, digest) from digest
    if digest != files[name]:
      raise Damaged(path, f'{name} is not as it was written')


def _unreadable(
  path: pathlib.Path, name: str, error: OSError
) -> errors.UserError:
  return errors.UserError(
    f'checkpoint {path} cannot be read: {name}: {error.strerror}; nothing was '
    'changed: check the disk, and rerun to resume'
  )


def check_same_tree(
  path: pathlib.Path, saved: dict[str, tuple], wanted: dict[str, Any]
) -> None:
  """Raises a UserError that names a leaf of another shape, dtype or name."""
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
