"""Profiles of compiled programs."""

import os
import time
import types

import jax
import jax.numpy as jnp
import pytest

from dllm_jax import errors
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
  assert loop.runs == 1 and loop.seconds < 3 * product.seconds
  assert 0 < sum(k.seconds for k in found) < wall * os.cpu_count()
  assert [k.seconds for k in found] == sorted(
    (k.seconds for k in found), reverse=True
  )
  kinds = kernels.by_kind(found)
  assert 'unknown' not in kinds
  assert kinds['products'] == pytest.approx(product.seconds)


def test_own_times_by_hand():
  """A loop of 10 with two operations inside it, and one after it."""
  events = [('b', 5, 9), ('loop', 0, 10), ('a', 1, 3)]
  events += [('inner', 6, 7), ('after', 10, 11)]
  assert dict(kernels._own_times(events)) == {
    'a': 2,
    'inner': 1,
    'b': 3,
    'loop': 4,
    'after': 1,
  }


def test_touching_and_overlapping_events_by_hand():
  touching = [('a', 0, 3), ('b', 3, 5)]
  assert dict(kernels._own_times(touching)) == {'a': 3, 'b': 2}
  # What they share counts once.
  overlapping = [('a', 0, 3), ('b', 2, 5)]
  assert dict(kernels._own_times(overlapping)) == {'a': 2, 'b': 3}


class Fake(types.SimpleNamespace):
  """A plane, a line or an event of the profiler."""


def event(name, start, **stats):
  return Fake(name=name, start_ns=start, duration_ns=1.0, stats=stats.items())


def fakes(*planes):
  return Fake(
    planes=[
      Fake(
        name=name,
        lines=[Fake(name=line, events=list(e)) for line, e in lines.items()],
      )
      for name, lines in planes
    ]
  )


def test_events_of_a_gpu_and_of_a_tpu():
  own, other = {'hlo_module': 'jit_f'}, {'hlo_module': 'jit_g'}
  host = '/host:CPU', {'thread': [event('start', 0, hlo_op='a', **own)]}
  gpu = (
    '/device:GPU:0',
    {
      'Stream #1': [
        event('kernel', 2, hlo_op='dot.1', **own),
        event('kernel', 3, hlo_op='dot.1', **other),
      ],
      'Stream #2': [event('memset', 4)],
    },
  )
  assert kernels._lines(fakes(host, gpu), 'jit_f') == [[('dot.1', 2000, 3000)]]
  assert kernels._lines(fakes(host), 'jit_f') == [[('a', 0, 1000)]]
  assert kernels._lines(fakes(host), 'jit_g') == []
  tpu = (
    '/device:TPU:0',
    {
      'XLA Modules': [event('jit_f(12)', 0)],
      'XLA Ops': [event('%fusion.3 = f32[4] fusion(%a)', 5)],
      'Async XLA Ops': [event('%copy-start', 5)],
    },
  )
  assert kernels._lines(fakes(host, tpu), 'jit_f') == [
    [('fusion.3', 5000, 6000)]
  ]


def test_a_program_that_did_not_run_is_an_error():
  compiled = jax.jit(lambda x: x + 1).lower(1.0).compile()
  with pytest.raises(errors.UserError, match='recorded no operation of jit_'):
    kernels.profile(lambda: None, compiled)


def test_the_table_shows_the_costliest(profile):
  found, _ = profile
  row = {'case': 'a loop', 'kernels': found}
  table = tables.profiled(row, 2)
  assert table.row_count == 2
  assert 'products' in table.caption and '%' in table.caption
