"""CPC-GRPO: pairs and rewards against loops, and no gold answer in them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dllm_jax import errors
from dllm_jax.eval import likelihood, masked_likelihood
from dllm_jax.rl import consensus
from dllm_jax.rollout import paraphrase
from dllm_jax.tasks import paraphrases
from dllm_jax.train import loop, policy
from dllm_jax.train import state as state_lib
from dllm_jax.train.methods import cpc_grpo
from tests import tiny_run

N, K, M, L = 4, 4, 8, 6
PARTS = functools.cache(
  lambda devices=1, **changes: tiny_run.parts(
    'cpc_grpo', devices=devices, rollout__group_size=M, **changes
  )
)


@functools.cache
def start(devices=1, **changes):
  method, state = tiny_run.start(*PARTS(devices, **changes))
  assert isinstance(method, loop.Method)
  return method, state


def problems(ctx, **changes):
  return [{**ctx.task.rows('train')[i], **changes} for i in range(N)]


def collect(devices=1, step=0, gold=None, **changes):
  method, state = start(devices, **changes)
  wrong = {} if gold is None else {'answer': gold}
  batch, metrics = method.collect(state, problems(method.ctx, **wrong), step)
  return jax.device_get(batch), jax.device_get(metrics)


def pair_logp(batch, params, method):
  """log p of every token of the batch, by the learner's own reading."""
  logp = policy.fixed_logp(
    params,
    batch,
    method.ctx.root,
    denoiser=method.ctx.denoiser,
    vocab=method.ctx.vocab,
    estimator=method.cfg.policy.make_estimator(1),
    num_micro=1,
  )
  return np.asarray(logp[:, 0])


def by_pair(x):
  return np.asarray(x).reshape(N, K, M, *np.shape(x)[1:])


def test_every_candidate_stands_after_every_view():
  batch, _ = collect()
  method, _ = start()
  tokenizer, task = method.ctx.tokenizer, method.ctx.task
  tokens = by_pair(batch.tokens)
  for n, row in enumerate(problems(method.ctx)):
    for i, view in enumerate(task.views(row)[:K]):
      for m in range(M):
        at = (n * K + i) * M + m
        ids = batch.prompt_ids[at][batch.prompt_mask[at]].tolist()
        assert tokenizer.decode(ids) == task.prompt(view)
    np.testing.assert_array_equal(tokens[n], tokens[n, :1].repeat(K, 0))
  assert batch.group_id.tolist() == np.repeat(range(N), K * M).tolist()
  assert len(np.unique(tokens[:, 0].reshape(N * M, L), axis=0)) > N * M // 2


def test_views_take_turns():
  method, _ = start()
  rows = problems(method.ctx)
  first, second, third = (
    [v['view'] for v in paraphrase.request_sets(method.ctx, rows, K, s).rows]
    for s in range(3)
  )
  assert first == [0, 1, 2, 3] * N and second == [4, 5, 6, 7] * N
  assert third == first


