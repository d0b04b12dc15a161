"""The policy update: on-policy facts, micro-batches, meshes, adapters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dllm_jax.models import transformer
from dllm_jax.ops import streams
from dllm_jax.rl import logprobs
from dllm_jax.runtime import sharding
from dllm_jax.train import optim, policy_config, state
from tests import tiny

L = 8
TABLE = tiny.Table(gen_length=L)
BATCH = tiny.rollouts(0, rows=8, gen_length=L)
SGD, STILL = optax.sgd(0.5), optax.sgd(0.0)
ADAM = optim.make(optim.OptimConfig(learning_rate=0.1))
CFG = policy_config.PolicyConfig(
  num_inner=1,
  num_micro=2,
  eps=0.2,
  beta=0.0,
  guided_beta=None,
  max_kl_difference=None,
  estimator='one_step',
  mask_prob=0.5,
  num_views=2,
)
ONE_STEP = CFG.make_estimator(2)
TRAJECTORY = dataclasses.replace(CFG, estimator='trajectory').make_estimator(2)
ESTIMATORS = {'one_step': ONE_STEP, 'trajectory': TRAJECTORY}
# Near the policy, so that no difference overflows.
REFERENCE = tiny.table_params(0, L)
REFERENCE['table'] += 0.25 * tiny.table_params(1, L)['table']
FREE_KL = {'beta': 0.3, 'guided_beta': 0.0, 'reference': REFERENCE}


def fresh(params):
  """A copy: an update donates its state."""
  return jax.tree.map(jnp.array, params)


def update(
  batch=BATCH,
  *,
  params=None,
  denoiser=TABLE,
  reference=None,
  optimizer=SGD,
  step=0,
  ctx=None,
  **cfg,
):
  """One `PolicyMethod.update`; (state, metrics of every inner step)."""
  params = tiny.table_params(0, L) if params is None else params
  method = tiny.policy_method(
    ctx or tiny.context_of(denoiser),
    dataclasses.replace(CFG, **cfg),
    optimizer,
    reference,
  )
  return method.update(state.create(fresh(params), optimizer), batch, step)


def near(a, b, tolerance):
  """Equal trees, relative to each leaf's largest entry."""

  def one(x, y):
    x, y = np.asarray(x), np.asarray(y)
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max())

  jax.tree.map(one, a, b)


def views_of(estimator, step, j, batch=BATCH):
  root = tiny.context_of(TABLE).root
  key = jax.random.fold_in(streams.step_key(root, 'estimator', step), j)
  return estimator(key, batch, tiny.VOCAB)


@pytest.mark.parametrize('name', ESTIMATORS)
@pytest.mark.parametrize('num_inner', [1, 3])
def test_ratio_is_exactly_1_at_first(name, num_inner):
  new, history = update(estimator=name, num_inner=num_inner)
  assert len(history) == num_inner and new.step == num_inner
  first = history[0]
  assert first['policy/ratio_mean'] == first['policy/ratio_max'] == 1.0
  assert first['policy/clip_fraction'] == 0.0
  for metrics in history[1:]:
    assert abs(metrics['policy/ratio_max'] - 1.0) > 1e-4
  assert all(np.isfinite(v) for m in history for v in m.values())


@pytest.mark.parametrize('name', ESTIMATORS)
def test_inner_steps_draw_new_views_shared_by_all_policies(name):
  # The policy stands still, so only the views can move anything.
  _, history = update(optimizer=STILL, estimator=name, num_inner=3)
  assert len({float(m['policy/logp']) for m in history}) == 3
  for metrics in history:
    for what in ('policy/ratio_mean', 'policy/ratio_max'):
      np.testing.assert_allclose(metrics[what], 1.0, rtol=1e-5)


def test_kl_to_the_policy_itself_is_0():
  new, (metrics,) = update(**FREE_KL | {'reference': tiny.table_params(0, L)})
  assert abs(metrics['policy/kl']) < 1e-9
  assert abs(metrics['policy/kl_guided']) < 1e-9
  near(new.params, update()[0].params, 1e-5)


