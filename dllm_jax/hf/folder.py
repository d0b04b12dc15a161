"""Folders of other people's files, read with suspicion, and new ones of ours.

Nothing here follows a name out of its folder, builds a path from anything but
a plain file name, or reads a file whose size has no bound.
"""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

from dllm_jax import errors
from dllm_jax.text import json_file

_PLAIN_NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9._-]{0,199}')


def member(folder: pathlib.Path, name: str) -> pathlib.Path:
  """The regular file `name` of `folder`, links resolved.

  A link may lead to another file of the folder or to the blobs of a hub's
  cache; see `json_file.leads_out`.

  Raises:
    UserError: no plain name, no such file, or a link that leads elsewhere.
  """
  if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
    raise errors.UserError(
      f'{folder} names a file {short(name)}, which is not a plain file name '
      'of that folder; refused'
    )
  root = folder.resolve()
  try:
    path = (root / name).resolve(strict=True)
  except (OSError, RuntimeError):
    raise errors.UserError(
      f'{folder / name} is missing; is the folder complete?'
    ) from None
  if json_file.leads_out(root / name):
    raise errors.UserError(
      f'{folder / name} is a link out of its folder; put the file itself there'
    )
  if not path.is_file():
    raise errors.UserError(f'{folder / name} is not a regular file')
  return path


def has(folder: pathlib.Path, name: str) -> bool:
  """Whether the folder has an entry of that name, of whatever kind."""
  return os.path.lexists(folder / name)


def read_json(folder: pathlib.Path, name: str) -> dict[str, Any]:
  """The JSON object in one file of the folder.

  Raises:
    UserError: as `member` and `json_file.read_object`.
  """
  member(folder, name)
  return json_file.read_object(folder / name)


def short(what: Any, room: int = 120) -> str:
  """For a message: quoted where it is text, cut, without control characters."""
  text = str(what) if isinstance(what, Exception) else repr(what)
  text = ''.join(c if c.isprintable() else '?' for c in text)
  return text if len(text) <= room else f'{text[:room]}...'


def check_new(target: pathlib.Path) -> None:
  """Refuses a path at which there is something.

  Raises:
    UserError: there is.
  """
  if os.path.lexists(target):
    raise errors.UserError(f'{target} already exists; name a new folder')


@contextlib.contextmanager
def new(target: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder to fill, which becomes `target` when the block ends well.

  It is filled beside its place and moved there by one rename; a block that
  raises leaves nothing.

  Raises:
    UserError: the target exists, or the disk refuses.
  """
  check_new(target)
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not of tempfile, whose folders are private: this one is to stay.
    work = target.parent / f'.{target.name}.{secrets.token_hex(4)}'
    work.mkdir()
  except OSError as e:
    raise errors.UserError(
      f'cannot write to {target.parent}: {e.strerror}; name another folder'
    ) from e
  try:
    yield work
    for path in work.iterdir():
      with path.open('rb') as f:
        os.fsync(f.fileno())
    work.rename(target)
  except OSError as e:
    file = e.filename
    if file and not pathlib.Path(os.fsdecode(file)).is_relative_to(work):
      raise errors.UserError(f'cannot read {file}: {e.strerror}') from e
    raise errors.UserError(
      f'cannot write {target}: {e.strerror or e}; free some space, or name '
      'another folder'
    ) from e
  finally:
    shutil.rmtree(work, ignore_errors=True)


def check_space(target: pathlib.Path, num_bytes: int) -> None:
  """Refuses to begin what will not fit on the disk.

  Raises:
    UserError: says how much is needed and how much is free.
  """
  existing = next(p for p in target.absolute().parents if p.exists())
  free = shutil.disk_usage(existing).free
  if free < num_bytes:
    raise errors.UserError(
      f'{target} needs {num_bytes / 1e9:.1f} GB and {free / 1e9:.1f} GB are '
      'free there; free some space, or name another folder'
    )


def copy(source: pathlib.Path, name: str, target: pathlib.Path) -> None:
  """Copies one small file from folder to folder; see `member`."""
  path = member(source, name)
  if path.stat().st_size > json_file.MAX_BYTES:  # or it could not be read there
    raise errors.UserError(
      f'{source / name} is larger than {json_file.MAX_BYTES} bytes; refused'
    )
  shutil.copyfile(path, target / name)
