"""One of two processes that save a model which lies in parts on both.

save_child.py RANK PORT SOURCE TARGET
"""

import pathlib
import sys

import jax

from dllm_jax import errors
from dllm_jax.hf import load, save
from dllm_jax.runtime import sharding


def main() -> None:
  rank, port, source, target = sys.argv[1:]
  jax.distributed.initialize(f'localhost:{port}', 2, int(rank))
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2))
  folder = load.read(pathlib.Path(source))
  denoiser, params = load.load(folder, mesh)
  assert not params['embed_tokens'].is_fully_addressable
  record = folder.record._replace(denoiser=denoiser)
  target = pathlib.Path(target)
  save.MAX_SHARD_BYTES = 50_000
  save.save(target, params, record)
  try:
    save.save(target, params, record)  # both are told what process 0 met
  except errors.UserError as e:
    print(e)


if __name__ == '__main__':
  main()
