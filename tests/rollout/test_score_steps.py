"""Intermediate rewards equal those of canvases that were kept."""

import dataclasses

import jax
import numpy as np
import pytest

from dllm_jax import types
from dllm_jax.rollout import score, score_steps
from dllm_jax.tasks import task
from tests import tiny


class Counting(tiny.Task):
  """Rewards digits, and remembers what it was asked."""

  def __init__(self):
    self.asked = []

  def score(self, row, completion):
    self.asked.append((row['id'], completion))
    digits = sum(c.isdigit() for c in completion)
    terms = {'digits': float(digits), 'odd': float(len(completion) % 2)}
    return task.Score(terms=terms, correct=False, metrics={})


REWARD = score.RewardConfig(weights=(('digits', 1.0), ('odd', 0.25)))
WORDS = tiny.words()
L = 8


def trajectories(seed=0, rows=6):
  """Random completions with EOS here and there; ragged numbers of steps."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, WORDS.eos_token, (rows, L)).astype(np.int32)
  tokens[::2, 6] = WORDS.eos_token
  num_steps = rng.integers(1, L + 1, rows).astype(np.int32)
  commit = np.stack(
    [
      rng.permutation(np.r_[np.arange(n), rng.integers(0, n, L - n)])
      for n in num_steps
    ]
  ).astype(np.int32)
  zeros = np.zeros(tokens.shape, np.float32)
  return types.Trajectory(tokens, zeros, commit, num_steps)


GROUP = np.array([0, 0, 0, 1, 1, 1])
ROWS = [{'id': f'p{i}'} for i in GROUP]
CTX = tiny.context_of(tiny.DENOISER)


def run(trajectory, asked=None, *, reward=REWARD, prefill='', **kwargs):
  asked = Counting() if asked is None else asked
  return score_steps.score_steps(
    dataclasses.replace(CTX, task=asked, prefill=prefill),
    score.Samples(ROWS, trajectory, GROUP),
    reward,
    **kwargs,
  )


def by_canvases(trajectory, past_eos=False):
  """The reward after every step, from canvases that are kept."""
  curves = []
  for tokens, commit, total in zip(
    trajectory.tokens,
    trajectory.commit_step,
    trajectory.num_steps,
    strict=True,
  ):
    canvas, curve = np.full(L, WORDS.mask_token), []
    for step in range(total):
      canvas[commit == step] = tokens[commit == step]
      seen = [t for t in canvas if t != WORDS.mask_token]
      if not past_eos and WORDS.eos_token in seen:
        seen = seen[: seen.index(WORDS.eos_token)]
      text = WORDS.decode_batch([[int(t) for t in seen]])[0]
      verdict = Counting().score({'id': ''}, text)
      curve.append(score.weigh(verdict, REWARD))
    curves.append(curve)
  return curves


@pytest.mark.parametrize('past_eos', [False, True])
@pytest.mark.parametrize('seed', range(4))
def test_score_steps_equals_scores_of_stored_canvases(seed, past_eos):
  trajectory = trajectories(seed)
  reward = dataclasses.replace(REWARD, past_eos=past_eos)
  got = run(trajectory, reward=reward)
  curves = by_canvases(trajectory, past_eos)
  np.testing.assert_allclose(got.total, [sum(c) for c in curves], rtol=1e-6)
  np.testing.assert_allclose(got.final, [c[-1] for c in curves], rtol=1e-6)


def test_final_reward_is_that_of_the_completion():
  trajectory = trajectories()
  ctx = dataclasses.replace(CTX, task=Counting())
  whole = score.score(ctx, ROWS, trajectory.tokens, REWARD)
  np.testing.assert_allclose(run(trajectory).final, whole.reward)


def test_each_text_of_a_group_is_judged_once():
  trajectory = trajectories()
  twice = jax.tree.map(lambda x: np.concatenate([x[:3]] * 2), trajectory)
  asked = Counting()
  got = run(twice, asked)
  assert len(asked.asked) == len(set(asked.asked)) == got.num_scored
  # The same texts under the other prompt are judged there too.
  assert got.num_scored == 2 * len({text for _, text in asked.asked})
  assert got.num_texts >= got.num_scored
  np.testing.assert_array_equal(got.total[:3], got.total[3:])


def test_subsampled_steps_count_for_the_steps_before():
  trajectory = trajectories(1)
  curves = by_canvases(trajectory)
  got = run(trajectory, max_scores=2)
  for i, curve in enumerate(curves):
    n = len(curve)
    half = -(-n // 2)
    want = half * curve[half - 1] + (n - half) * curve[-1]
    np.testing.assert_allclose(got.total[i], want, rtol=1e-6)
  np.testing.assert_array_equal(got.final, run(trajectory).final)
  assert got.num_scored < run(trajectory).num_scored
  np.testing.assert_array_equal(
    run(trajectory, max_scores=L).total, run(trajectory).total
  )


def test_rows_without_steps_are_scored_once():
  trajectory = trajectories()
  nothing = trajectory._replace(
    num_steps=np.zeros(6, np.int32), commit_step=np.zeros((6, L), np.int32)
  )
  got = run(nothing)
  assert not got.total.any()
  np.testing.assert_allclose(got.final, run(trajectory).final)


class Batched(Counting):
  """The same verdicts, given together."""

  calls = 0

  def score_batch(self, rows, completions):
    self.calls += 1
    return [
      self.score(row, text) for row, text in zip(rows, completions, strict=True)
    ]


def test_batch_scorer_is_called_once_with_distinct_texts():
  trajectory = trajectories(3)
  asked, one_by_one = Batched(), Counting()
  found, want = run(trajectory, asked), run(trajectory, one_by_one)
  assert asked.calls == 1
  assert asked.asked == one_by_one.asked
  assert len(set(asked.asked)) == len(asked.asked) == found.num_scored
  np.testing.assert_array_equal(found.total, want.total)
  np.testing.assert_array_equal(found.final, want.final)


def test_prefill_is_prepended_to_every_text():
  plain, filled = Counting(), Counting()
  run(trajectories(), plain)
  run(trajectories(), filled, prefill='add ')
  assert filled.asked == [(row, 'add ' + text) for row, text in plain.asked]
