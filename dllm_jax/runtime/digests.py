"""Digests of files: what is read is checked against what was written.

SHA-256 says which data and weights these are, to anybody. XXH3 sees damage as
well, at eight times the speed, and is for what is written every few minutes;
it is no help against malice.
"""

import hashlib
import pathlib
from collections.abc import Sequence
from concurrent import futures

import xxhash

SHA256, XXH3 = 'sha256', 'xxh3_128'
KINDS = {SHA256: hashlib.sha256, XXH3: xxhash.xxh3_128}
_THREADS = 16


def of_file(path: pathlib.Path, kind: str = SHA256) -> str:
  """The digest of a file's bytes, in hexadecimal; OSError where it fails."""
  with path.open('rb') as f:
    return hashlib.file_digest(f, KINDS[kind]).hexdigest()


def of_files(
  paths: Sequence[pathlib.Path], kind: str = SHA256
) -> list[str | OSError]:
  """The digests of several files, or why one cannot be read, in their order.

  Several at a time: hashing leaves the interpreter to other threads.
  """

  def one(path):
    try:
      return of_file(path, kind)
    except OSError as e:
      return e

  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(one, paths))


def of_folder(directory: pathlib.Path, kind: str = SHA256) -> dict[str, str]:
  """Digests of the files below a folder, by their paths in it."""
  files = sorted(p for p in directory.rglob('*') if p.is_file())
  found = of_files(files, kind)
  for digest in found:
    if isinstance(digest, OSError):
      raise digest
  names = [str(path.relative_to(directory)) for path in files]
  return dict(zip(names, found, strict=True))


def of_text(text: str) -> str:
  """The SHA-256 of a text's UTF-8 bytes."""
  return hashlib.sha256(text.encode()).hexdigest()
