"""What is kept between runs: data sets, downloads, compiled programs."""

import os
import pathlib


def cache_dir() -> pathlib.Path:
  """$DLLM_JAX_CACHE, or ~/.cache/dllm_jax."""
  root = os.environ.get('DLLM_JAX_CACHE') or '~/.cache/dllm_jax'
  return pathlib.Path(root).expanduser()


def keep_compiled() -> None:
  """Turns on JAX's persistent compilation cache, for every program.

  It is in `cache_dir()`, unless JAX was given another place.
  """
  import jax  # Late, so that `cache_dir` costs nothing.

  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(cache_dir() / 'xla'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
