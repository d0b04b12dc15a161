"""Putting kinds of rows together, and the metrics of a hand-made batch."""

import jax
import numpy as np
import pytest

from dllm_jax import types
from dllm_jax.rl import advantages
from dllm_jax.rollout import batch, prompts, score
from tests import tiny_run

ROWS = tiny_run.rows('5 + 3 - 1', '3 + 5 - 1')
REWARD = score.RewardConfig(weights=(('solution', 1.0),))
GUIDED = np.array([False, True, False, True])


def trajectory(*rows):
  """Rows that are told apart by their number."""
  n = np.array(rows)
  return types.Trajectory(
    tokens=n[:, None] * 10 + np.arange(3),
    logp=-n[:, None] * np.ones((1, 3), np.float32),
    commit_step=n[:, None] + np.zeros((1, 3), np.int32),
    num_steps=n,
  )


@pytest.mark.parametrize(
  'is_second', [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [0, 0, 0, 1, 1]]
)
def test_interleave(is_second):
  is_second = np.array(is_second, bool)
  numbers = np.arange(5)
  got = batch.interleave(
    trajectory(*numbers[~is_second]), trajectory(*numbers[is_second]), is_second
  )
  tiny_run.assert_same(got, trajectory(*numbers))


def written(tokenizer, text, length=14):
  """Ids of a completion, filled up with EOS."""
  ids = tokenizer.encode(text)
  return ids + [tokenizer.eos_token] * (length - len(ids))


@pytest.fixture(scope='module')
def ctx():
  return tiny_run.parts()[1]


