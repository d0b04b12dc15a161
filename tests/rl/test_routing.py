"""Exploration of expert routing: cells, draws, gains, and losses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import types
from dllm_jax.models import transformer
from dllm_jax.rl import paths as paths_lib
from dllm_jax.rl import routing
from tests import tiny, tiny_causal
from tests.models import test_experts

VOCAB = tiny_causal.VOCAB
CFG = test_experts.CFG
LM = transformer.of_config(CFG)
B, N, L, E = 4, 2, 5, 4
CREDIT = jnp.array(
  [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]], bool
)
ROWS = jnp.arange(B)
params = test_experts.params


@functools.cache
def texts():
  ids, mask = tiny.pad(tiny.random_prompts(0, (1, 3, 2, 3)), 3)
  more = np.random.default_rng(3).integers(0, 28, (B, L))
  return paths_lib.Texts(
    tokens=jnp.asarray(np.concatenate([ids, more], 1), jnp.int32),
    attention_mask=jnp.asarray(
      np.concatenate([mask, np.ones((B, L), bool)], 1)
    ),
    credit=CREDIT,
    row_id=ROWS,
  )


@functools.partial(jax.jit, static_argnames=('alpha', 'num_paths'))
def masks(key, alpha, num_paths=3, credit=CREDIT, row_id=ROWS):
  return routing.change_mask(
    key, credit, row_id, num_paths=num_paths, num_layers=N, alpha=alpha
  )


@pytest.mark.parametrize('alpha', [0.0, 0.3, 1.0])
def test_the_number_of_cells_is_exact_and_padding_is_never_one(alpha):
  mask = np.asarray(masks(jax.random.key(0), alpha))
  assert mask.shape == (B, 3, N, L)
  want = [np.round(alpha * N * n) for n in (5, 2, 4, 0)]
  for row in range(B):
    assert (mask[row].sum((1, 2)) == want[row]).all()
  assert not mask[~np.broadcast_to(CREDIT[:, None, None], mask.shape)].any()


def test_cells_differ_by_path_and_depend_on_the_row_alone():
  key = jax.random.key(1)
  mask = np.asarray(masks(key, 0.5))
  assert (mask[0, 0] != mask[0, 1]).any()
  one = masks(jax.random.clone(key), 0.5, 3, CREDIT[2:3], ROWS[2:3])
  np.testing.assert_array_equal(one[0], mask[2])


def test_cells_are_uniform():
  credit = jnp.ones((1, L), bool)
  mask = masks(jax.random.key(2), 0.3, 4000, credit, ROWS[:1])[0]
  share = np.asarray(mask).mean(0)  # [N, L]
  np.testing.assert_allclose(share, 0.3, atol=4 * np.sqrt(0.21 / 4000))


def draws(replacement, mask):
  draw = functools.partial(routing.override, replacement=replacement)
  draw = jax.jit(functools.partial(draw, num_experts=E))
  return draw(jax.random.key(3), jnp.asarray(mask), ROWS)


def test_draws_cover_what_they_may_and_only_perturbed_cells():
  mask = np.asarray(masks(jax.random.key(4), 0.5, 40))
  other = np.asarray(draws('other', mask).offset)
  assert set(np.unique(other[mask])) == {1, 2, 3} and (other[~mask] == 0).all()
  uniform = np.asarray(draws('uniform', mask).expert)
  assert set(np.unique(uniform[mask])) == {0, 1, 2, 3}
  assert (uniform[~mask] == -1).all()
  quantile = np.asarray(draws('router', mask).quantile)
  assert (quantile[~mask] < 0).all() and (quantile[mask] >= 0).all()
  assert quantile.max() < 1


@functools.partial(jax.jit, static_argnames='cfg')
def run(params, override=None, texts=None, cfg=CFG, jitter=None):
  lm = transformer.of_config(cfg)
  return paths_lib.run_paths(lm, params, texts, VOCAB, override, jitter)


def test_paths_equal_runs_of_one_row_with_its_own_override():
  mask = masks(jax.random.key(5), 0.4)
  override = draws('other', mask)
  got = run(params(), override, texts())
  base = run(params(), None, texts())
  assert base.logp.shape == (B, 1, L)
  chosen = np.asarray(base.chosen)
  for row, path in [(0, 0), (1, 2), (2, 1)]:
    offset = np.zeros((N, 1, 8), np.int32)
    offset[:, 0, 2:7] = override.offset[row, path]
    logits, routers = test_experts.routed(
      params(),
      texts().tokens[row : row + 1],
      texts().attention_mask[row : row + 1],
      types.RouterOverride(offset=jnp.asarray(offset)),
    )
    logits = np.asarray(logits)[0, 3:]
    logp = tiny.log_softmax(np.where(np.arange(32) < 30, logits, -np.inf))
    labels = np.asarray(texts().tokens[row, 3:])
    want = np.where(CREDIT[row], logp[np.arange(L), labels], 0.0)
    np.testing.assert_allclose(got.logp[row, path], want, atol=1e-4)
    np.testing.assert_array_equal(
      got.chosen[row, path], routers.chosen[:, 0, 2:7]
    )
    # In the first layer nothing but the override differs from the base.
    where = np.asarray(mask[row, path, 0])
    moved = chosen[row, 0, 0] != np.asarray(got.chosen[row, path, 0])
    np.testing.assert_array_equal(moved[:, 0], where)


def jitter(row_id=ROWS, seed=8):
  return paths_lib.row_jitter(jax.random.key(seed), row_id, 0.5)


@pytest.mark.parametrize(
  'cfg',
  [CFG, dataclasses.replace(test_experts.MIXED, remat='block')],
  ids=['', 'two stacks'],
)
def test_all_paths_of_a_row_have_the_same_jitter(cfg):
  leaves = jax.tree.map(jnp.asarray, tiny.params(cfg))
  go = functools.partial(run, leaves, cfg=cfg)
  base = go(None, texts(), jitter=jitter())
  nothing = types.RouterOverride(offset=jnp.zeros((B, 3, N, L), jnp.int32))
  paths = go(nothing, texts(), jitter=jitter())
  np.testing.assert_allclose(
    paths.logits, np.repeat(base.logits, 3, axis=1), atol=1e-5
  )
  # It depends on the row alone.
  one = jax.tree.map(lambda x: x[2:3], texts())
  got = go(None, one, jitter=jitter(ROWS[2:3])).logits
  np.testing.assert_allclose(got[0], base.logits[2], atol=1e-5)
  for other in (None, jitter(ROWS[3:]), jitter(ROWS[2:3], seed=9)):
    differs = np.asarray(go(None, one, jitter=other).logits - got)
    assert np.abs(differs[:, :, 0]).max() > 0.01


def test_jitter_differs_by_layer_and_row_and_not_by_path():
  class Recorder(Copier):
    num_sparse_layers = N

    def routed_states(self, *args):
      said.append(args[-1])
      return Copier.routed_states(self, *args)

  said = []
  nothing = types.RouterOverride(offset=jnp.zeros((B, 3, N, L), jnp.int32))
  paths_lib.run_paths(Recorder(), {}, texts(), VOCAB, nothing, jitter())
  key = np.asarray(jax.random.key_data(said[0].jitter.key)).reshape(N, B, 3, -1)
  assert (key == key[:, :, :1]).all()
  assert len(np.unique(key[:, :, 0].reshape(N * B, -1), axis=0)) == N * B
  assert said[0].jitter.size.shape == (N, 3 * B)


def test_the_routers_own_choices_as_override_give_the_same_bits():
  """T1, in one compiled function."""
  base = run(params(), None, texts())
  none = types.RouterOverride(expert=jnp.full((B, 1, N, L), -1))
  own = types.RouterOverride(expert=base.chosen[..., 0])
  for x, y in zip(
    run(params(), none, texts()), run(params(), own, texts()), strict=True
  ):
    np.testing.assert_array_equal(x, y)


def test_identical_experts_without_gate_have_no_advantage():
  """T4."""
  cfg = dataclasses.replace(CFG, gate_scale='none')
  experts = jax.tree.map(
    lambda leaf: jnp.repeat(leaf[:, :1], E, axis=1),
    params()['layers']['mlp']['experts'],
  )
  mlp = {**params()['layers']['mlp'], 'experts': experts}
  same = {**params(), 'layers': {**params()['layers'], 'mlp': mlp}}
  mask = masks(jax.random.key(5), 0.4)
  got = run(same, draws('other', mask), texts(), cfg=cfg)
  base = run(same, None, texts(), cfg=cfg)
  logp = jnp.concatenate([base.logp, got.logp], axis=1)
  advantage = routing.advantages(logp, routing.CreditConfig())
  # Not the same bits: the blocks that tokens are sorted into differ.
  assert np.abs(advantage).max() < 1e-6
  got = run(params(), draws('other', mask), texts(), cfg=cfg)
  logp = jnp.concatenate([base.logp, got.logp], axis=1)
  assert np.abs(routing.advantages(logp, routing.CreditConfig())).max() > 1e-3


P = jnp.array([0.5, 0.8, 0.2])  # of the label on three paths


@pytest.mark.parametrize(
  'advantage, baseline, want',
  [
    ('minus', 'top1', [0.0, 0.3, -0.3]),
    ('minus', 'mean', [0.0, 0.3, -0.3]),  # the mean is .5 too
    ('static', 'top1', [0.0, 1.0, -1.0]),
    ('positive', 'top1', [0.0, 0.3, 0.0]),
    ('clip', 'top1', [0.0, 0.3, -0.3]),
    ('log', 'top1', [0.0, np.log(1.6), np.log(0.4)]),
  ],
)
def test_advantages_by_hand(advantage, baseline, want):
  cfg = routing.CreditConfig(advantage=advantage, baseline=baseline)
  logp = jnp.log(P).reshape(1, 3, 1)
  got = routing.advantages(logp, cfg)[0, :, 0]
  np.testing.assert_allclose(got, want, atol=1e-6)
  total = lambda logp: jnp.sum(routing.advantages(logp, cfg))
  assert np.abs(jax.grad(total)(logp)).max() == 0.0


def test_the_mean_baseline_by_hand():
  cfg = routing.CreditConfig(baseline='mean')
  logp = jnp.log(jnp.array([0.6, 0.3, 0.0 + 0.3])).reshape(1, 3, 1)
  got = routing.advantages(logp, cfg)[0, :, 0]
  np.testing.assert_allclose(got, [0.2, -0.1, -0.1], atol=1e-6)


def test_importance_weights_by_hand():
  logp = jnp.log(jnp.array([0.1, 0.5, 0.9]))
  mask = jnp.array([True, True, False])
  weigh = functools.partial(routing.importance, logp, mask, num_experts=4)
  other = weigh(replacement='other', most=1.2)  # mu = 1/3
  np.testing.assert_allclose(other, [0.3, 1.2, 1.0], rtol=1e-6)
  uniform = weigh(replacement='uniform', most=5.0)  # mu = 1/4
  np.testing.assert_allclose(uniform, [0.4, 2.0, 1.0], rtol=1e-6)
  assert (weigh(replacement='router', most=5.0) == 1).all()
  assert (weigh(replacement='other', most=0.0) == 1).all()


def policy(logp, loss='reinforce', advantage=None, mask=None):
  """Two rows, two paths, two layers, one label."""
  if mask is None:
    mask = jnp.array([[[1, 0], [1, 0]], [[1, 0], [0, 0]]], bool)[..., None]
  if advantage is None:
    advantage = jnp.array([[[2.0, 9], [3, 9]], [[-1, 9], [9, 9]]])[..., None]
  return routing.policy_loss(
    logp,
    advantage,
    mask,
    jnp.sum(mask, axis=(0, 3), dtype=jnp.float32),
    loss=loss,
    eps=0.2,
  )


LOGP = jnp.log(
  jnp.array([[[0.5, 0.1], [0.25, 0.1]], [[0.5, 0.1], [0.1, 0.1]]])
)[..., None]


def test_the_policy_loss_by_hand():
  # Path 0, layer 0: two cells, (2 - 1) ln .5 / 2; path 1: 3 ln .25 / 1; the
  # other two (path, layer) have no cell and add 0.
  want = -(np.log(0.5) / 2 + 3 * np.log(0.25)) / 4
  np.testing.assert_allclose(policy(LOGP), want, rtol=1e-6)


def test_ppo_and_reinforce_have_the_same_gradient_for_any_number_of_rows():
  """T5, P2."""
  rng = np.random.default_rng(0)
  for rows in (1, 3):
    draw = lambda: jnp.asarray(rng.standard_normal((rows, 2, N, L)))  # noqa: B023
    logp, advantage = -jnp.abs(draw()), draw()
    mask = draw() > 0
    grads = [
      jax.grad(policy)(logp, loss, advantage, mask)
      for loss in ('reinforce', 'ppo')
    ]
    np.testing.assert_allclose(*grads, rtol=1e-6)
    assert np.abs(grads[0]).max() > 0
  assert policy(LOGP, 'ppo') != policy(LOGP)


def test_no_cell_has_no_loss_and_no_gradient():
  """T2."""
  mask = jnp.zeros((2, 2, 2, 1), bool)
  value, grad = jax.value_and_grad(policy)(LOGP, 'reinforce', None, mask)
  assert value == 0.0 and (grad == 0).all()


def router_loss(kernel, advantage, mask, override):
  """L_RL as a function of the routers' kernels, advantages frozen."""
  mlp = {**params()['layers']['mlp'], 'gate': {'kernel': kernel}}
  leaves = {**params(), 'layers': {**params()['layers'], 'mlp': mlp}}
  leaves = jax.tree.map(jnp.asarray, leaves)
  paths = paths_lib.run_paths(LM, leaves, texts(), VOCAB, override)
  logp = routing.first_logp(paths)
  wide = jnp.broadcast_to(advantage[:, :, None], logp.shape)
  count = jnp.sum(mask, axis=(0, 3), dtype=jnp.float32)
  return routing.policy_loss(logp, wide, mask, count, loss='reinforce', eps=0.2)


