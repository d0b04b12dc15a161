"""Where things are kept between runs."""

import pathlib

from dllm_jax.runtime import cache


def test_the_cache_is_where_the_environment_says(monkeypatch):
  monkeypatch.setenv('HOME', '/home/someone')
  monkeypatch.delenv('DLLM_JAX_CACHE', raising=False)
  default = pathlib.Path('/home/someone/.cache/dllm_jax')
  assert cache.cache_dir() == default
  monkeypatch.setenv('DLLM_JAX_CACHE', '')
  assert cache.cache_dir() == default
  monkeypatch.setenv('DLLM_JAX_CACHE', '~/other')
  assert cache.cache_dir() == pathlib.Path('/home/someone/other')