def test_scores_equal_a_loop_over_pairs():
  """Each pair by itself, without a view's padding."""
  batch, _ = collect()
  method, state = start()
  params, vocab = state.params, method.ctx.vocab
  logp = pair_logp(batch, params, method)
  for at in range(0, N * K * M, 13):
    ids = batch.prompt_ids[at][batch.prompt_mask[at]].tolist()
    tokens = batch.tokens[at][batch.completion_mask[at]].tolist()
    [want] = likelihood.score(
      method.ctx.denoiser,
      params,
      [(ids, tokens)],
      vocab=vocab,
      mesh=method.ctx.mesh,
      estimate=masked_likelihood.Estimate(num_samples=1),
      seed=0,
      batch_size=1,
    ).logp
    got = logp[at][batch.completion_mask[at]].sum()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_advantages_by_hand():
  """From the batch's own log-probabilities: R, its group, then the pairs."""
  batch, metrics = collect(method__cross_negative=0.25)
  mask = by_pair(batch.completion_mask)
  length = mask[:, 0].sum(-1)
  method, state = start()
  logp = by_pair(pair_logp(batch, state.params, method))
  scores = np.sum(logp * mask, -1) / length[:, None]
  source = np.arange(M) % K
  other = np.arange(K)[:, None] != source
  reward = (scores * other).sum(1) / (K - 1)
  centred = reward - reward.mean(1, keepdims=True)
  advantage = centred / np.maximum(reward.std(1, ddof=1, keepdims=True), 0.05)
  advantage *= length.mean() / length
  want = np.broadcast_to(advantage[:, None], (N, K, M)).copy()
  want[(want < 0) & other] *= 0.25
  got = by_pair(batch.advantage)
  np.testing.assert_allclose(got[..., 0], want, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(got, got[..., :1].repeat(L, -1))
  np.testing.assert_allclose(metrics['reward/mean'], reward.mean(), rtol=1e-5)
  cross = scores[:, other].mean()
  np.testing.assert_allclose(metrics['consensus/agreement'], cross, rtol=1e-5)
  own = scores[:, ~other].mean()
  np.testing.assert_allclose(metrics['consensus/own'], own, rtol=1e-5)
  assert abs(metrics['consensus/kl']) < 1e-5  # the reference is the policy


@pytest.mark.parametrize('signal', cpc_grpo.SIGNALS)
def test_collect_reads_no_gold_answer(signal):
  changes = {'method__signal': signal}
  want, metrics = collect(**changes)
  got, others = collect(gold='XXXX', **changes)
  tiny_run.assert_same(got, want)
  assert metrics['reward/mean'] == others['reward/mean']


def test_collect_is_a_function_of_the_step():
  tiny_run.assert_same(collect(step=3)[0], collect(step=3)[0])
  assert (collect(step=3)[0].tokens != collect(step=4)[0].tokens).any()


def test_eight_devices_collect_and_update_as_one():
  batches, params = [], []
  for devices in (1, 8):
    method, state = start(devices)
    state = jax.tree.map(jnp.copy, state)
    batch, _ = method.collect(state, problems(method.ctx), 0)
    state, _ = method.update(state, batch, 0)
    batches.append(jax.device_get(batch))
    params.append(jax.device_get(state.params))
  one, eight = batches
  np.testing.assert_array_equal(eight.tokens, one.tokens)
  np.testing.assert_allclose(eight.advantage, one.advantage, atol=1e-4)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=2e-5), *params
  )


def test_the_update_is_the_gradient_of_the_scores():
  """T5: one vjp through S gives what two phases give, for one step."""
  changes = {
    'method__cross_negative': 1.0,
    'method__advantage__min_std': 1e9,  # A = (R - mean R) / 1e9
  }
  cfg, ctx = PARTS(**changes)
  method, state = start(**changes)
  batch, _ = method.collect(state, problems(ctx), 0)
  sgd = optax.sgd(1e9)  # which takes the 1e9 back
  start_state = state_lib.create(jax.tree.map(jnp.copy, state.params), sgd)
  before = jax.device_get(start_state.params)
  moved, _ = dataclasses.replace(method, optimizer=sgd).update(
    start_state, batch, 0
  )
  two_phases = jax.tree.map(lambda a, b: b - a, before, moved.params)

  @jax.jit
  def single_pass(params):
    def scores(params):
      logp = policy.fixed_logp(
        params,
        batch,
        ctx.root,
        denoiser=ctx.denoiser,
        vocab=ctx.vocab,
        estimator=cfg.method.policy.make_estimator(1),
        num_micro=1,
      )
      pairs = lambda x: x.reshape(N, K, M, L)
      return consensus.scores(
        pairs(logp[:, 0]), pairs(batch.completion_mask)[:, 0]
      )

    values, pull = jax.vjp(scores, params)
    weight = consensus.view_weights(jnp.arange(M) % K, K)
    reward = consensus.rewards(values, weight)
    centred = reward - jnp.mean(reward, axis=1, keepdims=True)
    cotangent = jnp.broadcast_to(centred[:, None], (N, K, M)) / (N * K * M)
    return pull(cotangent)[0]

  want = single_pass(state.params)
  size = float(optax.tree.norm(want))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(size, 1)),
    two_phases,
    want,
  )


def test_a_prefix_is_all_there_is():
  batch, metrics = collect(method__prefix=2)
  whole, _ = collect()
  np.testing.assert_array_equal(batch.tokens, whole.tokens[:, :2])
  assert metrics['rollout/length'] <= 2


