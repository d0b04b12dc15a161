"""Whether steps fit a mesh of eight fake devices, and what they cost."""

import dataclasses

import jax
import pytest

from dllm_jax import errors
from dllm_jax.bench import (
  capacity,
  hardware,
  hlo,
  memory,
  programs,
  tables,
)
from dllm_jax.run import settings
from dllm_jax.runtime import sharding
from tests import tiny_run
from tests.bench import buffers

SIZES = sharding.MeshConfig(data=2, fsdp=4)
CFG = settings.from_config(tiny_run.get_config('diffu_grpo').to_dict())


def case_of(sizes=SIZES, *, rows=4, **model):
  policy = dataclasses.replace(CFG.method.policy, beta=0.1)
  cfg = dataclasses.replace(
    CFG,
    model=dict(CFG.model) | model,
    method=dataclasses.replace(CFG.method, policy=policy),
  )
  return capacity.case_of(
    cfg, sizes, name='tiny', vocab_size=64, rows_per_device=rows
  )


def test_meshes_are_parsed_or_refused():
  assert capacity.parse_mesh('fsdp=4,data=2') == SIZES
  assert capacity.num_devices(capacity.parse_mesh('tensor=3')) == 3
  for text in ('', 'data', 'data=0', 'data=-1', 'rows=2', 'data=2 fsdp=2'):
    with pytest.raises(errors.UsageError, match='write --mesh data=8'):
      capacity.parse_mesh(text)


def test_rows_are_counted_per_device():
  group = CFG.rollout.group_size
  case = case_of(rows=4)
  assert (case.rows, case.rollout.num_prompts) == (4 * 8, 4 * 8 // group)
  with pytest.raises(errors.UserError, match='num_micro'):
    case_of(rows=1)


def test_a_run_holds_weights_moments_and_a_reference():
  # bfloat16 weights, float32 masters and two moments; a reference for KL.
  mesh = sharding.make_mesh(SIZES)
  case = case_of(param_dtype='bfloat16')
  params = memory.shard_bytes(programs.params(case, mesh))
  state = memory.shard_bytes(programs.state(case, mesh))
  leaves = jax.tree.leaves(programs.params(case, mesh))
  whole = 2 * sum(leaf.size for leaf in leaves)
  assert whole / 4 <= params < whole / 3  # norms alone are not divided
  assert state == pytest.approx(7 * params, rel=1e-2)
  assert memory.held(case, mesh) == state + params
  assert memory.beside(case, mesh, 'inner_step') == params
  assert memory.beside(case, mesh, 'rollout') == state
  # Adapters: the reference has its own, and shares the rest.
  lora = case_of(param_dtype='bfloat16', lora_rank=2)
  beside = memory.beside(lora, mesh, 'inner_step')
  assert 0 < beside < params


def test_the_cost_of_a_read_is_close_to_its_minimum():
  # One layer's weights are gathered at a time, rows stay where they are.
  mesh = sharding.make_mesh(SIZES)
  case = case_of()
  _, found = capacity.cost(case, mesh, 'read')
  assert found.minimum == case.minimum()['read'] // 8
  assert 1.0 <= found.flops / found.minimum < 1.6  # tiny: much is no product
  assert found.collectives['all-gather'] > 0
  assert found.compiled >= found.arguments
  assert found.resident == memory.beside(case, mesh, 'read')


def test_the_largest_program_decides_whether_a_step_fits():
  cost = capacity.Cost('read', 0, 0, 0, 0, 5, 7, 1, 0, 1, {}, 0.0)
  costs = [cost, cost._replace(compiled=9, estimate=2)]
  assert capacity.needed(costs, 'tpu') == 10
  assert capacity.needed(costs, 'cpu') == 8
  found = {
    'fits': False,
    'compiler': 'cpu',
    'device': 'h100',
    'needed_bytes': int(81.5e9),
    'device_bytes': int(80e9),
  }
  assert tables.verdict(found) == (
    'DOES NOT FIT h100: 81.50 GB by the estimate, of 80 GB'
  )


def test_rows_of_an_update_stay_on_their_devices():
  # Left alone, the compiler divides activations by columns over fsdp, as the
  # embedding table is, and adds up partial products of every layer.
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=8))
  case = case_of(sharding.MeshConfig(data=1, fsdp=8))
  pinned = hlo.parse(programs.read(case, mesh).compile().as_text())
  rows = case.rows // 8 // case.policy.num_micro * case.views[0]
  mlp = rows * case.columns * case.model.mlp_size
  products = [
    shape
    for op, shape in buffers.buffers(pinned)
    if shape.dims[-1:] == (case.model.mlp_size,) and op != 'parameter'
  ]
  assert products and max(s.size for s in products) <= mlp


@pytest.mark.parametrize(
  'kind, peak',
  [
    ('NVIDIA H100 80GB HBM3', 989e12),
    ('NVIDIA A100-SXM4-40GB', 312e12),
    ('TPU v5 lite', 197e12),
    ('TPU v5p', 459e12),
    ('TPU v6 lite', 918e12),
    ('cpu', None),
  ],
)
def test_peak_of_a_device_kind(kind, peak):
  assert hardware.peak_of(kind) == peak


def test_a_mesh_without_a_tpu_slice_has_cpu_devices():
  mesh, compiler = capacity.make_mesh(sharding.MeshConfig(data=3), 'tpu_v5e')
  assert compiler == 'cpu' and mesh.size == 3
