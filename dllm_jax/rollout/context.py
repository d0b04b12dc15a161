"""What a run holds fixed: task, text, model, mesh, and the root key."""

import dataclasses

from jax.sharding import Mesh
from jaxtyping import Array, Key

from dllm_jax import types
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import tokenizer as tokenizer_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
  """Shared by all methods and by evaluation; nothing here changes.

  Attributes:
    task: prompts and verifier.
    tokenizer: text to ids.
    vocab: special ids.
    denoiser: the model; static under jit.
    mesh: devices.
    root: the run's root key (`ops.streams`).
  """

  task: task_lib.Task
  tokenizer: tokenizer_lib.Tokenizer
  vocab: types.Vocabulary
  denoiser: types.Denoiser
  mesh: Mesh
  root: Key[Array, '']
