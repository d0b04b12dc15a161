"""PyTorch's loops do what ours do, from the same weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.bench import cases, suites
from dllm_jax.models import network
from dllm_jax.runtime import sharding
from tests import tiny

pytest.importorskip('torch')
from dllm_jax.bench import torch_reference  # noqa: E402

# Four steps of a block of eight commit 2 each; GQA.
SHAPE = (4, 3, 16, 8, 8)
CASE = cases.make_case('tiny', tiny.MODEL, *SHAPE)
# As the models of 8B are trained: a frozen base, narrow, and adapters.
ADAPTED = cases.make_case(
  'adapted',
  dataclasses.replace(
    tiny.MODEL, dtype='bfloat16', param_dtype='bfloat16', lora_rank=2
  ),
  *SHAPE,
)


def test_logits():
  params = jax.tree.map(np.asarray, tiny.params())
  tokens = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)
  want = network.Transformer(tiny.MODEL).apply(
    {'params': jax.tree.map(jnp.asarray, params)},
    tokens,
    jnp.ones(tokens.shape, bool),
  )
  model = torch_reference.Model(
    cfg=tiny.MODEL, params=torch_reference.leaves(params)
  )
  got = model.logits(
    model.hidden(torch_reference.torch.tensor(np.array(tokens)).long())
  )
  np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('suite', ['decode', 'update'])
def test_both_loops_do_the_same(suite):
  # The same tokens; the same norm of the gradient.
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  row = suites.SUITES[suite](CASE, mesh, reference=torch_reference, rounds=1)
  for name in ('published', 'tuned'):
    assert row[f'same_as_{name}'] == pytest.approx(1.0, abs=1e-5)
    assert row['speedup'][f'torch_{name}']['wall'] > 0


def test_adapters_act():
  params = cases.weights(ADAPTED.model)
  tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
  model = torch_reference.Model(
    cfg=ADAPTED.model, params=torch_reference.leaves(params)
  )
  got = model.logits(model.hidden(torch_reference.torch.tensor(tokens).long()))

  def ours(params):
    return network.Transformer(ADAPTED.model).apply(
      {'params': params}, jnp.asarray(tokens), jnp.ones(tokens.shape, bool)
    )

  want = ours(params)
  got = got.float().detach().numpy()
  assert np.linalg.norm(got - want) < 0.02 * np.linalg.norm(want)
  silent = jax.tree_util.tree_map_with_path(
    lambda path, x: 0 * x if path[-1].key == 'lora_b' else x, params
  )
  assert np.linalg.norm(ours(silent) - want) > 0.05 * np.linalg.norm(want)


def test_adapters_have_the_same_gradient():
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  row = suites.update(ADAPTED, mesh, reference=torch_reference, rounds=1)
  for name in ('published', 'tuned'):
    assert row[f'same_as_{name}'] == pytest.approx(1.0, rel=0.03)  # bfloat16
