"""Putting kinds of rows together, and the metrics of a hand-made batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import types
from dllm_jax.rl import advantages
from dllm_jax.rollout import batch, prompts, score
from dllm_jax.runtime import sharding
from tests import tiny, tiny_run

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
def test_merge_interleaves_rows_and_drops_padding(is_second):
  is_second = np.array(is_second, bool)
  numbers = np.arange(5)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  for padding in ([], [77, 77]):
    got = batch.merge(
      trajectory(*numbers[~is_second], *padding),
      trajectory(*numbers[is_second], *padding),
      is_second,
      mesh,
    )
    tiny_run.assert_same(got, trajectory(*numbers))


def test_take_repeats_the_last_row_over_the_mesh():
  mesh = sharding.make_mesh(sharding.MeshConfig(data=4))
  rows = prompts.RowPrompts(
    np.arange(10).reshape(5, 2), np.ones((5, 2), bool), np.arange(5)
  )
  got = batch.take(rows, np.array([3, 1]), 4, mesh)
  np.testing.assert_array_equal(got.row_id, [3, 1, 1, 1])
  np.testing.assert_array_equal(got.ids, [[6, 7], [2, 3], [2, 3], [2, 3]])
  assert len(got.ids.sharding.device_set) == 4


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
  logp = np.where(steps < num_steps[:, None], np.log(0.5), 0.0)
  return batch.Rollouts(
    requests=batch.request_groups(ctx, ROWS, 2),
    trajectory=jax.tree.map(
      jnp.asarray,
      types.Trajectory(tokens, logp.astype(np.float32), steps, num_steps),
    ),
    guided=GUIDED,
  )


def with_tokens(given, row, ids):
  """The same rollouts, but for the completion of one row."""
  tokens = given.trajectory.tokens.at[row].set(jnp.asarray(ids, jnp.int32))
  return given._replace(trajectory=given.trajectory._replace(tokens=tokens))


def judge(ctx, given, reward=None, **advantage):
  """`batch.judge`, with the batch on the host."""
  got = batch.judge(
    ctx,
    ROWS,
    given,
    reward=score.task_reward(ctx, REWARD) if reward is None else reward,
    advantage=advantages.AdvantageConfig(**advantage),
  )
  return got._replace(batch=jax.device_get(got.batch))


@pytest.fixture(scope='module')
def judged(ctx):
  return judge(ctx, rollouts(ctx))


def test_request_groups_repeats_each_prompt(ctx):
  got = batch.request_groups(ctx, ROWS, 3)
  np.testing.assert_array_equal(got.prompt_id, [0, 0, 0, 1, 1, 1])
  np.testing.assert_array_equal(got.group_id, got.prompt_id)
  assert got.num_groups == 2
  np.testing.assert_array_equal(got.prompts.row_id, range(6))
  encoded = ctx.encode(ROWS)
  np.testing.assert_array_equal(got.prompts.ids, encoded.ids[got.prompt_id])
  np.testing.assert_array_equal(got.prompts.mask, encoded.mask[got.prompt_id])
  np.testing.assert_array_equal(got.maskable, encoded.maskable[got.prompt_id])


def test_judge_batch_by_hand(judged, ctx):
  made = judged.batch
  given = rollouts(ctx)
  # Rewards 1, 0.1 (an answer, but wrong) and 0, 1.
  np.testing.assert_allclose(
    made.advantage[:, 0], [0.45, -0.45, -0.5, 0.5], atol=1e-6
  )
  np.testing.assert_array_equal(made.tokens, given.trajectory.tokens)
  np.testing.assert_array_equal(made.sampler_logp, given.trajectory.logp)
  np.testing.assert_array_equal(made.guided, GUIDED)
  np.testing.assert_array_equal(made.group_id, [0, 0, 1, 1])
  np.testing.assert_array_equal(made.row_id, range(4))
  # Eleven tokens and their EOS; all fourteen without one.
  np.testing.assert_array_equal(made.completion_mask.sum(1), [12, 12, 14, 12])
  np.testing.assert_array_equal(made.maskable, made.prompt_mask)


def test_judge_returns_samples_on_the_host(judged, ctx):
  samples = judged.samples
  leaves = jax.tree.leaves(samples.trajectory)
  assert all(isinstance(x, np.ndarray) for x in leaves)
  tiny_run.assert_same(samples.trajectory, rollouts(ctx).trajectory)
  assert [row['id'] for row in samples.rows] == ['row0', 'row0', 'row1', 'row1']
  np.testing.assert_array_equal(samples.group_id, [0, 0, 1, 1])


def test_chat_template_is_not_maskable(ctx):
  given = rollouts(ctx)
  mask = given.requests.prompts.mask
  maskable = mask.at[:, -1].set(False)
  given = given._replace(requests=given.requests._replace(maskable=maskable))
  made = judge(ctx, given).batch
  np.testing.assert_array_equal(made.maskable, maskable)
  np.testing.assert_array_equal(made.prompt_mask, mask)


def test_metrics_by_hand(judged):
  metrics = judged.metrics
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
    'group/failed': 0.5,
    'reward/not_finite': 0.0,
  }
  for name, value in want.items():
    assert metrics[name] == pytest.approx(value, abs=1e-6), name
  assert all('/' in name for name in metrics)


@pytest.mark.parametrize('devices', [1, 2])
def test_verdicts_by_hand(devices, monkeypatch):
  """Right, wrong, right but without a verdict, and right."""
  _, ctx = tiny_run.parts(devices=devices)
  judged = iter([True, True, False, True])
  given = rollouts(ctx)
  right = given.trajectory.tokens[0]
  score_one = type(ctx.task).score

  def judge_some(task, row, completion):
    return score_one(task, row, completion)._replace(judged=next(judged))

  monkeypatch.setattr(type(ctx.task), 'score', judge_some)
  given = with_tokens(given, 2, right)
  got = batch.verdicts(ctx, ROWS, given, REWARD)
  np.testing.assert_array_equal(got, [1.0, 0.0, np.nan, 1.0])


def test_failed_groups_by_hand():
  right, wrong, unknown = 1.0, 0.0, np.nan
  correct = np.array([wrong, right, wrong, wrong, unknown, wrong, unknown])
  group = np.array([0, 0, 1, 1, 2, 2, 3])
  everyone = np.ones(7, bool)
  np.testing.assert_array_equal(
    batch.failed(correct, group, everyone), [0, 1, 1, np.nan]
  )
  # Without its second row, the first group has failed too.
  np.testing.assert_array_equal(
    batch.failed(correct, group, np.arange(7) != 1), [1, 1, 1, np.nan]
  )


@pytest.mark.parametrize('is_whole', [False, True])
def test_merge_takes_the_rows_of_two_trajectories(ctx, is_whole):
  rows = rollouts(ctx).trajectory
  is_second = np.array([False, True, False, True])
  other = jax.tree.map(lambda x: x[::-1], rows)
  take = lambda tree, index: jax.tree.map(lambda x: x[np.array(index)], tree)
  merged = batch.merge(
    rows if is_whole else take(rows, [0, 2, 2, 2]),  # padded
    take(other, [1, 3]),
    is_second,
    ctx.mesh,
    is_first_whole=is_whole,
  )
  want = jax.tree.map(
    lambda a, b: np.stack([a[0], b[1], a[2], b[3]]), rows, other
  )
  tiny_run.assert_same(jax.device_get(merged), jax.device_get(want))


def test_leaked_gold_counts_gold_answers_in_reasoning(ctx):
  text = '<reasoning>\n 5 + 3 - 1\n</reasoning>\n<answer>\n 7\n</answer>'
  given = with_tokens(rollouts(ctx), 1, written(ctx.tokenizer, text))
  metrics = judge(ctx, given).metrics
  assert metrics['rollout/leaked_gold'] == 0.25
  assert (metrics['free/leaked_gold'], metrics['guided/leaked_gold']) == (
    0,
    0.5,
  )


def test_tied_groups_are_counted(ctx):
  given = rollouts(ctx)
  made, _, _, metrics = judge(
    ctx, with_tokens(given, 1, given.trajectory.tokens[0])
  )
  assert metrics['group/zero_variance'] == 0.5
  assert not made.advantage[:2].any()


def test_rollouts_without_guided_rows_have_no_metrics_by_kind(ctx):
  for guided in (np.zeros(4, bool), None):
    made, _, _, metrics = judge(ctx, rollouts(ctx)._replace(guided=guided))
    assert not [x for x in metrics if x.split('/')[0] in ('free', 'guided')]
    assert not made.guided.any()
  metrics = judge(ctx, rollouts(ctx)._replace(guided=np.ones(4, bool))).metrics
  assert metrics['guided/mean'] == metrics['reward/mean']
  assert 'free/mean' not in metrics


def test_task_metrics_do_not_replace_other_metrics(ctx, judged, monkeypatch):
  score_of_task = ctx.task.score

  def with_more_names(row, text):
    given = score_of_task(row, text)
    terms = given.terms | {'mean': 7.0, 'correct': 8.0}
    return given._replace(terms=terms, metrics={'mean': 9.0})

  monkeypatch.setattr(
    type(ctx.task), 'score', lambda self, *a: with_more_names(*a)
  )
  metrics = judge(ctx, rollouts(ctx)).metrics
  for name in ('reward/mean', 'reward/correct'):
    assert metrics[name] == judged.metrics[name]
  named = ('terms/mean', 'terms/correct', 'task/mean')
  assert [metrics[name] for name in named] == [7.0, 8.0, 9.0]


# What is compared is not what was read.


def regrouped(given, group_id):
  return given._replace(
    requests=given.requests._replace(group_id=np.array(group_id, np.int32))
  )


def test_prompts_of_one_group_share_a_baseline(ctx):
  made, samples, _, metrics = judge(ctx, regrouped(rollouts(ctx), [0, 0, 0, 0]))
  # Rewards 1, 0.1, 0, 1, each of its own prompt; their mean is 0.525.
  np.testing.assert_allclose(
    made.advantage[:, 0], [0.475, -0.425, -0.525, 0.475], atol=1e-6
  )
  assert [row['id'] for row in samples.rows] == ['row0', 'row0', 'row1', 'row1']
  np.testing.assert_array_equal(samples.group_id, [0, 0, 0, 0])
  np.testing.assert_array_equal(made.group_id, [0, 0, 0, 0])
  assert metrics['reward/mean'] == pytest.approx(2.1 / 4, abs=1e-6)


def test_groups_may_be_in_any_row_order(ctx):
  made = judge(ctx, regrouped(rollouts(ctx), [1, 0, 0, 1])).batch
  # Rewards 1 and 1 are compared, and 0.1 and 0.
  np.testing.assert_allclose(
    made.advantage[:, 0], [0, 0.05, -0.05, 0], atol=1e-6
  )
  one = judge(ctx, regrouped(rollouts(ctx), [1, 1, 0, 0])).batch
  other = judge(ctx, rollouts(ctx)).batch
  np.testing.assert_array_equal(one.advantage, other.advantage)


# Any function of samples is a reward.


def rewarded(*rewards):
  """The given rewards, and no verdict."""
  n = len(rewards)
  return lambda samples: score.Scored(
    reward=np.array(rewards, np.float32),
    terms={},
    correct=np.zeros(n, bool),
    judged=np.zeros(n, bool),
    metrics={},
    leaked=np.zeros(n, bool),
    texts=[],
    parsed=[],
    reasons=[],
  )


class Unasked(tiny.Task):
  """A task whose verifier must not be called."""

  def score(self, row, completion):
    raise AssertionError('the verifier was called')


def test_judge_accepts_log_probabilities_as_reward(ctx):
  given = rollouts(ctx)
  unasked = dataclasses.replace(ctx, task=Unasked())
  reward = lambda samples: rewarded(*samples.trajectory.logp.sum(1))(samples)
  made, _, _, metrics = judge(unasked, given, reward)
  # log 0.5 for each of 14, 14, 14 and 10 tokens.
  half = np.log(0.5)
  np.testing.assert_allclose(
    made.advantage[:, 0], [0, 0, 2 * half, -2 * half], atol=1e-5
  )
  assert metrics['reward/mean'] == pytest.approx(13 * half, rel=1e-6)
  assert metrics['group/zero_variance'] == 0.5
  assert np.isnan(metrics['reward/correct'])


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_rows_with_non_finite_rewards_are_masked_out(ctx, bad):
  given = regrouped(rollouts(ctx), [0, 0, 0, 0])
  made, _, _, metrics = judge(ctx, given, rewarded(bad, 1, 0, bad))
  np.testing.assert_array_equal(made.advantage[:, 0], [0, 0.5, -0.5, 0])
  np.testing.assert_array_equal(made.completion_mask.sum(1), [0, 12, 14, 0])
  assert metrics['reward/not_finite'] == 0.5
  assert metrics['reward/mean'] == 0.5
  # Alone in its group, or without one: nothing to compare with.
  made, _, _, metrics = judge(ctx, rollouts(ctx), rewarded(bad, 1, bad, bad))
  assert not made.advantage.any()
  np.testing.assert_array_equal(made.completion_mask.sum(1), [0, 12, 0, 0])
  assert metrics['reward/not_finite'] == 0.75


@pytest.mark.parametrize('field', ['num_prompts', 'group_size'])
def test_rollout_config_refuses_bad_values(ctx, field):
  values = {'num_prompts': 1, 'group_size': 1, 'max_prompt_length': 1}
  decoder = tiny_run.parts()[0].rollout.decoder
  with pytest.raises(ValueError, match=f'{field} 0 is not positive'):
    batch.RolloutConfig(decoder=decoder, **values | {field: 0})
