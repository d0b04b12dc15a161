"""Meshes, rules for every parameter, and rows."""

import dataclasses
import functools
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dllm_jax import errors
from dllm_jax.models import network, transformer
from dllm_jax.runtime import sharding
from tests import tiny

VARIANTS = {
  'plain': {},
  'lora': {'lora_rank': 2},
  'dream': {'attention_bias': True, 'logit_shift': True},
  'qwen3': {'qk_norm': True, 'tie_embeddings': True},
  'experts': {
    'feed_forward': 'experts',
    'num_experts': 4,
    'experts_per_token': 2,
  },
  'gpt2': tiny.GPT2,
  'two stacks': tiny.GPT2
  | {
    'feed_forward': 'gelu_experts',
    'num_experts': 4,
    'experts_per_token': 1,
    'sparse_every': 2,
  },
  'shared': {
    'feed_forward': 'experts',
    'num_experts': 4,
    'experts_per_token': 2,
    'shared_size': 8,
  },
}


def mesh_of(data=-1, fsdp=1, tensor=1):
  return sharding.make_mesh(
    sharding.MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
  )


@pytest.mark.parametrize(
  ('sizes', 'shape'),
  [
    ((-1, 1, 1), (8, 1, 1)),
    ((-1, 2, 2), (2, 2, 2)),
    ((-1, 1, 8), (1, 1, 8)),
    ((1, 1, 1), (1, 1, 1)),
    ((2, 1, 2), (2, 1, 2)),
  ],
)
def test_mesh_sizes(sizes, shape):
  mesh = mesh_of(*sizes)
  assert mesh.axis_names == ('data', 'fsdp', 'tensor')
  assert mesh.devices.shape == shape
  assert mesh.size == math.prod(shape)


@pytest.mark.parametrize(
  'sizes', [(9, 1, 1), (-1, 16, 1), (4, 4, 1), (0, 1, 1)]
)
def test_mesh_that_does_not_fit(sizes):
  with pytest.raises(errors.UserError, match='mesh.data'):
    mesh_of(*sizes)


@pytest.mark.parametrize('name', VARIANTS)
def test_every_parameter_is_placed_and_divided(name):
  cfg = dataclasses.replace(tiny.MODEL, **VARIANTS[name])
  shapes = jax.eval_shape(lambda key: network.init(key, cfg), jax.random.key(0))
  params = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
  placed = jax.device_put(
    params, sharding.param_shardings(params, mesh_of(-1, 2, 2))
  )
  for path, leaf in jax.tree.leaves_with_path(placed):
    last = path[-1].key
    local = math.prod(leaf.sharding.shard_shape(leaf.shape))
    shards = leaf.size / local
    names = {key.key for key in path}
    if names & {'gate', 'shared_expert_gate'}:  # a router
      assert shards == 1, path
    elif last in ('kernel', 'embed_tokens'):
      assert shards == 4, path
    elif last == 'weight':
      assert shards == 1, path
    elif 'experts' in names:  # and their biases
      assert shards in (2, 4), path
    else:  # biases and adapters split over `tensor`, or not at all
      assert shards in (1, 2), path


def test_every_rule_is_the_first_for_some_parameter():
  used = set()
  variants = [
    network.shapes(dataclasses.replace(tiny.MODEL, **changes))
    for changes in VARIANTS.values()
  ]
  lm = transformer.of_config(dataclasses.replace(tiny.MODEL, causal=True))
  for how in ('int8', 'int4'):
    compress = functools.partial(lm.compress, how=how)
    variants.append(jax.eval_shape(compress, network.shapes(lm.cfg)))
  for shapes in variants:
    for path, leaf in jax.tree.leaves_with_path(shapes):
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      pattern, spec = sharding.rule(name)
      used.add(pattern)
      assert len(spec) in (0, leaf.ndim), name
      # The axis of the stack of layers is never divided.
      assert not name.startswith('layers/') or not spec or spec[0] is None
  assert used == {pattern for pattern, _ in sharding.RULES}


