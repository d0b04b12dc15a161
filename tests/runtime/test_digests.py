"""Digests of files, against their libraries by hand."""

import hashlib

import xxhash

from dllm_jax.runtime import digests


def test_files_and_folders(tmp_path):
  texts = {'a.bin': b'', 'sub/b.bin': b'abc', 'sub/c.txt': bytes(range(256))}
  for name, text in texts.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(text)
  fast = {k: xxhash.xxh3_128(v).hexdigest() for k, v in texts.items()}
  assert digests.of_folder(tmp_path) == fast
  sha256 = hashlib.sha256(b'abc').hexdigest()
  assert digests.of_file(tmp_path / 'sub/b.bin') == sha256
  assert digests.of_text('abc') == sha256
  read, missing = digests.of_files([tmp_path / 'a.bin', tmp_path / 'none'])
  assert read == fast['a.bin'] and isinstance(missing, FileNotFoundError)
