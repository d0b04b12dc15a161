"""What a run holds fixed: task, text, model, mesh, and the root key."""

import dataclasses
from collections.abc import Sequence

from jax.sharding import Mesh
from jaxtyping import Array, Key

from dllm_jax import types
from dllm_jax.rollout import prompts
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import chat
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
    max_prompt_length: the largest P; longer prompts are refused.
    template: what stands around a user's message.
    prefill: how every completion begins; it is a part of the prompt, and
      verifiers read it before the completion.
  """

  task: task_lib.Task
  tokenizer: tokenizer_lib.Tokenizer
  vocab: types.Vocabulary
  denoiser: types.Denoiser
  mesh: Mesh
  root: Key[Array, '']
  max_prompt_length: int
  template: chat.ChatTemplate = chat.PLAIN
  prefill: str = ''

  def prompt_lengths(self, rows: Sequence[task_lib.Row]) -> list[int]:
    """Tokens of every row's prompt, template and prefill included."""
    pieces = [
      self.template.render(self.task.prompt(row), self.prefill) for row in rows
    ]
    return [len(p.ids) for p in self.tokenizer.encode_pieces(pieces)]

  def encode(self, rows: Sequence[task_lib.Row]) -> prompts.Prompts:
    """The prompts of the task's rows; see `prompts.encode`."""
    return prompts.encode(
      self.task,
      self.tokenizer,
      rows,
      self.max_prompt_length,
      template=self.template,
      prefill=self.prefill,
    )
