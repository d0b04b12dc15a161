"""Digests of files, to check what is read against what was written.

SHA-256 identifies data and weights. XXH3 detects damage just as well at eight
times the speed, and is for what is written every few minutes; it does not
protect against malice.
"""

import hashlib
import pathlib
from collections.abc import Callable, Sequence
from concurrent import futures

import xxhash

_THREADS = 16


def of_file(path: pathlib.Path, kind: Callable = hashlib.sha256) -> str:
  """The digest of a file's bytes, in hexadecimal; raises OSError."""
  with path.open('rb') as f:
    return hashlib.file_digest(f, kind).hexdigest()


def of_files(paths: Sequence[pathlib.Path]) -> list[str | OSError]:
  """The XXH3 of each file, or the error if it cannot be read, in order.

  Several are read at a time: hashing releases the interpreter lock.
  """

  def one(path):
    try:
      return of_file(path, xxhash.xxh3_128)
    except OSError as e:
      return e

  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(one, paths))


def of_folder(directory: pathlib.Path) -> dict[str, str]:
  """The XXH3 of the files in a folder, by their relative paths."""
  files = sorted(p for p in directory.rglob('*') if p.is_file())
  file_digests = of_files(files)
  for digest in file_digests:
    if isinstance(digest, OSError):
      raise digest
  names = [str(path.relative_to(directory)) for path in files]
  return dict(zip(names, file_digests, strict=True))


def of_text(text: str) -> str:
  """The SHA-256 of a text's UTF-8 bytes."""
  return hashlib.sha256(text.encode()).hexdigest()