def test_first_loss_is_minus_the_token_mean_of_advantages():
  _, (metrics,) = update()
  mask = np.asarray(BATCH.completion_mask)
  assert mask.sum(1).min() < mask.sum(1).max()
  want = -(np.asarray(BATCH.advantage) * mask).sum() / mask.sum()
  np.testing.assert_allclose(metrics['policy/loss'], want, rtol=1e-5)


@pytest.mark.parametrize('name', ESTIMATORS)
def test_first_step_is_the_policy_gradient(name):
  views = views_of(ESTIMATORS[name], 5, 0)
  params = fresh(tiny.table_params(0, L))

  def objective(params):
    logp = logprobs.read_views(
      TABLE, params, views, tiny.VOCAB, gen_length=L
    ).logp
    per_row = jnp.sum(logp * views.weight[..., None], (1, 2))
    return (
      -jnp.sum(per_row * BATCH.advantage[:, 0]) / BATCH.completion_mask.sum()
    )

  grads = jax.grad(objective)(params)
  new, (metrics,) = update(estimator=name, step=5)
  moved = jax.tree.map(lambda a, b: (a - b) / 0.5, params, new.params)
  near(moved, grads, 2e-4)
  np.testing.assert_allclose(
    metrics['policy/grad_norm'],
    np.sqrt(sum(np.sum(np.square(g)) for g in grads.values())),
    rtol=1e-4,
  )


TIED = BATCH._replace(
  advantage=jnp.zeros((8, L)).at[1].set(1.0).at[4].set(-2.0)
)


@pytest.mark.parametrize(
  ('name', 'beta'), [('one_step', 0.3), ('trajectory', 0.0)]
)
def test_update_does_not_depend_on_micro_batches(name, beta):
  run = lambda num_micro: update(
    TIED,
    num_micro=num_micro,
    num_inner=2,
    beta=beta,
    estimator=name,
    reference=REFERENCE,
  )
  (one, first), (four, second) = run(1), run(4)
  # The KL term's exponential makes some entries a hundred times as large as
  # they were, and the last bits with them.
  near(four.params, one.params, 1e-5 if beta else 1e-6)
  before = tiny.table_params(0, L)
  assert np.abs(np.asarray(one.params['table']) - before['table']).max() > 0.01
  for a, b in zip(first, second, strict=True):
    np.testing.assert_allclose(
      a['policy/loss'], b['policy/loss'], rtol=1e-5, atol=1e-6
    )
    if beta:  # without KL the metrics leave skipped rows out
      for what in a:
        np.testing.assert_allclose(a[what], b[what], rtol=1e-4, atol=1e-6)


def test_zero_advantages_change_no_parameter():
  nothing = BATCH._replace(advantage=jnp.zeros((8, L)))
  before = tiny.table_params(0, L)
  new, history = update(nothing, optimizer=ADAM, num_inner=2, num_micro=4)
  jax.tree.map(np.testing.assert_array_equal, new.params, before)
  assert all(m['policy/loss'] == m['policy/grad_norm'] == 0 for m in history)
  # The KL term acts on tied groups.
  new, _ = update(nothing, **FREE_KL)
  assert (np.asarray(new.params['table']) != before['table']).any()


def test_update_does_not_depend_on_row_order():
  order = jnp.array([3, 1, 7, 0, 2, 6, 5, 4])
  shuffled = jax.tree.map(lambda x: x[order], BATCH)
  one, _ = update()
  two, _ = update(shuffled)
  near(two.params, one.params, 1e-6)


