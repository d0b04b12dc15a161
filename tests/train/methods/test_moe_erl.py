"""MoE-ERL: its losses, controls, starts, and one update."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dllm_jax import errors, types
from dllm_jax.decoding import autoregressive
from dllm_jax.models import transformer, upcycle
from dllm_jax.rl import paths as paths_lib
from dllm_jax.rl import routing
from dllm_jax.rollout import batch, demonstrations
from dllm_jax.tasks import tagged_functions
from dllm_jax.train import state as state_lib
from dllm_jax.train.methods import moe_erl, specialists
from tests import tiny
from tests.models import test_experts
from tests.rl import test_routing as made

VOCAB, TEXTS = made.VOCAB, made.texts()
CFG = dataclasses.replace(test_experts.CFG, gate_scale='none')
LM = transformer.of_config(CFG)
PLAIN = moe_erl.MoeErlConfig(
  explore=routing.ExploreConfig(num_paths=2, alpha=0.5),
  credit=routing.CreditConfig(),
  rl_weight=1.0,
  path_weight=0.0,
  path_sum=False,
  lm_weight=1.0,
  balance_weight=0.01,
  z_weight=0.001,
  pooled=False,
  router_only=False,
  jitter=0.0,
  num_micro=1,
  start='',
  study=routing.ExploreConfig(num_paths=4, alpha=0.5),
)
AUX = dataclasses.replace(PLAIN, rl_weight=0.0)
ALONE = dataclasses.replace(
  PLAIN, lm_weight=0.0, balance_weight=0.0, z_weight=0.0
)


def params():
  return jax.tree.map(jnp.asarray, test_experts.params())


@functools.partial(jax.jit, static_argnames=('cfg', 'alpha'))
def losses(params, cfg, alpha=0.5):
  """(value, metrics), gradient of one micro-batch that is the whole batch."""
  explored = dataclasses.replace(cfg.explore, alpha=alpha)
  texts = TEXTS
  micro = moe_erl.explore(jax.random.key(0), texts, explored, LM)
  whole = moe_erl.Whole(
    jnp.sum(texts.credit, dtype=jnp.float32),
    jnp.sum(micro.mask, axis=(0, 3), dtype=jnp.float32),
  )
  loss = lambda params: moe_erl.micro_loss(
    LM, params, micro, whole, jax.random.key(1), vocab=VOCAB, cfg=cfg
  )
  return jax.value_and_grad(loss, has_aux=True)(params)


def router(tree):
  layers = tree['layers'].get('sparse', tree['layers'])
  return np.asarray(layers['mlp']['gate']['kernel'])


def below(tree):
  return np.asarray(tree['layers']['self_attn']['q_proj']['kernel'])


def test_without_perturbed_cells_it_is_the_auxiliary_arm():
  """T2: alpha = 0 gives no L_RL, and the baseline's gradients."""
  (value, metrics), grads = losses(params(), PLAIN, 0.0)
  (want, plain), want_grads = losses(params(), AUX)
  assert metrics['method/rl_loss'] == 0.0 and 'method/rl_loss' not in plain
  assert value == want
  jax.tree.map(  # two programs: sums are in another order
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    grads,
    want_grads,
  )
  _, grads = losses(params(), ALONE, 0.0)
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


def test_the_loss_is_the_sum_of_its_terms():
  (value, metrics), _ = losses(params(), PLAIN)
  want = metrics['method/lm_loss'] + metrics['method/rl_loss']
  want += 0.01 * metrics['method/balance'] + 0.001 * metrics['method/z']
  np.testing.assert_allclose(value, want, rtol=1e-6)
  (wpl, _), _ = losses(params(), dataclasses.replace(PLAIN, path_weight=2.0))
  (total, _), _ = losses(
    params(), dataclasses.replace(PLAIN, path_weight=1.0, path_sum=True)
  )
  # The mean over two paths twice is their sum.
  np.testing.assert_allclose(wpl, total, rtol=1e-6)
  assert wpl > value


def test_rl_alone_reaches_the_router_without_a_gate():
  zero = dataclasses.replace(AUX, balance_weight=0.0, z_weight=0.0)
  _, plain = losses(params(), zero)
  assert np.abs(router(plain)).max() == 0.0
  _, rl = losses(params(), ALONE)
  assert np.abs(router(rl)).max() > 0 and np.abs(below(rl)).max() > 0
  only = dataclasses.replace(ALONE, router_only=True)
  _, grads = losses(params(), only)
  assert np.abs(router(grads)).max() > 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    if 'gate' not in [key.key for key in path]:
      assert np.abs(leaf).max() == 0.0, path