def test_optimiser_states_lie_as_their_parameters():
  params = {
    'norm': {'weight': jnp.zeros(16)},
    'embed_tokens': jnp.zeros((8, 4)),
  }
  state = optax.adam(1.0).init(flax.traverse_util.flatten_dict(params, sep='/'))
  found = sharding.specs(state)
  assert found[0].count == sharding.P()
  for moments in (found[0].mu, found[0].nu):
    assert moments['embed_tokens'] == sharding.P('tensor', 'fsdp')
    assert moments['norm/weight'] == sharding.P()


def test_a_rule_of_another_rank_is_named():
  with pytest.raises(errors.UserError, match='lm_head/kernel.* 2 axes.*(3,)'):
    sharding.specs({'lm_head': {'kernel': jnp.zeros(3)}})


def test_an_axis_that_divides_no_leaf_is_named():
  with pytest.raises(errors.UserError, match='mesh.fsdp=8 does not divide 12'):
    sharding.param_shardings(
      {'embed_tokens': jnp.zeros((8, 12))}, mesh_of(1, 8, 1)
    )


def test_axes_of_a_kernel():
  mesh = mesh_of(-1, 2, 2)
  tree = {'layers': {'mlp': {'down_proj': {'kernel': jnp.zeros((2, 24, 16))}}}}
  found = sharding.param_shardings(tree, mesh)
  spec = found['layers']['mlp']['down_proj']['kernel'].spec
  assert tuple(spec) == (None, 'tensor', 'fsdp')


def test_a_parameter_without_a_rule_is_named_where_the_mesh_divides():
  tree = {'layers': {'mystery': {'kernel': jnp.zeros(3)}}}
  with pytest.raises(errors.UserError, match='layers/mystery/kernel'):
    sharding.param_shardings(tree, mesh_of(-1, 2, 1))
  whole = sharding.param_shardings(tree, mesh_of())
  assert whole['layers']['mystery']['kernel'].is_fully_replicated


@dataclasses.dataclass(frozen=True)
class Bag:
  """A denoiser of one leaf."""

  def init(self, key):
    return {'bag': jax.random.normal(key, (4, 6), jnp.bfloat16)}

  def __call__(self, params, tokens, attention_mask, query):
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class DividedBag(Bag):
  """The same, divided by a rule of its own."""

  sharding_rules = (('bag', sharding.P('fsdp', 'tensor')),)

  def part(self, mesh):
    return self

  def placed(self, mesh):
    return self


def test_a_denoiser_is_divided_by_its_own_rules_or_not_at_all():
  mesh = mesh_of(1, 2, 2)
  whole = sharding.param_targets(Bag(), mesh)['bag']
  assert whole.sharding.is_fully_replicated
  assert (whole.shape, whole.dtype) == ((4, 6), jnp.bfloat16)
  divided = sharding.param_targets(DividedBag(), mesh)['bag']
  assert divided.sharding.shard_shape((4, 6)) == (2, 3)
  assert sharding.rules_of(tiny.DENOISER) == sharding.RULES


def test_rows_and_replicas():
  mesh = mesh_of(2, 2, 2)
  x = jax.device_put(np.arange(8.0), sharding.rows(mesh))
  assert x.sharding.shard_shape(x.shape) == (2,)
  y = jax.device_put(np.arange(8.0), sharding.replicated(mesh))
  assert y.sharding.is_fully_replicated
  sharding.check_divides(8, mesh, 'eval.batch')
  with pytest.raises(errors.UserError, match=r'eval.batch is 6.*4 shards'):
    sharding.check_divides(6, mesh, 'eval.batch')


def test_model_is_the_same_on_a_mesh():
  mesh = mesh_of(-1, 2, 2)
  params = tiny.params()
  ids, mask = tiny.pad(tiny.random_prompts(0, [3, 5, 1, 4]), 5)
  model = network.Transformer(tiny.MODEL)
  forward = jax.jit(
    lambda params, *args: model.apply({'params': params}, *args)
  )
  want = forward(params, ids, mask)
  got = forward(
    jax.device_put(params, sharding.param_shardings(params, mesh)),
    *jax.device_put((ids, mask), sharding.rows(mesh)),
  )
  assert len(got.sharding.device_set) == 8
  np.testing.assert_allclose(
    np.asarray(got)[mask], np.asarray(want)[mask], rtol=1e-5, atol=1e-5
  )