@pytest.mark.parametrize('name', ESTIMATORS)
def test_masked_out_positions_do_not_change_the_update(name):
  counted = BATCH.completion_mask
  assert not counted.all()
  bad = BATCH._replace(
    sampler_logp=jnp.where(counted, BATCH.sampler_logp, jnp.nan)
  )
  if name == 'one_step':  # it reads no completion token
    bad = bad._replace(tokens=jnp.where(counted, BATCH.tokens, tiny.MASK))
  run = lambda batch: update(batch, estimator=name, **FREE_KL)
  (want, clean), (got, history) = run(BATCH), run(bad)
  jax.tree.map(np.testing.assert_array_equal, got.params, want.params)
  for a, b in zip(history, clean, strict=True):
    assert {k: float(v) for k, v in a.items()} == {
      k: float(v) for k, v in b.items()
    }
    assert all(np.isfinite(v) for v in a.values())


@pytest.mark.parametrize(
  'where, bad',
  [('advantage', np.nan), ('advantage', np.inf), ('reference', np.nan)],
)
def test_non_finite_update_keeps_the_state_and_is_counted(where, bad):
  """In the rewards' advantages, or in log-probabilities of the KL term."""
  batch, reference = BATCH, dict(REFERENCE)
  if where == 'advantage':
    batch = BATCH._replace(advantage=BATCH.advantage.at[2].set(bad))
  else:
    reference['table'] = np.full_like(reference['table'], bad)
  before = state.create(tiny.table_params(0, L), ADAM)
  new, (metrics,) = update(
    batch, optimizer=ADAM, **FREE_KL | {'reference': reference}
  )
  assert not np.isfinite(metrics['policy/loss'])
  assert metrics['policy/skipped_updates'] == 1
  jax.tree.map(np.testing.assert_array_equal, new, before)  # its counters too
  good, (metrics,) = update(optimizer=ADAM, **FREE_KL)
  assert metrics['policy/skipped_updates'] == 0 and good.step == 1


def test_sampler_logp_is_only_logged():
  bad = BATCH._replace(sampler_logp=BATCH.sampler_logp * jnp.nan)
  (want, _), (got, (metrics,)) = update(), update(bad)
  assert np.isnan(metrics['policy/sampler_gap'])
  assert metrics['policy/skipped_updates'] == 0
  jax.tree.map(np.testing.assert_array_equal, got.params, want.params)


def test_sampler_weights_by_hand():
  """The loss is weighted; gap, percentile and sample size are of all rows."""
  views = views_of(logprobs.SampledSteps(num_steps=L, max_commits=2), 0, 0)
  ours = np.float64(
    logprobs.read_views(
      TABLE, tiny.table_params(0, L), views, tiny.VOCAB, gen_length=L
    ).logp
  )
  row = np.arange(len(ours))[:, None, None]
  slot, credit = np.asarray(views.slot), np.asarray(views.credit)
  sampled = np.zeros(BATCH.tokens.shape, np.float32)
  noise = np.random.default_rng(0).normal(0, 0.5, ours.shape)
  np.add.at(
    sampled, (np.broadcast_to(row, slot.shape), slot), credit * (ours + noise)
  )
  batch = BATCH._replace(sampler_logp=jnp.asarray(sampled))
  common = {'estimator': 'trajectory', 'num_views': L}
  _, (metrics,) = update(batch, max_sampler_ratio=1.5, **common)
  _, (before,) = update(batch, **common)
  theirs = sampled[row, slot]
  guided = np.asarray(BATCH.guided)[row]
  advantage = np.asarray(BATCH.advantage)[row, slot]
  ratio = np.exp(ours - theirs)
  assert (ratio[credit] > 1.5).any() and (ratio[credit] < 1.5).any()
  count = np.asarray(BATCH.completion_mask).sum()
  scale = np.asarray(views.weight)[..., None] * credit / count
  np.testing.assert_allclose(
    metrics['policy/loss'],
    -(np.minimum(ratio, 1.5) * advantage * scale).sum(),
    rtol=1e-4,
  )
  np.testing.assert_allclose(
    before['policy/loss'], -(advantage * scale).sum(), rtol=1e-4
  )
  free = credit & ~guided
  gap, w = np.abs(ours - theirs)[free], ratio[free]
  for got in (metrics, before):
    np.testing.assert_allclose(
      got['policy/sampler_gap_p99'], np.percentile(gap, 99), rtol=1e-4
    )
    np.testing.assert_allclose(
      got['policy/sampler_ess'],
      w.sum() ** 2 / (len(w) * (w**2).sum()),
      rtol=1e-4,
    )


