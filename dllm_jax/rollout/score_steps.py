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


class Path(NamedTuple):
  """One row on its way; equal lengths, the last entry is the finished text.

  Attributes:
    steps: 1-based steps after which the text was scored; [0] without steps.
    texts: the text after each, without the prefill.
    rewards: of those texts.
  """

  steps: list[int]
  texts: list[str]
  rewards: list[float]


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
  """Sums over the steps of the rewards of `paths`.

  A reward stands for the steps since the one scored before it.

  Returns:
    Sums and last rewards. A row without steps has its text scored once.
  """
  found, num_scored = paths(
    task,
    tokenizer,
    rows,
    trajectory,
    prompt_id,
    cfg,
    max_scores=max_scores,
    prefill=prefill,
  )
  total, final = np.zeros((2, len(rows)))
  num_texts = 0
  for i, path in enumerate(found):
    last, began = None, 0
    for step, text, reward in zip(*path, strict=True):
      num_texts += text != last
      total[i] += (step - began) * reward
      last, began = text, step
    final[i] = path.rewards[-1]
  return StepRewards(
    total.astype(np.float32), final.astype(np.float32), num_texts, num_scored
  )


def paths(
  task: task_lib.Task,
  tokenizer: tokenizer_lib.Tokenizer,
  rows: Sequence[task_lib.Row],
  trajectory: types.Trajectory,
  prompt_id: np.ndarray,
  cfg: score.RewardConfig,
  *,
  max_scores: int = 0,
  prefill: str = '',
) -> tuple[list[Path], int]:
  """Scores the text after every step, each text of a prompt once.

  Args:
    task: the verifier.
    tokenizer: of the ids.
    rows: the task's row of each completion.
    trajectory: of numpy arrays.
    prompt_id: group of each row: rows of one share verdicts of equal texts.
    cfg: the reward.
    max_scores: steps of a row that are scored, evenly spaced and with the
      last; 0 scores every step.
    prefill: as in `score.score`.

  Returns:
    The rows' paths, and how many verdicts were computed.
  """
  steps = [_scored_steps(int(n), max_scores) for n in trajectory.num_steps]
  written = _texts(tokenizer, trajectory, steps, past_eos=cfg.past_eos)
  row_of = [i for i, of_row in enumerate(steps) for _ in of_row]
  row_by_key: dict[tuple[int, str], task_lib.Row] = {}
  for i, text in zip(row_of, written, strict=True):
    row_by_key.setdefault((int(prompt_id[i]), text), rows[i])
  verdicts = task_lib.score_all(
    task,
    list(row_by_key.values()),
    [prefill + text for _, text in row_by_key],
  )
  cache = {
    key: score.weigh(verdict, cfg)
    for key, verdict in zip(row_by_key, verdicts, strict=True)
  }
  remaining = iter(written)
  found = []
  for i, of_row in enumerate(steps):
    texts = [next(remaining) for _ in of_row]
    rewards = [cache[int(prompt_id[i]), text] for text in texts]
    found.append(Path(of_row, texts, rewards))
  return found, len(cache)


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
