"""Keys are a function of (seed, stream, step, row)."""

import jax
import jax.numpy as jnp
import numpy as np

from dllm_jax.ops import streams

bits = lambda key: np.asarray(jax.random.key_data(key))


def test_every_stream_and_step_has_its_own_key():
  root = jax.random.key(0)
  seen = {
    bits(streams.step_key(root, stream, step)).tobytes()
    for stream in streams.STREAMS
    for step in range(20)
  }
  assert len(seen) == 20 * len(streams.STREAMS)
  assert bits(streams.step_key(jax.random.key(1), 'sft', 0)).tobytes() not in (
    seen
  )


def test_step_key_by_hand():
  root = jax.random.key(5)
  want = jax.random.fold_in(jax.random.fold_in(root, 2), 11)
  np.testing.assert_array_equal(
    bits(streams.step_key(root, 'rollout', 11)), bits(want)
  )


def test_row_keys_depend_only_on_the_row_number():
  key = jax.random.key(3)
  whole = bits(streams.row_keys(key, jnp.array([4, 0, 9, 4])))
  for row, number in enumerate([4, 0, 9, 4]):
    np.testing.assert_array_equal(
      whole[row], bits(jax.random.fold_in(key, number))
    )
  assert len({row.tobytes() for row in whole}) == 3


def test_seeds_of_the_host_differ_by_seed_and_stream():
  seen = {
    streams.host_seed(seed, stream)
    for seed in range(20)
    for stream in streams.STREAMS
  }
  assert len(seen) == 20 * len(streams.STREAMS)
  assert streams.host_seed(3, 'sft') == streams.host_seed(3, 'sft')