def test_micro_batches_add_up():
  texts = TEXTS
  micro = moe_erl.explore(jax.random.key(0), texts, PLAIN.explore, LM)
  whole = moe_erl.Whole(
    jnp.sum(texts.credit, dtype=jnp.float32),
    jnp.sum(micro.mask, axis=(0, 3), dtype=jnp.float32),
  )
  cfg = dataclasses.replace(PLAIN, balance_weight=0.0, z_weight=0.0)
  run = jax.jit(
    lambda micro: moe_erl.micro_loss(
      LM, params(), micro, whole, jax.random.key(1), vocab=VOCAB, cfg=cfg
    )[0]
  )
  halves = [
    jax.tree.map(lambda x: x[i::2], micro)  # noqa: B023
    for i in range(2)
  ]
  np.testing.assert_allclose(sum(map(run, halves)), run(micro), rtol=1e-4)


def make(cfg=PLAIN, denoiser=LM, **sizes):
  ctx = dataclasses.replace(
    tiny.context_of(denoiser, **sizes), vocab=VOCAB, task=TASK
  )
  rollout = batch.RolloutConfig(
    decoder=autoregressive.Autoregressive(gen_length=5),
    num_prompts=4,
    group_size=1,
    max_prompt_length=3,
  )
  method = moe_erl.MoeErl(
    cfg=cfg, ctx=ctx, rollout=rollout, optimizer=SGD, reference={}
  )
  return method, ctx, rollout


SGD = optax.sgd(0.1)
TASK = tagged_functions.TaggedFunctions(
  num_tags=2, num_symbols=8, num_given=1, length=5
)


def rows():
  texts = TEXTS
  return demonstrations.Demonstrations(
    texts.tokens[:, :3], texts.attention_mask[:, :3], texts.tokens[:, 3:]
  )


@pytest.mark.parametrize(
  'cfg',
  [PLAIN, dataclasses.replace(PLAIN, jitter=0.5)],
  ids=['plain', 'jitter'],
)
def test_an_update_is_the_same_on_a_mesh(cfg):
  def step(cfg=cfg, **sizes):
    method, _, _ = make(cfg, **sizes)
    state = state_lib.create(params(), SGD)
    return method.update(state, rows(), 3)

  (one, metrics), (four, other) = step(), step(data=2, fsdp=2)
  assert metrics[0]['policy/skipped_updates'] == 0
  np.testing.assert_allclose(
    metrics[0]['policy/loss'], other[0]['policy/loss'], atol=1e-5
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    one.params,
    four.params,
  )
  assert np.abs(router(one.params) - router(params())).max() > 1e-5


def test_jitter_is_that_of_the_row_in_any_micro_batch():
  def step(jitter, num_micro=1):
    cfg = dataclasses.replace(
      PLAIN,
      jitter=jitter,
      num_micro=num_micro,
      balance_weight=0.0,
      z_weight=0.0,
    )
    state, _ = make(cfg)[0].update(state_lib.create(params(), SGD), rows(), 3)
    return router(state.params)

  whole = step(0.5)
  np.testing.assert_allclose(step(0.5, num_micro=2), whole, atol=1e-6)
  assert np.abs(step(0.0) - whole).max() > 1e-5


def test_experts_of_specialists_see_their_own_label_alone():
  method = specialists.Specialists(
    ctx=make()[1], optimizer=SGD, gen_length=5, num_micro=1
  )
  one = specialists.Labelled(rows(), jnp.full(4, 2, jnp.int32))
  full = jnp.ones((4, 3), bool)
  # Prompts of one token, so that no prompt goes to a random expert.
  short = one.rows._replace(prompt_ids=one.rows.prompt_ids[:, -1:])
  one = one._replace(rows=short._replace(prompt_mask=full[:, -1:]))
  state = state_lib.create(params(), SGD)
  state, metrics = method.update(state, one, 0)
  before = test_experts.params()['layers']['mlp']['experts']
  moved = np.abs(
    np.asarray(state.params['layers']['mlp']['experts']['up_proj']['kernel'])
    - before['up_proj']['kernel']
  ).max((0, 2, 3))
  # All tokens of the completion go to the label's expert.
  assert moved[2] > 1e-6 and (moved[[0, 1, 3]] == 0).all()
  assert np.isfinite(metrics[0]['sft/loss'])


@pytest.mark.parametrize('sparse_every', [1, 2])
@pytest.mark.parametrize('kind', ['swiglu', 'gelu'])
@pytest.mark.parametrize('shared_size', [0, 6])
def test_an_upcycled_model_computes_what_the_dense_one_does(
  kind, sparse_every, shared_size
):
  cfg = dataclasses.replace(
    CFG, sparse_every=sparse_every, shared_size=shared_size
  )
  if kind == 'gelu':
    cfg = dataclasses.replace(
      cfg, **tiny.GPT2 | {'feed_forward': 'gelu_experts'}
    )
  dense = cfg.dense()
  assert (dense.feed_forward, dense.num_experts) == (kind, 0)
  own, fresh = tiny.params(dense), tiny.params(cfg)
  made_of = upcycle.upcycle(own, fresh)
  columns = jnp.broadcast_to(jnp.arange(7)[None], test_experts.IDS.shape)
  args = test_experts.IDS, test_experts.MASK, columns
  want = jax.jit(transformer.of_config(dense))(own, *args)
  got = jax.jit(transformer.of_config(cfg))(made_of, *args)
  np.testing.assert_allclose(got, want, atol=1e-5)
  np.testing.assert_array_equal(router(made_of), router(fresh))


