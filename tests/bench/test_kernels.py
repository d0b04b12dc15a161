"""Profiles of compiled programs."""

import time

import jax
import jax.numpy as jnp
import pytest

from dllm_jax.bench import kernels, tables


@pytest.fixture(scope='module')
def profile():
  """Of a loop that multiplies and transposes three times; and wall seconds."""

  def body(carry):
    step, x = carry
    return step + 1, jnp.tanh(x @ x).T

  loop = jax.jit(
    lambda x: jax.lax.while_loop(lambda carry: carry[0] < 3, body, (0, x))[1]
  )
  x = jnp.ones((300, 300))
  compiled = loop.lower(x).compile()
  call = lambda: compiled(x).block_until_ready()
  call()
  start = time.perf_counter()
  found = kernels.profile(call, compiled, calls=2)
  return found, time.perf_counter() - start


def test_a_loop_is_divided_into_its_operations(profile):
  found, wall = profile
  (product,) = [k for k in found if k.kind == 'products']
  assert product.runs == 3 and product.source.endswith('dot_general')
  (loop,) = [k for k in found if k.kind == 'control']
  # Without what is inside it.
  assert loop.runs == 1 and loop.seconds < product.seconds
  assert 0 < sum(k.seconds for k in found) < wall / 2
  assert [k.seconds for k in found] == sorted(
    (k.seconds for k in found), reverse=True
  )
  kinds = kernels.by_kind(found)
  assert 'unknown' not in kinds
  assert kinds['products'] == pytest.approx(product.seconds)


def test_own_times_by_hand():
  """A loop of 10 with two operations inside it, and one after it."""
  events = [('b', 5.0, 9.0), ('loop', 0.0, 10.0), ('a', 1.0, 3.0)]
  events += [('inner', 6.0, 7.0), ('after', 10.0, 11.0)]
  assert dict(kernels._own_times(events)) == {
    'a': 2.0,
    'inner': 1.0,
    'b': 3.0,
    'loop': 4.0,
    'after': 1.0,
  }


def test_the_table_shows_the_costliest(profile):
  found, _ = profile
  row = {'case': 'a loop', 'kernels': found}
  table = tables.profiled(row, 2)
  assert table.row_count == 2
  assert 'products' in table.caption and '%' in table.caption
