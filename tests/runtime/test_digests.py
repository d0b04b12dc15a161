"""Digests of files, against their libraries by hand."""

import hashlib

import xxhash

from dllm_jax.runtime import digests


def test_files_and_folders(tmp_path):
  texts = {'a.bin': b'', 'sub/b.bin': b'abc', 'sub/c.txt': bytes(range(256))}
  for name, text in texts.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(text)
  want = {k: hashlib.sha256(v).hexdigest() for k, v in texts.items()}
  assert digests.of_folder(tmp_path) == want
  fast = digests.of_folder(tmp_path, kind=digests.XXH3)
  assert fast == {k: xxhash.xxh3_128(v).hexdigest() for k, v in texts.items()}
  assert digests.of_text('abc') == want['sub/b.bin']
  found = digests.of_files([tmp_path / 'a.bin', tmp_path / 'none'])
  assert found[0] == want['a.bin'] and isinstance(found[1], FileNotFoundError)
