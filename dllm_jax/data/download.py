"""Downloads the public data files of a task and checks their checksums.

  python -m dllm_jax.data.download --task gsm8k --data_dir ~/data

Nothing else downloads data. A file gets its name only once it is complete and
its checksum is right.
"""

import argparse
import contextlib
import http.client
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence

from dllm_jax import errors
from dllm_jax.data import catalog

TIMEOUT_SECONDS = 60.0  # without any data
TOTAL_SECONDS = 600.0  # per file: a server may send one byte at a time
_CHUNK = 2**16  # bytes


def fetch(file: catalog.DataFile, data_dir: str | pathlib.Path) -> pathlib.Path:
  """Downloads one file, unless it already exists with the right checksum.

  Args:
    file: which file.
    data_dir: the data directory.

  Returns:
    The path of the file.

  Raises:
    errors.UserError: the file has no address, cannot be downloaded or written,
      or the download has another checksum.
  """
  path = pathlib.Path(data_dir) / file.path
  if path.is_file() and catalog.digest(path) == file.sha256:
    return path
  if not file.url:
    raise errors.UserError(
      f'{file.path} has no public address: copy the file with sha256 '
      f'{file.sha256} to {path} yourself'
    )
  partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open('xb') as target:
      _copy(file, target)
    sha256 = catalog.digest(partial)
    if sha256 != file.sha256:
      raise errors.UserError(
        f'{file.url} is no longer the expected file: expected sha256 '
        f'{file.sha256[:12]}..., got {sha256[:12]}...; {path} was not written'
      )
    os.replace(partial, path)
  except (OSError, http.client.HTTPException) as error:  # URLError too
    if isinstance(error, urllib.error.HTTPError):
      error.close()
    raise errors.UserError(
      f'cannot download {file.url} to {path}: {error!r:.100}; copy the file '
      'there yourself'
    ) from error
  finally:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
  return path


def _copy(file: catalog.DataFile, target) -> None:
  """Copies a download to `target`; stops if it is too large or too slow."""
  left = file.num_bytes
  deadline = time.monotonic() + TOTAL_SECONDS
  with urllib.request.urlopen(file.url, timeout=TIMEOUT_SECONDS) as source:
    # `read1` returns what has arrived; `read` waits for a whole chunk.
    read = getattr(source, 'read1', source.read)
    while chunk := read(min(_CHUNK, left + 1)):
      left -= len(chunk)
      if time.monotonic() > deadline:
        raise errors.UserError(
          f'cannot download {file.url}: timed out after {TOTAL_SECONDS:g} '
          'seconds; try again'
        )
      if left < 0:
        raise errors.UserError(
          f'{file.url} is no longer the expected file: it has more than '
          f'{file.num_bytes} bytes'
        )
      target.write(chunk)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code.

  Files without an address are listed; they are not a failure.
  """
  folders = sorted({path.partition('/')[0] for path in catalog.FILES})
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--task', choices=folders, required=True)
  parser.add_argument('--data_dir', type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  for file in catalog.FILES.values():
    if not file.path.startswith(f'{args.task}/'):
      continue
    if not file.url and not (args.data_dir / file.path).is_file():
      print(f'{file.path}: no public address; copy it there yourself')
      continue
    try:
      path = fetch(file, args.data_dir)
    except errors.UserError as error:
      print(f'download: {error}', file=sys.stderr)
      return 1
    print(f'{path}: {file.num_rows} rows, {file.licence}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
