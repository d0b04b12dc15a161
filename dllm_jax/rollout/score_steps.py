"""Intermediate rewards: the reward of the text after each denoising step.

The text after step t is rebuilt from `commit_step`, without its masks, so that
tokens on both sides of a mask become adjacent. Dims: B rows, L completion
columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dllm_jax import types
from dllm_jax.rollout import context, score
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import tokenizer as tokenizer_lib


class StepRewards(NamedTuple):
  """Inputs of `rl.trajectory_credit.group_auc`, one entry per row.

  Attributes:
    total: sum over the row's steps of the reward of the text after each.
    final: reward of the finished text.
    num_texts: texts that differ from the previous one, over all rows.
    num_scored: verdicts computed; the other texts were repeated in a group.
  """

  total: Float[np.ndarray, ' B']
  final: Float[np.ndarray, ' B']
  num_texts: int
  num_scored: int


class Path(NamedTuple):
  """The scored texts of one row; the last one is the finished text.

  Attributes:
    steps: 1-based steps after which the text was scored; [0] without steps.
    texts: text after each of those steps, without the prefill.
    rewards: reward of each text.
  """

  steps: list[int]
  texts: list[str]
  rewards: list[float]


def score_steps(
  ctx: context.Context,
  samples: score.Samples,
  cfg: score.RewardConfig,
  *,
  max_scores: int = 0,
) -> StepRewards:
  """Sums the rewards of `paths` over the steps; same arguments.

  If not every step is scored, a reward counts for all steps since the previous
  scored one. The text of a row without steps is scored once.
  """
  scored, num_scored = paths(ctx, samples, cfg, max_scores=max_scores)
  total, final = np.zeros((2, len(scored)))
  num_texts = 0
  for i, path in enumerate(scored):
    last_text, last_step = None, 0
    for step, text, reward in zip(*path, strict=True):
      num_texts += text != last_text
      total[i] += (step - last_step) * reward
      last_text, last_step = text, step
    final[i] = path.rewards[-1]
  return StepRewards(
    total.astype(np.float32), final.astype(np.float32), num_texts, num_scored
  )


def paths(
  ctx: context.Context,
  samples: score.Samples,
  cfg: score.RewardConfig,
  *,
  max_scores: int = 0,
) -> tuple[list[Path], int]:
  """Scores the text after every step, each distinct text of a group once.

  Args:
    ctx: the run.
    samples: completions; rows of one group share verdicts of equal texts.
    cfg: weights of the reward terms.
    max_scores: largest number of scored steps per row, evenly spaced and
      including the last; 0 scores every step.

  Returns:
    (path of each row, number of verdicts computed).
  """
  trajectory, groups = samples.trajectory, samples.group_id.tolist()
  steps = [_scored_steps(int(n), max_scores) for n in trajectory.num_steps]
  written = _texts(ctx.tokenizer, trajectory, steps, past_eos=cfg.past_eos)
  row_of = [i for i, of_row in enumerate(steps) for _ in of_row]
  row_by_key: dict[tuple[int, str], task_lib.Row] = {}
  for i, text in zip(row_of, written, strict=True):
    row_by_key.setdefault((groups[i], text), samples.rows[i])
  verdicts = task_lib.score_all(
    ctx.task,
    list(row_by_key.values()),
    [ctx.prefill + text for _, text in row_by_key],
  )
  reward_by_key = {
    key: score.weigh(verdict, cfg)
    for key, verdict in zip(row_by_key, verdicts, strict=True)
  }
  remaining = iter(written)
  scored = []
  for group, of_row in zip(groups, steps, strict=True):
    texts = [next(remaining) for _ in of_row]
    rewards = [reward_by_key[group, text] for text in texts]
    scored.append(Path(of_row, texts, rewards))
  return scored, len(reward_by_key)


def _scored_steps(num_steps: int, max_scores: int) -> list[int]:
  """1-based steps after which the text is scored, up to `num_steps`."""
  count = min(num_steps, max_scores) if max_scores else num_steps
  return [-(-(j * num_steps) // count) for j in range(1, count + 1)] or [0]


def _texts(
  tokenizer: tokenizer_lib.Tokenizer,
  trajectory: types.Trajectory,
  steps: Sequence[Sequence[int]],
  *,
  past_eos: bool,
) -> list[str]:
  """The texts of every row after each of its steps, flattened.

  A row's last text is the finished one, including tokens that no step committed
  (EOS after an early exit).
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
