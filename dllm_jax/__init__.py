"""RL post-training and fast decoding for diffusion language models."""

from typing import Any

__all__ = ['Model']


def __getattr__(name: str) -> Any:
  """`dllm_jax.Model`, imported when it is first asked for."""
  if name != 'Model':
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from dllm_jax import model

  return model.Model
