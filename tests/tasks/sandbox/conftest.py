"""Sandboxes of each tier that this host offers, shared by the tests."""

import pytest

from dllm_jax.tasks import sandbox
from dllm_jax.tasks.sandbox import hosts

BOUNDS = sandbox.Limits(
  cpu_seconds=0.5, wall_seconds=3.0, memory_bytes=2**28, num_threads=16
)


def skip_without(tier: str) -> None:
  """Skips the test with what the host lacks."""
  why = hosts.lacks(tier)
  if why:
    pytest.skip(f'no tier {tier}: {why}')


@pytest.fixture(params=hosts.TIERS)
def tier(request) -> str:
  """Each tier of the host."""
  skip_without(request.param)
  return request.param


@pytest.fixture(scope='session')
def _pools():
  pools = {}
  yield pools
  for pool in pools.values():
    pool.close()


@pytest.fixture
def pool(tier, _pools) -> sandbox.Sandbox:
  """A sandbox of two workers with tight limits."""
  if tier not in _pools:
    _pools[tier] = sandbox.Sandbox(BOUNDS, tier=tier, workers=2)
  return _pools[tier]
