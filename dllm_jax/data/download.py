"""Fetches public data files, each checked by its sha256.

  python -m dllm_jax.data.download --task gsm8k --data_dir ~/data

Nothing is fetched unless this is asked for. A file appears under its name when
it is whole and right, and not before.
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

TIMEOUT_SECONDS = 60.0  # of silence
TOTAL_SECONDS = 600.0  # of a file; a server may send a byte at a time
_CHUNK = 2**16


def fetch(file: catalog.DataFile, data_dir: str | pathlib.Path) -> pathlib.Path:
  """Downloads one file; a whole one that is there already is kept.

  Raises:
    errors.UserError: it has no address, cannot be fetched or written, or is not
      the file that is wanted.
  """
  path = pathlib.Path(data_dir) / file.path
  if path.is_file() and catalog.digest(path) == file.sha256:
    return path
  if not file.url:
    raise errors.UserError(
      f'{file.path} has no public address: put the file with sha256 '
      f'{file.sha256} at {path}'
    )
  scratch = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch.open('xb') as target:
      _copy(file, target)
    found = catalog.digest(scratch)
    if found != file.sha256:
      raise errors.UserError(
        f'what {file.url} holds now is another file: its sha256 is '
        f'{found[:12]}..., wanted is {file.sha256[:12]}...; {path} was not '
        'written'
      )
    os.replace(scratch, path)
  except urllib.error.URLError as error:
    if isinstance(error, urllib.error.HTTPError):
      error.close()
    raise errors.UserError(
      f'{file.url} cannot be fetched: {error.reason}; put the file at {path} '
      'by hand'
    ) from error
  except http.client.HTTPException as error:  # it is no OSError
    raise errors.UserError(
      f'{file.url} cannot be fetched: {type(error).__name__}, the server does '
      f'not speak HTTP as it should; put the file at {path} by hand'
    ) from error
  except OSError as error:  # the disk, or a connection that broke
    raise errors.UserError(
      f'{file.url} cannot be fetched to {path}: {error.strerror or error}'
    ) from error
  finally:
    with contextlib.suppress(OSError):
      scratch.unlink(missing_ok=True)
  return path


def _copy(file: catalog.DataFile, target) -> None:
  """Copies at most as many bytes as the file has, and one."""
  left = file.num_bytes
  deadline = time.monotonic() + TOTAL_SECONDS
  with urllib.request.urlopen(file.url, timeout=TIMEOUT_SECONDS) as source:
    # `read1` gives what is there; `read` would wait for all of it.
    read = getattr(source, 'read1', source.read)
    while chunk := read(min(_CHUNK, left + 1)):
      left -= len(chunk)
      if time.monotonic() > deadline:
        raise errors.UserError(
          f'{file.url} cannot be fetched: it is not here after '
          f'{TOTAL_SECONDS:g} seconds; try again'
        )
      if left < 0:
        raise errors.UserError(
          f'what {file.url} holds now is another file: it has more than the '
          f'{file.num_bytes} bytes of {file.path}'
        )
      target.write(chunk)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; files without an address are named, and are no failure."""
  names = sorted({path.partition('/')[0] for path in catalog.FILES})
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--task', choices=names, required=True)
  parser.add_argument('--data_dir', type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  for file in catalog.of_task(args.task):
    there = (args.data_dir / file.path).is_file()
    if not file.url and not there:
      print(f'{file.path}: no public address; put it there by hand')
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