def bandit(rl_weight: float) -> float:
  """P(best expert) after training the router of one layer on one token."""
  cfg = dataclasses.replace(CFG, num_layers=1)
  lm = transformer.of_config(cfg)
  leaves = jax.tree.map(jnp.asarray, tiny.params(cfg, 3))
  flat = jax.tree.map(lambda x: 0.01 * x, leaves)
  leaves = lm.with_routers(leaves, flat)
  texts = paths_lib.Texts(
    jnp.full((8, 6), 3), jnp.ones((8, 6), bool), jnp.ones((8, 5), bool), ROWS
  )
  method = dataclasses.replace(ALONE, rl_weight=rl_weight, router_only=True)
  if not rl_weight:  # the language-model loss, which does not reach the router
    method = dataclasses.replace(method, lm_weight=1.0)
  optimizer = optax.adam(0.05)

  @jax.jit
  def step(leaves, opt_state, key):
    micro = moe_erl.explore(key, texts, method.explore, lm)
    whole = moe_erl.Whole(
      jnp.sum(texts.credit, dtype=jnp.float32),
      jnp.sum(micro.mask, axis=(0, 3), dtype=jnp.float32),
    )
    loss = lambda p: moe_erl.micro_loss(
      lm, p, micro, whole, jax.random.key(0), vocab=VOCAB, cfg=method
    )[0]
    updates, opt_state = optimizer.update(jax.grad(loss)(leaves), opt_state)
    return optax.apply_updates(leaves, updates), opt_state

  @jax.jit
  def forced(leaves, expert):
    expert = jnp.broadcast_to(expert, (8, 1, 1, 5))
    override = types.RouterOverride(expert=expert)
    return paths_lib.run_paths(lm, leaves, texts, VOCAB, override)

  logp = [forced(leaves, e).logp.mean() for e in range(4)]
  opt_state = optimizer.init(leaves)
  for i in range(100):
    leaves, opt_state = step(leaves, opt_state, jax.random.key(i))
  probs = jax.nn.softmax(forced(leaves, 0).logits, axis=-1)
  return float(probs[..., int(np.argmax(logp))].mean())


ROWS = jnp.arange(8)


def test_a_bandit_finds_the_best_expert():
  """T8; without RL and without a gate the router stays at chance."""
  assert bandit(1.0) > 0.95
  assert abs(bandit(0.0) - 0.25) < 0.05


def test_what_does_not_fit_is_one_line():
  def refuse(line, cfg=PLAIN, denoiser=LM, **changes):
    _, ctx, rollout = make(cfg, denoiser)
    rollout = dataclasses.replace(rollout, **changes)
    with pytest.raises(errors.UserError, match=line) as e:
      cfg.check(ctx, rollout)
    assert '\n' not in str(e.value)

  dense = transformer.TransformerCausalLM(
    cfg=dataclasses.replace(
      CFG, feed_forward='swiglu', num_experts=0, experts_per_token=0
    )
  )
  refuse("has none: set model.feed_forward='experts'", denoiser=dense)
  masked = transformer.of_config(dataclasses.replace(CFG, causal=False))
  refuse('not causal: set model.causal=True', denoiser=masked)
  few = transformer.of_config(
    dataclasses.replace(CFG, num_experts=1, experts_per_token=1)
  )
  refuse('num_experts=2 or more', denoiser=few)
  merged = dataclasses.replace(PLAIN, start='merged')
  _, ctx, rollout = make(merged)
  merged.check(ctx, rollout)
  many = dataclasses.replace(TASK, num_tags=5)
  with pytest.raises(errors.UserError, match='has 5 labels and the model 4'):
    merged.check(dataclasses.replace(ctx, task=many), rollout)
  three = dataclasses.replace(PLAIN, num_micro=3)
  refuse('do not split into method.num_micro=3', three)


@pytest.mark.parametrize(
  'changes, line',
  [
    (
      {'explore': routing.ExploreConfig(num_paths=1, alpha=0.0)},
      r'explore.alpha 0.0 is not in \(0, 1\]',
    ),
    ({'start': 'warm'}, "start 'warm': expected one of"),
    ({'rl_weight': -1.0}, 'rl_weight -1.0 is negative'),
    ({'num_micro': 0}, 'num_micro 0 is not positive'),
    ({'jitter': 1.5}, r'jitter 1.5 is not in \[0, 1\]'),
  ],
)
def test_wrong_values_are_one_line(changes, line):
  with pytest.raises(ValueError, match=line):
    dataclasses.replace(PLAIN, **changes)
