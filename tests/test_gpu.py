"""What an accelerator computes is what the CPU computes.

JAX_PLATFORMS=cuda,cpu pytest -m gpu
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from dllm_jax.bench import cases, hlo, programs
from dllm_jax.models import network
from dllm_jax.rollout import answer_free, prompts
from dllm_jax.runtime import sharding
from dllm_jax.train import optim, policy
from dllm_jax.train import state as state_lib
from tests import tiny
from tests.bench import counts

pytestmark = pytest.mark.gpu

CASE = cases.make_case('tiny', tiny.MODEL, 4, 3, 16, 8, 8)
WIDE = cases.make_case(
  'wide',
  cases.make_model(
    2048, 256, 3, 4, 704, dtype='bfloat16', param_dtype='bfloat16'
  ),
  8,
  64,
  128,
  32,
  64,
)


def mesh_of(platform):
  return jax.make_mesh(
    (1, 1, 1),
    ('data', 'fsdp', 'tensor'),
    axis_types=(AxisType.Auto,) * 3,
    devices=jax.devices(platform)[:1],
  )


@pytest.fixture(scope='module')
def meshes():
  return mesh_of(jax.default_backend()), mesh_of('cpu')


def put(tree, mesh):
  return jax.device_put(tree, sharding.replicated(mesh))


@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_the_same_tokens(meshes, temperature):
  params = jax.tree.map(np.asarray, tiny.params())
  ids = cases.prompts(CASE)
  encoded = prompts.RowPrompts(
    ids, np.ones(ids.shape, bool), np.arange(4, dtype=np.int32)
  )
  decoder = dataclasses.replace(CASE.decoder, temperature=temperature)

  def sample(mesh):
    made = answer_free.sample(
      CASE.denoiser,
      put(params, mesh),
      put(jax.random.key(0), mesh),
      put(encoded, mesh),
      put(decoder, mesh),
      mesh=mesh,
      vocab=CASE.vocab,
    )
    return jax.tree.map(np.asarray, made)

  ours, theirs = map(sample, meshes)
  np.testing.assert_array_equal(ours.tokens, theirs.tokens)
  np.testing.assert_array_equal(ours.commit_step, theirs.commit_step)
  np.testing.assert_allclose(ours.logp, theirs.logp, atol=1e-5)


def test_the_same_updates(meshes):
  params = jax.tree.map(np.asarray, tiny.params())
  batch = jax.tree.map(np.asarray, cases.rollouts(CASE))
  optimizer = optim.make(CASE.optimizer)

  def train(mesh):
    state = put(state_lib.create(params, optimizer), mesh)
    for step in range(3):
      key = put(jax.random.key(step), mesh)
      state, metrics = policy.inner_step(
        state,
        {},
        put(batch, mesh),
        None,
        None,
        key,
        optimizer=optimizer,
        cfg=CASE.policy,
        mesh=mesh,
        **programs.static(CASE, mesh),
      )
    return jax.tree.map(np.asarray, (state.params, metrics))

  ours, theirs = map(train, meshes)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
    ours,
    theirs,
  )


@pytest.mark.parametrize(
  'changes',
  [{}, {'causal': True}, {'remat': 'block'}],
  ids=['plain', 'causal', 'remat'],
)
@pytest.mark.parametrize('columns', [32, 31])
def test_cudnn_mixes_what_xla_mixes(columns, changes):
  """Forward and backward; causal rows that are padded read nothing at all."""
  cfg = dataclasses.replace(
    WIDE.model, num_kv_heads=2, param_dtype='float32', **changes
  )
  params = jax.jit(network.init, static_argnums=1)(jax.random.key(0), cfg)
  tokens = jnp.arange(2 * columns, dtype=jnp.int32).reshape(2, columns)
  real = jnp.arange(columns)[None] >= jnp.array([[0], [5]])

  def loss(params, attention):
    model = network.Transformer(dataclasses.replace(cfg, attention=attention))
    logits = model.apply({'params': params}, tokens, real)
    logits = jnp.where(real[..., None], logits, 0.0)
    return jnp.sum(logits**2), logits

  def both(attention):
    got = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    return jax.tree.map(np.asarray, got(params, attention))

  def check(ours, theirs):
    assert np.all(np.isfinite(ours))
    assert np.linalg.norm(ours - theirs) < 0.03 * np.linalg.norm(theirs)

  jax.tree.map(check, both('cudnn'), both('xla'))


@pytest.mark.parametrize('attention', ['xla', 'cudnn'])
@pytest.mark.parametrize('name', ['rollout', 'inner_step'])
def test_products_are_counted_whoever_computes_them(meshes, name, attention):
  """By its own kernels, cuBLAS or cuDNN, in a graph or not."""
  model = dataclasses.replace(WIDE.model, attention=attention)
  case = dataclasses.replace(WIDE, model=model)
  program = hlo.parse(
    programs.PROGRAMS[name](case, meshes[0]).compile().as_text()
  )
  minimum = WIDE.minimum()[name]
  assert minimum <= counts.products(program) <= 1.10 * minimum


def test_narrow_weights_stay_close(meshes):
  params = jax.tree.map(
    np.asarray,
    jax.jit(network.init, static_argnums=1)(jax.random.key(0), WIDE.model),
  )
  tokens = np.arange(64, dtype=np.int32).reshape(2, 32)

  def logits(mesh):
    made = jax.jit(network.Transformer(WIDE.model).apply)(
      {'params': put(params, mesh)},
      *put((tokens, np.ones(tokens.shape, bool)), mesh),
    )
    return np.asarray(made, np.float32)

  ours, theirs = map(logits, meshes)
  error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
  assert error < 0.02
