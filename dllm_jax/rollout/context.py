"""What stays fixed during a run: task, tokenizer, model, mesh and root key."""

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
  """Fixed parts of a run, shared by the methods and by evaluation.

  Attributes:
    task: writes prompts and verifies completions.
    tokenizer: encodes and decodes text.
    vocab: special ids.
    denoiser: the model; static under jit.
    mesh: device mesh.
    root: the run's root PRNG key (`ops.streams`).
    max_prompt_length: largest number of prompt tokens; longer prompts are
      errors.
    template: chat template around the user's message.
    prefill: text that every completion starts with; part of the prompt, and
      prepended to the completion for the verifier.
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
    """Number of tokens of each prompt, including template and prefill."""
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
