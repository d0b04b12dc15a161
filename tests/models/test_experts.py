"""Mixtures of experts: routing, gates, capacity, overrides, and their stack."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import errors, types
from dllm_jax.models import (
  attention,
  feed_forward,
  stack,
  transformer,
  upcycle,
)
from dllm_jax.ops import schedules
from dllm_jax.runtime import sharding
from tests import tiny

CFG = dataclasses.replace(
  tiny.MODEL,
  causal=True,
  feed_forward='experts',
  num_experts=4,
  experts_per_token=1,
  router_init_std=1.0,
)
LM = transformer.of_config(CFG)
REAL = jnp.ones((2, 5), bool)


@functools.cache
def params():
  return tiny.params(CFG)


def apply(cfg, x):
  leaves = jax.tree.map(lambda leaf: leaf[0], params()['layers']['mlp'])
  layer = jax.jit(feed_forward.Experts(cfg).apply)
  return layer({'params': leaves}, x, REAL)


def by_hand(cfg, x):
  """Loops over tokens and experts, in float64."""
  mlp = jax.tree.map(
    lambda leaf: np.float64(leaf[0]), params()['layers']['mlp']
  )
  y = np.zeros(x.shape)
  for place in np.ndindex(x.shape[:2]):
    token = np.float64(x[place])
    logits = token @ mlp['gate']['kernel']
    p = np.exp(logits) / np.exp(logits).sum()
    best = np.argsort(-p)[: cfg.experts_per_token]
    scale = {
      'probability': 1.0,
      'normalized': 1 / p[best].sum(),
      'none': None,
    }[cfg.gate_scale]
    for e in best:
      kernel = lambda name, e=e: mlp['experts'][f'{name}_proj']['kernel'][e]
      hidden = token @ kernel('gate')
      hidden = hidden / (1 + np.exp(-hidden)) * (token @ kernel('up'))
      g = 1 / len(best) if scale is None else scale * p[e]
      y[place] += g * hidden @ kernel('down')
  return y


@pytest.mark.parametrize('gate_scale', ['probability', 'normalized', 'none'])
@pytest.mark.parametrize('count', [1, 3])
def test_a_layer_equals_numpy(count, gate_scale):
  cfg = dataclasses.replace(CFG, experts_per_token=count, gate_scale=gate_scale)
  x = jax.random.normal(jax.random.key(0), (2, 5, 16))
  y, beside = apply(cfg, x)
  np.testing.assert_allclose(y, by_hand(cfg, x), rtol=1e-3, atol=1e-5)
  assert beside['logits'].dtype == jnp.float32
  order = np.argsort(-np.asarray(beside['logits']), axis=-1)
  np.testing.assert_array_equal(beside['chosen'], order[..., :count])


GELU = dataclasses.replace(CFG, **tiny.GPT2 | {'feed_forward': 'gelu_experts'})


@pytest.mark.parametrize('name', ['dense', 'ragged', 'blocked'])
def test_gelu_experts_have_biases_of_their_own(name):
  cfg = dataclasses.replace(GELU, dispatch=name, experts_per_token=2)
  leaves = tiny.params(GELU)['layers']['mlp']
  leaves = jax.tree.map(lambda leaf: leaf[0], leaves)
  x = jax.random.normal(jax.random.key(0), (2, 5, 16))
  layer = jax.jit(feed_forward.Experts(cfg).apply)
  y, beside = layer({'params': leaves}, x, REAL)
  dense = dataclasses.replace(
    GELU, feed_forward='gelu', num_experts=0, experts_per_token=0
  )
  of = lambda e: feed_forward.Gelu(dense).apply(
    {'params': jax.tree.map(lambda leaf: leaf[e], leaves['experts'])}, x
  )[0]
  every = np.stack([of(e) for e in range(4)], axis=2)
  p = np.asarray(jax.nn.softmax(beside['logits'], axis=-1))
  hot = np.eye(4)[np.asarray(beside['chosen'])].sum(2)
  want = np.einsum('bse,bsed->bsd', hot * p, every)
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_the_router_is_float32_in_a_model_of_bfloat16():
  cfg = dataclasses.replace(CFG, dtype='bfloat16', param_dtype='float32')
  x = jax.random.normal(jax.random.key(0), (2, 5, 16)).astype(jnp.bfloat16)
  y, beside = apply(cfg, x)
  kernel = params()['layers']['mlp']['gate']['kernel'][0]
  want = np.float64(x.astype(jnp.float32)) @ np.float64(kernel)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(beside['logits'], want, rtol=1e-5, atol=1e-5)


def test_the_gate_decides_whether_the_loss_reaches_the_router():
  x = jax.random.normal(jax.random.key(0), (2, 5, 16))
  leaves = jax.tree.map(lambda leaf: leaf[0], params()['layers']['mlp'])

  def gradient(gate_scale):
    cfg = dataclasses.replace(CFG, gate_scale=gate_scale)
    layer = feed_forward.Experts(cfg)
    loss = lambda p: jnp.sum(layer.apply({'params': p}, x, REAL)[0] ** 2)
    return np.abs(jax.jit(jax.grad(loss))(leaves)['gate']['kernel']).max()

  assert gradient('none') == 0.0
  assert gradient('probability') > 1e-3


def one_layer(**fields):
  return types.RouterOverride(
    **{k: jnp.asarray(v)[None] for k, v in fields.items()}
  )


def test_overrides_by_hand():
  logits = jnp.log(jnp.array([[[0.1, 0.2, 0.3, 0.4]] * 5]))  # best is 3
  choose = lambda count=1, **fields: feed_forward.choose(
    logits, count, one_layer(**fields)
  )[0, :, 0].tolist()
  assert choose(expert=[-1, 0, 1, 2, 3]) == [3, 0, 1, 2, 3]
  assert choose(offset=[0, 1, 2, 3, 4]) == [3, 0, 1, 2, 3]
  # Cumulative: .1, .3, .6, 1.
  assert choose(quantile=[-1.0, 0.05, 0.25, 0.35, 0.99]) == [3, 0, 1, 2, 3]
  # The first choice is replaced; the others are the best of the rest.
  both = feed_forward.choose(logits, 2, one_layer(expert=[-1, 0, 1, 2, 3]))
  assert both[0].tolist() == [[3, 2], [0, 3], [1, 3], [2, 3], [3, 2]]


def test_quantiles_sample_the_router():
  p = np.array([0.1, 0.2, 0.3, 0.4])
  u = jax.random.uniform(jax.random.key(0), (1, 4000))
  logits = jnp.broadcast_to(jnp.log(p), (1, 4000, 4)).astype(jnp.float32)
  drawn = jax.jit(feed_forward.replaced)(
    logits, types.RouterOverride(quantile=u)
  )
  share = np.bincount(np.asarray(drawn[0]), minlength=4) / 4000
  np.testing.assert_allclose(share, p, atol=4 * 0.5 / np.sqrt(4000))


def test_capacity_by_hand():
  chosen = jnp.array([[[0], [1], [0], [0], [1]], [[0], [0], [0], [1], [0]]])
  real = jnp.array([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]], bool)
  kept = feed_forward.within_capacity(
    chosen, real, 2, jnp.full(len(real), 2.0)
  )[..., 0]
  assert kept.tolist() == [
    [True, True, True, False, True],
    [False, True, True, True, False],  # padding takes no place
  ]


@pytest.mark.parametrize(
  ('factor', 'places'), [(0.8, 1), (1.0, 2), (1.6, 2), (1.7, 3)]
)
def test_the_capacity_is_rounded_up(factor, places):
  """Of 5 tokens, an expert of 4 has ceil(factor 5 / 4) places."""
  x = jax.random.normal(jax.random.key(0), (2, 5, 16))
  cfg = dataclasses.replace(CFG, capacity_factor=factor)
  _, beside = apply(cfg, x)
  want = feed_forward.within_capacity(
    beside['chosen'], REAL, 4, jnp.full(2, float(places))
  )
  np.testing.assert_array_equal(beside['kept'], want)


def test_which_queries_are_real_by_hand():
  """Two queries behind three cached columns; a column is real if it reads
  itself."""
  allowed = jnp.array(
    [
      [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
      [[0, 1, 1, 1, 0], [0, 1, 1, 1, 0]],
    ],
    bool,
  )
  got = stack._is_real(allowed)
  np.testing.assert_array_equal(got, [[True, True], [True, False]])


def test_a_full_expert_adds_nothing():
  x = jax.random.normal(jax.random.key(0), (2, 5, 16))
  whole, _ = apply(CFG, x)
  # ceil(0.8 * 5 / 4) = 1 token of an expert and row.
  cfg = dataclasses.replace(CFG, capacity_factor=0.8)
  y, beside = apply(cfg, x)
  kept = np.asarray(beside['kept'])[..., 0]
  assert 0 < kept.sum() < kept.size
  np.testing.assert_allclose(y, np.where(kept[..., None], whole, 0.0))


@functools.partial(jax.jit, static_argnames=('cfg', 'layout'))
def routed(params, ids, mask, override=None, *, cfg=CFG, layout=None):
  lm = transformer.of_config(cfg)
  lm = dataclasses.replace(lm, layout=layout) if layout else lm
  columns = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
  states, routers = lm.routed_states(params, ids, mask, columns, override)
  return lm.unembed(params, states), routers


IDS, MASK = tiny.pad(tiny.random_prompts(1, (4, 6, 7, 5)), 7)


def test_no_override_is_the_model_and_a_repeated_choice_changes_nothing():
  logits, routers = routed(params(), IDS, MASK)
  columns = jnp.broadcast_to(jnp.arange(7)[None], IDS.shape)
  plain = jax.jit(LM)(params(), IDS, MASK, columns)
  np.testing.assert_array_equal(logits, plain)
  assert routers.logits.shape == (2, 4, 7, 4)
  same = types.RouterOverride(expert=routers.chosen[..., 0])
  again, _ = routed(params(), IDS, MASK, same)
  np.testing.assert_allclose(again, logits, atol=1e-6)


def test_an_override_reaches_its_token_and_those_after_it():
  """The layer, row and column that it names, and nothing before."""
  _, routers = routed(params(), IDS, MASK)
  chosen = np.asarray(routers.chosen[..., 0])
  expert = np.full(chosen.shape, -1, np.int32)
  expert[1, 2, 3] = (chosen[1, 2, 3] + 1) % 4
  before, _ = routed(params(), IDS, MASK)
  after, said = routed(params(), IDS, MASK, types.RouterOverride(expert=expert))
  want = chosen.copy()
  want[1, 2, 3] = expert[1, 2, 3]
  np.testing.assert_array_equal(said.chosen[..., 0], want)
  # Column q is read from the state of column q - 1.
  moved = np.abs(np.asarray(after) - np.asarray(before)).max(-1) > 1e-6
  assert moved.sum() == 1 and moved[2, 4]


@pytest.mark.parametrize('name', ['ragged', 'dense'])
def test_every_dispatch_is_the_same_model(name):
  cfg = dataclasses.replace(CFG, dispatch=name)
  np.testing.assert_allclose(
    routed(params(), IDS, MASK, cfg=cfg)[0],
    routed(params(), IDS, MASK)[0],
    atol=1e-5,
  )


@pytest.mark.parametrize(
  'cfg',
  [
    CFG,
    GELU,
    dataclasses.replace(GELU, sparse_every=2),
    dataclasses.replace(CFG, shared_size=6),
    dataclasses.replace(GELU, shared_size=6),
  ],
  ids=['swiglu', 'gelu', 'two stacks', 'shared', 'shared gelu'],
)
@pytest.mark.parametrize('sizes', [{'fsdp': 4}, {'fsdp': 2, 'tensor': 2}])
def test_divided_experts_are_the_same_model(sizes, cfg):
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1, **sizes))
  params = tiny.params(cfg)
  places = sharding.param_shardings(params, mesh)
  layers = places['layers'].get('sparse', places['layers'])
  experts = layers['mlp']['experts']['up_proj']['kernel']
  assert experts.spec[1] == 'fsdp'
  lm = transformer.of_config(cfg).placed(mesh)
  with jax.set_mesh(mesh):
    placed = jax.device_put(params, places)
    got, _ = routed(placed, IDS, MASK, cfg=cfg, layout=lm.layout)
  want, _ = routed(params, IDS, MASK, cfg=cfg)
  np.testing.assert_allclose(got, want, atol=1e-5)


# Layers 2 and 5 of six have experts.
MIXED = dataclasses.replace(CFG, num_layers=6, sparse_every=3)
EVERY_COLUMN = jnp.broadcast_to(jnp.arange(7)[None], IDS.shape)


def in_turn(params, override=None):
  """Logits of `MIXED`, a block at a time."""
  mask = jnp.asarray(MASK)
  position = schedules.positions(mask)
  allowed = attention.visible(position, position, mask, block=1)
  states = jnp.asarray(params['embed_tokens'])[IDS]
  for layer in range(6):
    kind, i = ('sparse', layer // 3) if layer % 3 == 2 else ('dense', None)
    i = layer // 3 * 2 + layer % 3 if i is None else i
    cfg = MIXED if kind == 'sparse' else MIXED.dense()
    own = jax.tree.map(lambda leaf: leaf[i], params['layers'][kind])  # noqa: B023
    expert = None
    if override is not None and kind == 'sparse':
      expert = types.RouterOverride(expert=override[i])
    states, _ = jax.jit(stack.Block(cfg).apply)(
      {'params': own}, states, allowed, position, None, expert
    )
  lm = transformer.of_config(MIXED)
  params = jax.tree.map(jnp.asarray, params)
  return np.asarray(lm.read_out(params, states))


def test_layers_with_experts_follow_those_without():
  params = tiny.params(MIXED)
  assert params['layers']['dense']['mlp']['up_proj']['kernel'].shape[0] == 4
  lm = transformer.of_config(MIXED)
  assert (lm.num_sparse_layers, lm.num_layers) == (2, 6)
  override = np.random.default_rng(0).integers(-1, 4, (2, 4, 7))
  override = jnp.asarray(override, jnp.int32)
  for own in (None, override):
    given = None if own is None else types.RouterOverride(expert=own)
    got, routers = routed(params, IDS, MASK, given, cfg=MIXED)
    assert routers.logits.shape == (2, 4, 7, 4)
    want = in_turn(params, own)
    # Column q is read from the state of column q - 1.
    real = np.asarray(MASK[:, :-1])
    np.testing.assert_allclose(
      np.asarray(got)[:, 1:][real], want[:, :-1][real], rtol=1e-4, atol=1e-5
    )
  assert np.any(np.asarray(routers.chosen[..., 0]) == np.asarray(override))


def test_two_stacks_through_the_cache_and_in_ranges():
  params = jax.tree.map(jnp.asarray, tiny.params(MIXED))
  lm, want = transformer.of_config(MIXED), in_turn(params)
  cache = lm.init_cache(4, 9)
  first, cache = jax.jit(lm.prefill)(params, IDS[:, :4], MASK[:, :4], cache)
  last, cache = jax.jit(lm.extend)(params, IDS[:, 4:], MASK[:, 4:], cache)
  got = np.concatenate([first, last], axis=1)
  real = np.asarray(MASK)
  np.testing.assert_allclose(got[real], want[real], rtol=1e-4, atol=1e-5)
  states, run = lm.embed(params, jnp.asarray(IDS)), jax.jit(lm.run_layers)
  for start, stop in ((0, 2), (2, 3), (3, 6)):
    states = run(params, states, jnp.asarray(MASK), None, start, stop)
  got = np.asarray(lm.read_out(params, states))
  np.testing.assert_allclose(got[real], want[real], rtol=1e-4, atol=1e-5)


def test_new_routers_leave_two_stacks_as_they_are():
  lm = transformer.of_config(MIXED)
  old, new = tiny.params(MIXED), tiny.params(MIXED, 1)
  made = lm.with_routers(old, new)
  gate = made['layers']['sparse']['mlp'].pop('gate')
  np.testing.assert_array_equal(
    gate['kernel'], new['layers']['sparse']['mlp']['gate']['kernel']
  )
  sparse = old['layers']['sparse']
  mlp = {k: v for k, v in sparse['mlp'].items() if k != 'gate'}
  want = {**old['layers'], 'sparse': {**sparse, 'mlp': mlp}}
  jax.tree.map(np.testing.assert_array_equal, made['layers'], want)


DENSE = {'feed_forward': 'swiglu', 'num_experts': 0, 'experts_per_token': 0}


@pytest.mark.parametrize(
  'changes, line',
  [
    ({'experts_per_token': 5}, 'experts_per_token 5 is not in 1..num_experts'),
    ({'experts_per_token': 0}, 'experts_per_token 0 is not in 1..num_experts'),
    ({'capacity_factor': 0.0}, 'capacity_factor 0.0 is not positive'),
    ({'num_experts': 0}, "num_experts 0 does not fit feed_forward 'experts'"),
    ({'feed_forward': 'swiglu'}, "4 does not fit feed_forward 'swiglu'"),
    ({'gate_scale': 'sum'}, "gate_scale 'sum': expected one of"),
    ({'dispatch': 'fast'}, "dispatch 'fast': expected one of"),
    ({'lora_rank': 4}, 'lora_rank 4: models with experts cannot'),
    ({'sparse_every': 3}, 'sparse_every 3 does not divide num_layers 2'),
    ({'sparse_every': 0}, 'sparse_every 0 does not divide num_layers 2'),
    ({'shared_size': -1}, 'shared_size -1 is negative'),
    (
      {**DENSE, 'shared_size': 6},
      'shared_size 6 is for models with experts: use 0',
    ),
  ],
)
def test_wrong_fields_are_one_line(changes, line):
  with pytest.raises(ValueError, match=line) as e:
    dataclasses.replace(CFG, **changes)
  assert '\n' not in str(e.value)


SHARED = dataclasses.replace(CFG, shared_size=6)


@pytest.mark.parametrize(
  'cfg', [SHARED, dataclasses.replace(GELU, shared_size=6)]
)
def test_a_shared_expert_serves_every_token_by_its_gate(cfg):
  mlp = jax.tree.map(
    lambda leaf: np.float64(leaf[0]), tiny.params(cfg)['layers']['mlp']
  )
  x = np.float64(jax.random.normal(jax.random.key(0), (2, 5, 16)))
  layer = jax.jit(feed_forward.Experts(cfg).apply)
  got, _ = layer({'params': mlp}, jnp.float32(x), REAL)
  own = {k: v for k, v in mlp.items() if k in ('gate', 'experts')}
  without = dataclasses.replace(cfg, shared_size=0)
  rest, _ = jax.jit(feed_forward.Experts(without).apply)(
    {'params': own}, jnp.float32(x), REAL
  )
  shared = mlp['shared_expert']
  linear = lambda p, x: x @ p['kernel'] + p.get('bias', 0.0)
  hidden = linear(shared['up_proj'], x)
  if cfg is SHARED:
    gate = linear(shared['gate_proj'], x)
    hidden *= gate / (1 + np.exp(-gate))
  else:
    hidden = np.float64(nn.gelu(hidden, approximate=True))
  share = 1 / (1 + np.exp(-x @ mlp['shared_expert_gate']['kernel']))
  want = rest + share * linear(shared['down_proj'], hidden)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  assert np.abs(want - rest).max() > 0.05


def test_jitter_moves_the_choice_and_not_what_experts_read():
  cfg = dataclasses.replace(CFG, num_experts=16, gate_scale='none')
  mlp = jax.tree.map(lambda leaf: leaf[0], tiny.params(cfg)['layers']['mlp'])
  mlp = mlp | {'gate': {'kernel': np.eye(16, dtype=np.float32)}}
  x = 1 + jax.random.uniform(jax.random.key(1), (2, 200, 16))
  is_real = jnp.ones(x.shape[:2], bool)
  layer = jax.jit(feed_forward.Experts(cfg).apply)
  call = lambda override: layer({'params': mlp}, x, is_real, override)
  keys = jax.random.split(jax.random.key(2), 2)
  noise = types.RouterJitter(keys, jnp.array([0.3, 0.0]))
  y, beside = call(types.RouterOverride(jitter=noise))
  factor = np.asarray(beside['logits'] / x)
  np.testing.assert_allclose(factor[1], 1.0, rtol=1e-6)
  assert 0.7 <= factor[0].min() < 0.71 and 1.29 < factor[0].max() <= 1.3
  np.testing.assert_allclose(factor[0].mean(), 1.0, atol=4 * 0.17 / 3200**0.5)
  best = jnp.argmax(beside['logits'], -1).astype(jnp.int32)
  want, plain = call(types.RouterOverride(expert=best))
  np.testing.assert_allclose(y, want, atol=1e-6)
  moved = best != jnp.argmax(plain['logits'], -1)
  assert moved[0].any() and not moved[1].any()


def test_a_new_shared_expert_learns():
  cfg = dataclasses.replace(SHARED, gate_scale='none')
  made = upcycle.upcycle(tiny.params(SHARED.dense()), tiny.params(cfg))
  loss = lambda params: jnp.sum(routed(params, IDS, MASK, cfg=cfg)[0] ** 2)
  grads = jax.grad(loss)(made)['layers']['mlp']['shared_expert']
  assert np.abs(grads['down_proj']['kernel']).max() > 0.01


def test_experts_are_not_compressed():
  with pytest.raises(errors.UserError, match='experts cannot be compressed'):
    LM.compress(params(), 'int8')
