"""Loads directories, each in a fork of its own; what it cost, a line each.

Run by test_malformed.py: the figures are those of the fork and of what it
started, by its kernel.
"""

import json
import os
import sys
import time
import traceback

from dllm_jax import errors
from dllm_jax.text import chat, tokenizer


def load(path: str) -> None:
  chat.from_directory(path)
  tokenizer.Tokenizer.from_directory(path)


def main() -> None:
  for path in sys.argv[1:]:
    read, write = os.pipe()
    began = time.monotonic()
    if not os.fork():
      os.close(read)
      try:
        load(path)
        said = ['loaded', '']
      except errors.UserError as e:
        said = ['refused', str(e)]
      except BaseException:
        said = ['crashed', traceback.format_exc()]
      os.write(write, json.dumps(said).encode()[:60_000])
      os._exit(0)
    os.close(write)
    with os.fdopen(read, 'rb') as pipe:
      kind, message = json.loads(pipe.read() or b'["died", ""]')
    _, _, usage = os.wait4(-1, 0)
    line = {
      'kind': kind,
      'message': message,
      'cpu': usage.ru_utime + usage.ru_stime,
      'wall': time.monotonic() - began,
      'bytes': usage.ru_maxrss * 1024,
    }
    print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