def test_the_gradient_of_the_router_by_finite_differences():
  """T5. Experts are forced, so that the loss has no steps."""
  mask = masks(jax.random.key(6), 1.0)
  override = draws('uniform', mask)
  rng = np.random.default_rng(1)
  advantage = jnp.asarray(rng.standard_normal((B, 3, L)), jnp.float32)
  advantage = jnp.where(CREDIT[:, None], advantage, 0.0)
  loss = jax.jit(lambda k: router_loss(k, advantage, mask, override))
  kernel = jnp.asarray(params()['layers']['mlp']['gate']['kernel'])
  grad = jax.jit(jax.grad(loss))(kernel)
  for _ in range(2):
    way = jnp.asarray(rng.standard_normal(kernel.shape), jnp.float32)
    way /= jnp.linalg.norm(way)
    slope = (loss(kernel + 0.05 * way) - loss(kernel - 0.05 * way)) / 0.1
    np.testing.assert_allclose(slope, jnp.sum(grad * way), rtol=0.05, atol=2e-4)


@dataclasses.dataclass(frozen=True)
class Copier:
  """A 'language model' that predicts the token it has just read."""

  def routed_states(self, params, tokens, attention_mask, query, override=None):
    del params, attention_mask, override
    states = jax.nn.one_hot(tokens, 32) * 30.0
    shape = (1, *tokens.shape)
    said = types.RouterOutputs(
      jnp.zeros((*shape, E)), jnp.zeros((*shape, 1), jnp.int32)
    )
    column = jnp.maximum(query - 1, 0)  # the token before the label
    return jnp.take_along_axis(states, column[..., None], axis=1), said

  def unembed(self, params, states):
    return states

  num_experts, num_sparse_layers = E, 1
  states = __call__ = with_routers = lambda self, *args: None


