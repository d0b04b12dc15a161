"""Next-token views: the likelihood of a causal model, which is exact.

Dims: B rows, P prompt columns, L completion columns.
"""

import dataclasses

from jaxtyping import Array, Bool, Int, Key

from dllm_jax import types
from dllm_jax.rl import logprobs


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken:
  """The `logprobs.Estimator` of causal models, which has no error."""

  def __call__(
    self,
    key: Key[Array, ''],
    batch: types.RolloutBatch,
    vocab: types.Vocabulary,
  ) -> logprobs.Views:
    del key, vocab
    return teacher_forced(
      batch.prompt_ids, batch.prompt_mask, batch.tokens, batch.completion_mask
    )


def teacher_forced(
  prompt_ids: Int[Array, 'B P'],
  prompt_mask: Bool[Array, 'B P'],
  tokens: Int[Array, 'B L'],
  credit: Bool[Array, 'B L'],
) -> logprobs.Views:
  """The view in which a causal model reads each token from those before it.

  log p(o | q) = sum_k log p(o_k | q, o_<k)

  Args:
    prompt_ids: left-padded prompts.
    prompt_mask: True for the real tokens of the prompts.
    tokens: completions. What stands behind the last credited token is not read.
    credit: True for the tokens to score.

  Returns:
    Views with K = 1, Q = L and weight 1.
  """
  return logprobs.one_view(prompt_ids, prompt_mask, tokens, tokens, credit)
