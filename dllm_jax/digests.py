"""SHA-256 of files: what is read is checked against what was written."""

import hashlib
import pathlib


def of_file(path: pathlib.Path) -> str:
  """The digest of a file's bytes, in hexadecimal; OSError where it fails."""
  with path.open('rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def of_folder(directory: pathlib.Path, pattern: str = '*') -> dict[str, str]:
  """Digests of the files below a folder that match, by their paths in it."""
  files = sorted(p for p in directory.rglob(pattern) if p.is_file())
  return {str(p.relative_to(directory)): of_file(p) for p in files}


def of_text(text: str) -> str:
  """The digest of a text's UTF-8 bytes."""
  return hashlib.sha256(text.encode()).hexdigest()
