"""What stays fixed during a run: task, tokenizer, model, mesh and root key."""

import dataclasses
from collections.abc import Sequence

from jax.sharding import Mesh
from jaxtyping import Array, Key

from dllm_jax import errors, types
from dllm_jax.rollout import prompts
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import chat, pieces
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
    return [len(prompt.ids) for prompt in self._tokenized(rows)]

  def encode(self, rows: Sequence[task_lib.Row]) -> prompts.Prompts:
    """The prompts of the task's rows.

    Raises:
      errors.UserError: a prompt has more than `max_prompt_length` tokens
        (truncation would drop instructions), or text that the tokenizer cannot
        encode.
    """
    most = self.max_prompt_length
    try:
      encoded = self._tokenized(rows)
    except ValueError as e:
      raise errors.UserError(
        f'cannot encode a prompt of task {self.task.name!r}: {e}; raise the '
        'bounds in the config group task'
      ) from e
    for row, prompt in zip(rows, encoded, strict=True):
      if len(prompt.ids) > most:
        raise errors.UserError(
          f'prompt of row {row["id"]!r} has {len(prompt.ids)} tokens, more '
          f'than rollout.max_prompt_length={most}: increase it'
        )
    longest = max((len(prompt.ids) for prompt in encoded), default=0)
    return prompts.pad_left(
      [prompt.ids for prompt in encoded],
      prompts.width_for(longest, most),
      self.tokenizer.special.pad,
      content=[prompt.is_content for prompt in encoded],
    )

  def _tokenized(self, rows: Sequence[task_lib.Row]) -> list[pieces.Encoded]:
    return self.tokenizer.encode_pieces(
      [
        self.template.render(self.task.prompt(row), self.prefill)
        for row in rows
      ]
    )