def rollouts(ctx):
  """Two prompts of two rows: right, wrong, without an answer, right.

  The third row fills all of its 14 columns.
  """
  right = ctx.task.demonstration
  wrong = tiny_run.rows('5 - 3 - 1')[0]
  texts = [right(ROWS[0]), right(wrong), ' 1' * 14, right(ROWS[1])]
  tokens = np.array([written(ctx.tokenizer, t) for t in texts], np.int32)
  steps = np.tile(np.arange(14, dtype=np.int32) // 2, (4, 1))
  num_steps = np.array([7, 7, 7, 7], np.int32)
  steps[3, 10:] = num_steps[3] = 5  # as an early exit leaves it
  encoded = prompts.encode(ctx.task, ctx.tokenizer, ROWS, 6)
  return batch.Rollouts(
    prompts=encoded.take(np.repeat(np.arange(len(encoded.ids)), 2)),
    trajectory=types.Trajectory(
      tokens=tokens,
      logp=np.where(steps < num_steps[:, None], np.log(0.5), 0.0).astype(
        np.float32
      ),
      commit_step=steps,
      num_steps=num_steps,
    ),
    prompt_id=np.array([0, 0, 1, 1]),
    guided=GUIDED,
    row_id=np.arange(4, dtype=np.int32),
    num_rows=4,
  )


@pytest.fixture(scope='module')
def judged(ctx):
  made, metrics = batch.judge(
    ctx,
    ROWS,
    rollouts(ctx),
    reward=REWARD,
    advantage=advantages.AdvantageConfig(),
  )
  return jax.device_get(made), metrics


def test_a_batch_by_hand(judged, ctx):
  made, _ = judged
  given = rollouts(ctx)
  # Rewards 1, 0.1 (an answer, but wrong) and 0, 1.
  np.testing.assert_allclose(
    made.advantage[:, 0], [0.45, -0.45, -0.5, 0.5], atol=1e-6
  )
  np.testing.assert_array_equal(made.tokens, given.trajectory.tokens)
  np.testing.assert_array_equal(made.sampler_logp, given.trajectory.logp)
  np.testing.assert_array_equal(made.guided, GUIDED)
  # Eleven tokens and their EOS; all fourteen without one.
  np.testing.assert_array_equal(made.completion_mask.sum(1), [12, 12, 14, 12])
  np.testing.assert_array_equal(made.maskable, made.prompt_mask)


def test_templates_of_prompts_are_not_maskable(ctx):
  given = rollouts(ctx)
  maskable = given.prompts.mask.copy()
  maskable[:, -1] = False
  made, _ = batch.judge(
    ctx,
    ROWS,
    given._replace(prompts=given.prompts._replace(maskable=maskable)),
    reward=REWARD,
    advantage=advantages.AdvantageConfig(),
  )
  np.testing.assert_array_equal(made.maskable, maskable)
  np.testing.assert_array_equal(made.prompt_mask, given.prompts.mask)


def test_metrics_by_hand(judged):
  _, metrics = judged
  want = {
    'reward/mean': (1 + 0.1 + 0 + 1) / 4,
    'reward/correct': 0.5,
    'terms/solution': 2.1 / 4,
    'terms/valid': 0.75,
    'rollout/length': 12.5,
    'rollout/num_steps': 6.5,
    # Up to EOS; an early exit left the last two of the fourth row.
    'rollout/tokens_per_step': (12 / 7 + 12 / 7 + 14 / 7 + 10 / 5) / 4,
    'rollout/has_eos': 0.75,
    'rollout/leaked_gold': 0.0,
    'rollout/confidence': 0.5,
    'task/has_answer': 0.75,
    'free/mean': 0.5,
    'free/correct': 0.5,
    'free/length': 13.0,
    'free/leaked_gold': 0.0,
    'guided/mean': 0.55,
    'guided/correct': 0.5,
    'guided/length': 12.0,
    'guided/leaked_gold': 0.0,
    'group/zero_variance': 0.0,
    'reward/not_finite': 0.0,
  }
  for name, value in want.items():
    assert metrics[name] == pytest.approx(value, abs=1e-6), name
  assert all('/' in name for name in metrics)


def test_a_gold_answer_in_the_reasoning_is_a_leak(ctx):
  given = rollouts(ctx)
  text = '<reasoning>\n 5 + 3 - 1\n</reasoning>\n<answer>\n 7\n</answer>'
  tokens = given.trajectory.tokens.copy()
  tokens[1] = written(ctx.tokenizer, text)
  given = given._replace(trajectory=given.trajectory._replace(tokens=tokens))
  _, metrics = batch.judge(
    ctx,
    ROWS,
    given,
    reward=REWARD,
    advantage=advantages.AdvantageConfig(),
  )
  assert metrics['rollout/leaked_gold'] == 0.25
  assert (metrics['free/leaked_gold'], metrics['guided/leaked_gold']) == (
    0,
    0.5,
  )


def test_tied_groups_are_counted(ctx):
  given = rollouts(ctx)
  tokens = given.trajectory.tokens.copy()
  tokens[1] = tokens[0]
  given = given._replace(trajectory=given.trajectory._replace(tokens=tokens))
  made, metrics = batch.judge(
    ctx,
    ROWS,
    given,
    reward=REWARD,
    advantage=advantages.AdvantageConfig(),
  )
  assert metrics['group/zero_variance'] == 0.5
  assert not jax.device_get(made.advantage)[:2].any()


def test_rows_of_one_kind_have_no_metrics_of_kinds(ctx):
  given = rollouts(ctx)._replace(guided=np.zeros(4, bool))
  _, metrics = batch.judge(
    ctx, ROWS, given, reward=REWARD, advantage=advantages.AdvantageConfig()
  )
  assert not [x for x in metrics if x.split('/')[0] in ('free', 'guided')]
  given = given._replace(guided=np.ones(4, bool))
  _, metrics = batch.judge(
    ctx, ROWS, given, reward=REWARD, advantage=advantages.AdvantageConfig()
  )
  assert metrics['guided/mean'] == metrics['reward/mean']
  assert 'free/mean' not in metrics


def test_a_tasks_names_do_not_replace_other_metrics(ctx, judged, monkeypatch):
  score_of_task = ctx.task.score

  def with_more_names(row, text):
    given = score_of_task(row, text)
    terms = given.terms | {'mean': 7.0, 'correct': 8.0}
    return given._replace(terms=terms, metrics={'mean': 9.0})

  monkeypatch.setattr(
    type(ctx.task), 'score', lambda self, *a: with_more_names(*a)
  )
  _, metrics = batch.judge(
    ctx,
    ROWS,
    rollouts(ctx),
    reward=REWARD,
    advantage=advantages.AdvantageConfig(),
  )
  for name in ('reward/mean', 'reward/correct'):
    assert metrics[name] == judged[1][name]
  named = ('terms/mean', 'terms/correct', 'task/mean')
  assert [metrics[name] for name in named] == [7.0, 8.0, 9.0]