@pytest.mark.parametrize(
  'signal', ['majority', 'self_likelihood', 'self_certainty', 'entropy']
)
def test_own_pairs_learn_from_their_own_view(signal):
  changes = {'method__signal': signal, 'method__pairs': 'own'}
  batch, metrics = collect(**changes)
  assert len(batch.tokens) == N * M
  # The sign is the reward's; a longer candidate has less a token.
  assert np.isfinite(batch.advantage).all()
  if signal == 'self_likelihood':
    mask = batch.completion_mask
    score = (batch.sampler_logp * mask).sum(1) / mask.sum(1)
    want = score.reshape(N, M) - score.reshape(N, M).mean(1, keepdims=True)
    got = batch.advantage[:, 0].reshape(N, M)
    assert (np.sign(got) == np.sign(want)).all()
    np.testing.assert_allclose(metrics['reward/mean'], score.mean(), rtol=1e-5)
  if signal == 'entropy':
    assert metrics['reward/mean'] < 0
  if signal == 'majority':
    assert 0 <= metrics['reward/mean'] <= 1


def test_random_rewards_are_drawn_by_step_and_row():
  changes = {'method__signal': 'random', 'method__pairs': 'own'}
  tiny_run.assert_same(collect(**changes)[0], collect(**changes)[0])
  first, second = (collect(step=s, **changes)[0].advantage for s in (0, 1))
  assert (first != second).any()


def test_candidates_of_the_ensemble():
  mixed, _ = collect(method__candidates='mixed')
  alone, _ = collect()
  tokens, others = by_pair(mixed.tokens)[:, 0], by_pair(alone.tokens)[:, 0]
  np.testing.assert_array_equal(tokens[:, : M // 2], others[:, : M // 2])
  assert (tokens[:, M // 2 :] != others[:, M // 2 :]).any()
  # No view wrote them, so that all push up and none pushes down.
  advantage = by_pair(mixed.advantage)[..., 0]
  assert (advantage[:, :, M // 2 :] >= 0).all()
  assert (advantage < 0).any()


@pytest.mark.parametrize('scorer', ['policy', 'reference'])
def test_the_scorer_scores(scorer):
  """The reference has other parameters than the policy here."""
  method, state = start(method__scorer=scorer)
  moved = jax.tree.map(lambda x: x * 1.5, state.params)
  method = dataclasses.replace(method, reference=moved)
  batch, metrics = method.collect(state, problems(method.ctx), 0)
  scored_by = moved if scorer == 'reference' else state.params
  mask = by_pair(batch.completion_mask)
  logp = by_pair(pair_logp(batch, scored_by, method)) * mask
  scores = logp.sum(-1) / mask[:, 0].sum(-1)[:, None]
  other = np.arange(K)[:, None] != np.arange(M) % K
  want = (scores * other).sum(1) / (K - 1)
  np.testing.assert_allclose(metrics['reward/mean'], want.mean(), rtol=1e-5)
  # KL(policy || reference), estimated on the candidates.
  own = ~np.isnan(by_pair(batch.sampler_logp)[..., 0])
  gap = pair_logp(batch, state.params, method) - pair_logp(batch, moved, method)
  gap = by_pair(gap)[own][np.asarray(mask)[own]].mean()
  np.testing.assert_allclose(metrics['consensus/kl'], gap, rtol=1e-4)


def test_the_samplers_log_probabilities_are_those_of_the_own_view():
  batch, _ = collect()
  method, state = start()
  logp = by_pair(pair_logp(batch, state.params, method))
  own = np.arange(K)[:, None] == np.arange(M) % K
  got = by_pair(batch.sampler_logp)
  assert np.isnan(got[:, ~own]).all()
  mask = by_pair(batch.completion_mask)[:, own]
  np.testing.assert_allclose(
    got[:, own][mask], logp[:, own][mask], rtol=1e-4, atol=1e-5
  )
  moved = jax.tree.map(jnp.copy, state)
  _, [metrics] = method.update(moved, jax.device_put(batch), 0)
  assert float(metrics['policy/sampler_gap']) < 1e-5


def test_candidates_do_not_depend_on_the_mesh():
  """Ensembles in lockstep over fsdp, and with divided kernels."""
  changes = {'method__candidates': 'mixed', 'rollout__num_prompts': N}
  want, _ = collect(**changes)
  got, _ = collect(2, mesh__fsdp=2, mesh__tensor=2, **changes)
  np.testing.assert_array_equal(got.tokens, want.tokens)
  np.testing.assert_allclose(got.advantage, want.advantage, atol=1e-3)


def test_an_unrelated_prompt_is_subtracted():
  """The score of each candidate after view 0 of the next problem."""
  want, plain = collect()
  _, metrics = collect(method__subtract_unrelated=True)
  method, state = start()
  ctx = method.ctx
  rows = problems(ctx)
  tokens = by_pair(want.tokens)[:, 0]
  mask = by_pair(want.completion_mask)[:, 0]
  total = 0.0
  for n in range(N):
    prompt = ctx.task.views(rows[(n + 1) % N])[0]
    ids = ctx.tokenizer.encode(ctx.task.prompt(prompt))
    for m in range(M):
      y = tokens[n, m][mask[n, m]].tolist()
      [logp] = likelihood.score(
        ctx.denoiser,
        state.params,
        [(ids, y)],
        vocab=ctx.vocab,
        mesh=ctx.mesh,
        estimate=masked_likelihood.Estimate(num_samples=1),
        seed=0,
        batch_size=1,
      ).logp
      total += logp / len(y)
  got = plain['reward/mean'] - metrics['reward/mean']
  np.testing.assert_allclose(got, total / (N * M), rtol=1e-4)


def test_diversity_by_hand():
  tokens = jnp.array([[[1, 2, 1, 2], [3, 3, 3, 9], [1, 2, 1, 7]]])
  length = jnp.array([[4, 3, 3]])
  got = consensus.diversity(tokens, length)
  assert got['distinct'] == 1.0
  # (1,2) again; (3,3) again; the third has (1,2), (2,1).
  np.testing.assert_allclose(got['repeated'], 2 / 7)
  same = consensus.diversity(tokens.at[0, 0, 3].set(7), length - 1)
  np.testing.assert_allclose(same['distinct'], 1.0)
  same = consensus.diversity(tokens, jnp.array([[3, 3, 3]]))
  np.testing.assert_allclose(same['distinct'], 2 / 3)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'method__num_views': 1}, '2 views or more'),
    ({'method__cross_negative': 2.0}, 'not in'),
    ({'method__prefix': -1}, 'negative'),
    (
      {'method__subtract_unrelated': True, 'method__aggregate': 'probability'},
      'subtract_unrelated is of log-probabilities',
    ),
    ({'method__pairs': 'own', 'method__candidates': 'mixed'}, "use 'per_view'"),
  ],
)
def test_bad_values_are_one_line(changes, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    tiny_run.parts('cpc_grpo', **changes)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'method__prefix': 7}, 'method.prefix is 7, more than'),
    (
      {'rollout__num_prompts': 1, 'method__subtract_unrelated': True},
      'use 2 or more',
    ),
    ({'rollout__group_size': 1}, 'use 2 or more'),
    ({'method__policy__estimator': 'trajectory'}, 'use next_token'),
    ({'rollout__top_p': 0.9}, 'truncate the candidates'),
    (
      {'rollout__decode': 'draft', 'method__candidates': 'ensemble'},
      'rollout.decode drafts',
    ),
  ],
)
def test_what_does_not_fit_is_refused_before_any_work(changes, message):
  cfg, ctx = tiny_run.parts('cpc_grpo', **changes)
  with pytest.raises(errors.UserError, match=message):
    cfg.method.check(ctx, cfg.rollout)


