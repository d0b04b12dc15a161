"""Rewards of the texts on the way: what a row would earn after each step.

The text after step t is rebuilt from `commit_step`: masks vanish, so that
tokens that are not adjacent yet become so. Dims: B rows, L completion columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dllm_jax import types
from dllm_jax.rollout import score
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import tokenizer as tokenizer_lib


class StepRewards(NamedTuple):
  """What `rl.trajectory_credit.group_auc` needs, one entry a row.

  Attributes:
    total: sum over the row's T steps of the reward of the text after each.
    final: reward of the finished text.
    num_texts: texts that differ from the one before them, of all rows.
    num_scored: verdicts that were computed; the others were in the cache.
  """

  total: Float[np.ndarray, ' B']
  final: Float[np.ndarray, ' B']
  num_texts: int
  num_scored: int


def score_steps(
  task: task_lib.Task,
  tokenizer: tokenizer_lib.Tokenizer,
  rows: Sequence[task_lib.Row],
  trajectory: types.Trajectory,
  prompt_id: np.ndarray,
  cfg: score.RewardConfig,
  *,
  max_scores: int = 0,
  prefill: str = '',
) -> StepRewards:
  """Scores the text after every step, each text of a prompt once.

  Args:
    task: the verifier.
    tokenizer: of the ids.
    rows: the task's row of each completion.
    trajectory: of numpy arrays.
    prompt_id: group of each row: rows of one share verdicts of equal texts.
    cfg: the reward.
    max_scores: steps of a row that are scored, evenly spaced and with the
      last; each stands for the steps since the one before. 0 scores every step.
    prefill: as in `score.score`.

  Returns:
    Sums and last rewards. A row without steps has its text scored once.
  """
  steps = [_scored_steps(int(n), max_scores) for n in trajectory.num_steps]
  written = _texts(tokenizer, trajectory, steps, past_eos=cfg.past_eos)
  texts = [prefill + text for text in written]
  row_of = [i for i, of_row in enumerate(steps) for _ in of_row]
  row_by_key: dict[tuple[int, str], task_lib.Row] = {}
  for i, text in zip(row_of, texts, strict=True):
    row_by_key.setdefault((int(prompt_id[i]), text), rows[i])
  verdicts = task_lib.score_all(
    task, list(row_by_key.values()), [text for _, text in row_by_key]
  )
  cache = {
    key: score.weigh(verdict, cfg)
    for key, verdict in zip(row_by_key, verdicts, strict=True)
  }
  remaining = iter(texts)
  total, final = np.zeros((2, len(rows)))
  num_texts = 0
  for i in range(len(rows)):
    last, reward, began = None, 0.0, 0
    for step in steps[i]:
      text = next(remaining)
      if text != last:
        num_texts += 1
        reward, last = cache[int(prompt_id[i]), text], text
      total[i] += (step - began) * reward
      began = step
    final[i] = reward
  return StepRewards(
    total.astype(np.float32), final.astype(np.float32), num_texts, len(cache)
  )


def _scored_steps(num_steps: int, max_scores: int) -> list[int]:
  """1-based steps after which the text is scored; the last is `num_steps`."""
  count = min(num_steps, max_scores) if max_scores else num_steps
  return [-(-(j * num_steps) // count) for j in range(1, count + 1)] or [0]


def _texts(
  tokenizer: tokenizer_lib.Tokenizer,
  trajectory: types.Trajectory,
  steps: Sequence[Sequence[int]],
  *,
  past_eos: bool,
) -> list[str]:
  """Text of every row after each of its steps, row by row.

  The last is the finished text, with what no step committed (EOS fill).
  """
  sequences = []
  for tokens, commit, of_row in zip(
    trajectory.tokens, trajectory.commit_step, steps, strict=True
  ):
    for canvas in (*(tokens[commit < t] for t in of_row[:-1]), tokens):
      if not past_eos:
        canvas = canvas[
          score.completion_mask(canvas[None], tokenizer.special.stop)[0]
        ]
      sequences.append(canvas.tolist())
  return tokenizer.decode_batch(sequences)