@pytest.mark.parametrize('guided', [False, True])
def test_kl_by_hand_and_by_kind_of_row(guided):
  weights = {'beta': 0.0, 'guided_beta': 0.3} if guided else {}
  _, (metrics,) = update(step=2, **FREE_KL | weights)
  views = views_of(ONE_STEP, 2, 0)
  ours, theirs = (
    np.float64(
      logprobs.read_views(TABLE, params, views, tiny.VOCAB, gen_length=L).logp
    )[:, 0]
    for params in (tiny.table_params(0, L), REFERENCE)
  )
  d = theirs - ours
  k3 = np.exp(d) - d - 1
  mask = np.asarray(BATCH.completion_mask)
  kinds = {'': mask & ~np.asarray(BATCH.guided)[:, None]}
  kinds['_guided'] = mask & ~kinds['']
  gap = np.abs(ours - np.asarray(BATCH.sampler_logp))
  for kind, rows in kinds.items():
    np.testing.assert_allclose(
      metrics[f'policy/kl{kind}'], k3[rows].mean(), rtol=1e-3
    )
    np.testing.assert_allclose(
      metrics[f'policy/sampler_gap{kind}'], gap[rows].mean(), rtol=1e-4
    )
  share = k3[kinds['_guided' if guided else '']].sum() / mask.sum()
  policy_loss = -(np.asarray(BATCH.advantage) * mask).sum()
  assert share > 0.01
  np.testing.assert_allclose(
    metrics['policy/loss'], policy_loss / mask.sum() + 0.3 * share, rtol=1e-4
  )


def test_eight_devices_equal_one():
  params = tiny.params()
  common = {
    'params': params,
    'estimator': 'trajectory',
  }
  ctx = tiny.context_of(tiny.DENOISER, data=2, fsdp=2, tensor=2)
  one, alone = update(denoiser=tiny.DENOISER, **common)
  sharded = jax.device_put(params, sharding.param_shardings(params, ctx.mesh))
  place = sharding.rows(ctx.mesh)
  two, history = update(
    jax.device_put(BATCH, place),
    ctx=ctx,
    **(common | {'params': sharded}),
  )
  kernel = two.params['layers']['mlp']['up_proj']['kernel']
  assert len(kernel.sharding.device_set) == 8
  near(two.params, one.params, 1e-5)
  for a, b in zip(alone, history, strict=True):
    for what in a:
      np.testing.assert_allclose(a[what], b[what], rtol=1e-4, atol=1e-5)


def test_update_trains_only_adapters():
  cfg = dataclasses.replace(tiny.MODEL, lora_rank=2)
  params = tiny.params(cfg)
  optimizer = optim.make(optim.OptimConfig(learning_rate=0.1, weight_decay=0.1))
  new, _ = update(
    params=params,
    denoiser=transformer.TransformerDenoiser(cfg=cfg),
    optimizer=optimizer,
  )
  changed = jax.tree.map(
    lambda a, b: bool((np.asarray(a) != b).any()), new.params, params
  )
  for path, moved in jax.tree.leaves_with_path(changed):
    assert moved == path[-1].key.startswith('lora_'), path


@pytest.mark.parametrize(
  'wrong', [{'num_inner': 0}, {'num_micro': 0}, {'eps': 0.0}, {'beta': -1.0}]
)
def test_policy_config_refuses_bad_values(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    dataclasses.replace(CFG, **wrong)