def test_a_model_that_copies_its_input_has_no_reward():
  """T7: the label is the next token."""
  tokens = jnp.arange(10, 18)[None]  # no token twice
  rows = paths_lib.Texts(
    tokens, jnp.ones((1, 8), bool), jnp.ones((1, 5), bool), jnp.arange(1)
  )
  paths = paths_lib.run_paths(Copier(), {}, rows, VOCAB)
  assert (np.exp(paths.logp) < 1e-6).all()
  same = rows._replace(tokens=jnp.full((1, 8), 7))
  paths = paths_lib.run_paths(Copier(), {}, same, VOCAB)
  assert (np.exp(paths.logp) > 0.99).all()


def test_shuffled_keeps_the_values_of_what_is_credited():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((B, 3, L)), jnp.float32)
  wide = np.broadcast_to(CREDIT[:, None], x.shape).copy()
  wide[:, 0] = False
  got = routing.shuffled(jax.random.key(0), x, jnp.asarray(wide))
  np.testing.assert_array_equal(np.sort(got[wide]), np.sort(x[wide]))
  assert (np.asarray(got)[~wide] == 0).all()
  assert np.abs(np.asarray(got - x))[wide].max() > 0.1


def test_balance_by_hand():
  logits = jnp.log(jnp.array([[[[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]]]]))
  chosen = jnp.array([[[[0], [0], [1]]]])
  mask = jnp.array([[True, True, False]])  # the third is padding
  # f = (1, 0), P = (.625, .375): 2 (1 * .625).
  one = routing.balance_loss(logits, chosen, mask, pooled=False)
  np.testing.assert_allclose(one, 1.25, rtol=1e-6)
  both = jnp.concatenate([logits, logits[..., ::-1]])
  other = jnp.concatenate([chosen, 1 - chosen])
  by_layer = routing.balance_loss(both, other, mask, pooled=False)
  np.testing.assert_allclose(by_layer, 1.25, rtol=1e-6)
  pooled = routing.balance_loss(both, other, mask, pooled=True)
  np.testing.assert_allclose(pooled, 1.0, rtol=1e-6)