def test_a_task_without_paraphrases_is_refused():
  cfg, _ = PARTS()
  _, other = tiny_run.parts('diffu_grpo')
  causal = dataclasses.replace(other, denoiser=PARTS()[1].denoiser)
  with pytest.raises(errors.UserError, match='has no paraphrases'):
    cfg.method.check(causal, cfg.rollout)


@pytest.mark.parametrize(
  ('texts', 'message'),
  [
    ('ab', 'has 1 phrasings for training, fewer than method.num_views=4'),
    ('abcdefg', "6 phrasings for training, and row 'first' has 4"),
    (['  ', 'b', 'c', 'd', 'e'], 'an empty phrasing'),
    (['a', 'b ', 'b', 'd', 'e'], 'the same one twice'),
    ('abcda', 'the same one twice'),  # the unseen one is none
  ],
)
def test_sets_that_are_none_are_refused(texts, message):
  task = paraphrases.Paraphrases(num_unseen=1)
  row = lambda name, texts: {
    'id': name,
    'prompt': texts[0],
    'paraphrases': list(texts[1:]),
  }
  good = row('first', 'abcde')
  paraphrase.check_sets(task, [good, good], 4)
  with pytest.raises(errors.UserError, match=f"'p'.*{message}"):
    paraphrase.check_sets(task, [good, row('p', texts)], 4)


def test_equal_candidates_teach_nothing():
  """Greedy candidates of one view are one text: no set has a comparison."""
  batch, metrics = collect(
    rollout__temperature=0.0, method__num_views=2, method__candidates='ensemble'
  )
  assert metrics['group/zero_variance'] == 1.0
  assert not batch.advantage.any()
