"""AG-GRPO: who is guided, what the batch holds, and when it is diffu-GRPO."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.tasks import countdown
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import loop
from tests import tiny_run

G, L, A = 4, 12, 7  # group, completion, anchor
ROWS = tiny_run.rows('5 + 3 - 1', '3 + 5 - 1', '5 - 1 + 3', '3 - 1 + 5')
TWICE = {
  'method__policy__num_inner': 2,
  'method__policy__beta': 0.04,
  'train__optim__learning_rate': 0.01,
}
LONG = '1 + 1 + 1 + 1'  # nine tokens with its tags
PROMPT = np.repeat(np.arange(len(ROWS)), G)


def collect(rows=ROWS, *, step=0, denoiser=None, arg='ag_grpo', **changes):
  """(batch, metrics) on the host, of random parameters."""
  cfg, ctx = tiny_run.parts(arg, **changes)
  method, state = tiny_run.start(cfg, ctx)
  if denoiser is not None:
    ctx = dataclasses.replace(ctx, denoiser=denoiser(ctx))
    method = dataclasses.replace(method, ctx=ctx)
  batch, metrics = method.collect(state, rows, step)
  return jax.device_get(batch), metrics


def train(arg, steps, rows=ROWS, **changes):
  """(parameters, metrics of every inner step, batches)."""
  changes = TWICE | changes
  cfg, ctx = tiny_run.parts(arg, **changes)
  method, state = tiny_run.start(cfg, ctx)
  history, batches = [], []
  for step in range(steps):
    batch, host = method.collect(state, rows, step)
    batches.append(jax.device_get(batch))
    state, device = method.update(state, batch, step)
    history.append((host, jax.device_get(device)))
  return jax.device_get(state.params), history, batches


@pytest.fixture(scope='module')
def plain():
  return collect()


@pytest.fixture(scope='module')
def free():
  """The same rows, all of them answer-free."""
  return collect(arg='diffu_grpo')


def assert_close(got, want, atol):
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol)
  jax.tree.map(near, got, want)


def assert_same_rollouts(got, want, rows):
  """The given rows; float32 sums depend on the shape of the batch."""
  for name in ('tokens', 'commit_step', 'num_steps'):
    np.testing.assert_array_equal(
      getattr(got, name)[rows], getattr(want, name)[rows]
    )
  np.testing.assert_allclose(
    got.sampler_logp[rows], want.sampler_logp[rows], atol=2e-6
  )


def test_ag_grpo_satisfies_the_method_protocol():
  cfg, ctx = tiny_run.parts()
  assert isinstance(tiny_run.start(cfg, ctx)[0], loop.Method)


@pytest.fixture(scope='module')
def diffu():
  return train('diffu_grpo', 3)


@pytest.mark.parametrize('guided_steps', [6, 2])
def test_ag_grpo_without_guided_rows_equals_diffu_grpo(diffu, guided_steps):
  got = train(
    'ag_grpo',
    3,
    method__guided__num_guided=0,
    method__guided__num_steps=guided_steps,
  )
  tiny_run.assert_same(got, diffu)
  assert got[1][-1][1][1]['policy/ratio_max'] > 1  # it moved


def test_last_rows_of_every_group_are_guided(plain):
  batch, _ = plain
  np.testing.assert_array_equal(
    batch.guided, np.tile([False, False, True, True], len(ROWS))
  )
  np.testing.assert_array_equal(batch.row_id, np.arange(16))
  np.testing.assert_array_equal(batch.prompt_mask.sum(1), np.full(16, 6))
  assert (batch.num_steps == np.where(batch.guided, 9, 6)).all()


def test_both_kinds_of_rows_share_a_baseline(plain):
  batch, _ = plain
  sums = np.zeros(len(ROWS))
  np.add.at(sums, PROMPT, batch.advantage[:, 0])
  np.testing.assert_allclose(sums, 0, atol=1e-6)
  assert np.abs(batch.advantage).max() > 0


def test_free_rows_do_not_depend_on_guided_rows(plain, free):
  rows = ~plain[0].guided
  assert_same_rollouts(plain[0], free[0], rows)
  # A guided row is another draw than the answer-free one of its number.
  assert (plain[0].tokens[~rows] != free[0].tokens[~rows]).any()


def test_gold_answer_changes_only_guided_rows(plain):
  batch, _ = plain
  other, _ = collect(
    tiny_run.rows('9 + 9 - 8', '8 + 8 - 9', '9 - 8 + 9', '8 - 9 + 8')
  )
  rows = ~batch.guided
  assert_same_rollouts(other, batch, rows)
  for name in ('prompt_ids', 'prompt_mask', 'maskable', 'guided', 'row_id'):
    np.testing.assert_array_equal(getattr(other, name), getattr(batch, name))
  assert (other.tokens[~rows] != batch.tokens[~rows]).any()


def test_answer_of_a_guided_row_is_from_the_second_pass(plain):
  batch, _ = plain
  guided, free_rows = batch.commit_step[batch.guided], ~batch.guided
  # Five columns in six steps need five of them; then seven in four.
  order = np.sort(guided[:, :-A]), np.sort(guided[:, -A:])
  np.testing.assert_array_equal(order[0], np.tile([0, 1, 2, 3, 4], (8, 1)))
  np.testing.assert_array_equal(
    order[1], np.tile([5, 5, 6, 6, 7, 7, 8], (8, 1))
  )
  assert (batch.commit_step[free_rows] < 6).all()
  assert (batch.sampler_logp < 0).all()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Never:
  """A model that never writes the given ids."""

  denoiser: object
  ids: tuple[int, ...]

  def __call__(self, params, tokens, attention_mask, query):
    logits = self.denoiser(params, tokens, attention_mask, query)
    return logits.at[..., jnp.array(self.ids)].set(-jnp.inf)


def test_batch_has_no_gold_token_that_the_model_did_not_write():
  ids = []

  def never(ctx):
    ids.extend(ctx.tokenizer.encode(' 9 8 27'))
    return Never(denoiser=ctx.denoiser, ids=tuple(ids))

  gold = tiny_run.rows('9 + 8 + 9', '27 - 9 - 9', '8 + 8 + 8', '9 - 8 - 27')
  batch, metrics = collect(gold, denoiser=never)
  assert batch.guided.any()
  for name in ('prompt_ids', 'tokens'):
    assert not np.isin(getattr(batch, name), ids).any()
  assert metrics['rollout/leaked_gold'] == 0


@pytest.mark.parametrize('long', [(1,), (0, 3), (0, 1, 2, 3)])
def test_prompts_with_long_anchors_get_answer_free_rows(plain, free, long):
  rows = [
    row | {'solution': LONG} if i in long else row for i, row in enumerate(ROWS)
  ]
  batch, metrics = collect(rows)
  fell_back = np.isin(PROMPT, long)
  np.testing.assert_array_equal(batch.guided, plain[0].guided & ~fell_back)
  assert batch.tokens.shape == (16, L)
  assert_same_rollouts(batch, free[0], fell_back)
  assert_same_rollouts(batch, plain[0], ~fell_back)
  assert ('guided/mean' in metrics) == bool(batch.guided.any())


@pytest.mark.parametrize('num_guided', [1, 3, 4])
def test_num_guided_from_none_to_all_rows(num_guided, plain, free):
  batch, _ = collect(method__guided__num_guided=num_guided)
  in_group = np.arange(16) % G
  np.testing.assert_array_equal(batch.guided, in_group >= G - num_guided)
  for other in (plain[0], free[0]):
    same = batch.guided == other.guided
    np.testing.assert_array_equal(batch.tokens[same], other.tokens[same])


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstIsRight(countdown.Countdown):
  """Every completion of the first problem is right, and no other one is."""

  def score(self, row, completion):
    found = super().score(row, completion)
    return found._replace(correct=row['id'] == ROWS[0]['id'])


@pytest.mark.parametrize('devices', [1, 8])
def test_only_groups_without_a_right_answer_are_guided(plain, free, devices):
  cfg, ctx = tiny_run.parts(devices=devices, method__guided__groups='failed')
  task = FirstIsRight(**dataclasses.asdict(ctx.task))
  method, state = tiny_run.start(cfg, dataclasses.replace(ctx, task=task))
  batch, metrics = method.collect(state, ROWS, 0)
  batch = jax.device_get(batch)
  solved = PROMPT == 0
  np.testing.assert_array_equal(batch.guided, plain[0].guided & ~solved)
  assert_same_rollouts(batch, plain[0], ~solved)
  assert_same_rollouts(batch, free[0], solved)
  assert metrics['rollout/guided_fraction'] == 6 / 16
  assert metrics['group/failed'] == 3 / 4


def test_without_a_failed_group_no_row_is_guided(free):
  rows = [row | {'id': ROWS[0]['id']} for row in ROWS]
  cfg, ctx = tiny_run.parts(method__guided__groups='failed')
  task = FirstIsRight(**dataclasses.asdict(ctx.task))
  method, state = tiny_run.start(cfg, dataclasses.replace(ctx, task=task))
  batch, _ = method.collect(state, rows, 0)
  assert not batch.guided.any()
  np.testing.assert_array_equal(batch.tokens, free[0].tokens)


def test_guided_rows_become_fewer(plain):
  changes = {'method__guided__anneal_steps': 10}
  for step, num in ((0, 2), (4, 2), (5, 1), (9, 1), (10, 0), (99, 0)):
    cfg, _ = tiny_run.parts(**changes)
    assert cfg.method.guided.num_at(step) == num
  batch, _ = collect(step=5, **changes)
  np.testing.assert_array_equal(batch.guided, np.arange(16) % G == G - 1)
  batch, metrics = collect(step=10, **changes)
  assert not batch.guided.any() and 'guided/mean' not in metrics


@pytest.mark.parametrize('devices', [1, 8])
def test_only_reasoning_has_credit(devices):
  """Anchors of seven and of nine tokens, and one that does not fit."""
  longer = ROWS[3] | {'solution': '1 + 1 + 1 + 1 + 1'}
  rows = [ROWS[0], ROWS[1] | {'solution': LONG}, ROWS[2], longer]
  changes = {'method__guided__max_anchor': 9, 'devices': devices}
  want, _ = collect(rows, **changes)
  got, _ = collect(rows, method__guided__credit='reasoning', **changes)
  np.testing.assert_array_equal(
    want.guided, (np.arange(16) % G >= 2) & (PROMPT != 3)
  )
  length = np.array([A, 9, A, 0])[PROMPT]
  is_answer = np.arange(L) >= L - length[:, None]
  is_answer &= want.guided[:, None]
  assert (got.advantage[is_answer] == 0).all()
  np.testing.assert_array_equal(
    got.advantage[~is_answer], want.advantage[~is_answer]
  )
  assert (want.advantage[is_answer] != 0).any()
  for name in ('tokens', 'completion_mask', 'guided', 'sampler_logp'):
    np.testing.assert_array_equal(getattr(got, name), getattr(want, name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unjudged(countdown.Countdown):
  """A verifier that is out of order."""

  def score(self, row, completion):
    return super().score(row, completion)._replace(judged=False)


def test_groups_without_a_verdict_are_not_guided():
  cfg, ctx = tiny_run.parts(method__guided__groups='failed')
  task = Unjudged(**dataclasses.asdict(ctx.task))
  method, state = tiny_run.start(cfg, dataclasses.replace(ctx, task=task))
  batch, metrics = method.collect(state, ROWS, 0)
  assert not batch.guided.any() and np.isnan(metrics['group/failed'])


def test_steps_draw_different_completions(plain):
  other, _ = collect(step=1)
  assert (other.tokens != plain[0].tokens).any(1).mean() > 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spoiled(countdown.Countdown):
  """NaN for the second problem, and for answers of an odd length."""

  def score(self, row, completion):
    found = super().score(row, completion)
    if row['id'] == 'row1' or len(completion) % 2:
      return task_lib.Score(
        found.terms | {'solution': float('nan')}, found.correct, found.metrics
      )
    return found


def test_rows_with_non_finite_rewards_are_masked_out():
  cfg, ctx = tiny_run.parts(**TWICE)
  task = Spoiled(**dataclasses.asdict(ctx.task))
  method, state = tiny_run.start(cfg, dataclasses.replace(ctx, task=task))
  before = jax.device_get(state.params)
  batch, metrics = method.collect(state, ROWS, 0)
  masked = ~jax.device_get(batch.completion_mask).any(1)
  assert masked[PROMPT == 1].all() and 4 < masked.sum() < 16
  assert metrics['reward/not_finite'] == masked.mean()
  assert (jax.device_get(batch.advantage)[masked] == 0).all()
  sums = np.zeros(len(ROWS))
  np.add.at(sums, PROMPT, jax.device_get(batch.advantage)[:, 0])
  np.testing.assert_allclose(sums, 0, atol=1e-6)
  state, history = method.update(state, batch, 0)
  assert np.isfinite(history[0]['policy/loss'])
  moved = jax.tree.map(lambda a, b: (a != b).any(), before, state.params)
  assert any(jax.tree.leaves(moved))
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_ratio_is_1_in_the_first_inner_step():
  _, history, _ = train('ag_grpo', 1)
  first, second = history[0][1]
  assert first['policy/ratio_max'] == first['policy/ratio_mean'] == 1
  assert second['policy/ratio_max'] > 1


@pytest.fixture(scope='module')
def on_one_device():
  return train('ag_grpo', 1, method__policy__num_inner=1)


def test_update_does_not_depend_on_micro_batches(on_one_device):
  want, want_history, _ = on_one_device
  got, history, _ = train(
    'ag_grpo', 1, method__policy__num_inner=1, method__policy__num_micro=4
  )
  assert_close(got, want, 2e-5)
  for name, value in want_history[0][1][0].items():
    np.testing.assert_allclose(
      history[0][1][0][name], value, rtol=1e-4, atol=1e-6, err_msg=name
    )


@pytest.mark.parametrize('devices', [2, 8])
def test_step_does_not_depend_on_the_number_of_devices(on_one_device, devices):
  want, want_history, want_batches = on_one_device
  got, history, batches = train(
    'ag_grpo', 1, devices=devices, method__policy__num_inner=1
  )
  for name in ('tokens', 'commit_step', 'num_steps', 'guided', 'row_id'):
    np.testing.assert_array_equal(
      getattr(batches[0], name), getattr(want_batches[0], name)
    )
  np.testing.assert_allclose(
    batches[0].advantage, want_batches[0].advantage, atol=1e-6
  )
  for mine, theirs in (
    (history[0][0], want_history[0][0]),
    (history[0][1][0], want_history[0][1][0]),
  ):
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
      np.testing.assert_allclose(mine[name], value, atol=1e-5, err_msg=name)
  assert_close(got, want, 1e-5)