def test_z_by_hand():
  logits = jnp.array([[[[0.0, 0.0], [3.0, 3.0]]]])
  mask = jnp.array([[True, False]])
  np.testing.assert_allclose(
    routing.z_loss(logits, mask), np.log(2) ** 2, rtol=1e-6
  )


@pytest.mark.parametrize('name', ['olmoe', 'qwen3_moe'])
def test_the_recorded_balance_loss(shared_dir, name):
  want = tiny.recorded(shared_dir / 'golden' / f'{name}_tiny', 'golden.npz')
  logits = jnp.asarray(want['router_logits'])[:, None]
  chosen = jax.lax.top_k(logits, 2)[1]
  mask = jnp.ones(logits.shape[1:3], bool)
  got = routing.balance_loss(logits, chosen, mask, pooled=True)
  np.testing.assert_allclose(got, want['aux_loss'], rtol=1e-5)


def test_wrong_values_are_one_line():
  explore = functools.partial(routing.ExploreConfig, num_paths=3)
  with pytest.raises(ValueError, match=r'alpha 1.5 is not in \[0, 1\]'):
    explore(alpha=1.5)
  with pytest.raises(ValueError, match="replacement 'any': expected one of"):
    explore(alpha=0.1, replacement='any')
  with pytest.raises(ValueError, match='num_paths is 0: there is nothing to'):
    routing.ExploreConfig(num_paths=0, alpha=0.1)
  with pytest.raises(ValueError, match="advantage 'plus': expected one of"):
    routing.CreditConfig(advantage='plus')
