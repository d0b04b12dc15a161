"""Vocabulary: which ids end a completion."""

import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import types


def test_eos_is_always_a_stop_token():
  make = lambda *stop: types.Vocabulary(
    size=9, mask_token=8, eos_token=5, stop_tokens=stop
  )
  assert make().stop_tokens == (5,)
  assert make(7, 2, 7).stop_tokens == (2, 5, 7)
  assert make(2, 7) == make(7, 5, 2)  # one compilation serves both


def test_ends_by_hand():
  vocab = types.Vocabulary(size=9, mask_token=8, eos_token=5, stop_tokens=(2,))
  tokens = [[0, 2, 5], [8, 4, 2]]
  want = [[False, True, True], [False, False, True]]
  np.testing.assert_array_equal(vocab.ends(jnp.array(tokens)), want)


@pytest.mark.parametrize(
  ('stop', 'message'),
  [
    ((9,), r'stop token 9 is outside \[0, 9\)'),
    ((-1,), 'stop token -1 is outside'),
    ((8,), 'mask_token and stop token are both 8'),
  ],
)
def test_wrong_stop_tokens(stop, message):
  with pytest.raises(ValueError, match=message):
    types.Vocabulary(size=9, mask_token=8, eos_token=5, stop_tokens=stop)


def test_the_mask_is_no_eos():
  with pytest.raises(ValueError, match='both 5'):
    types.Vocabulary(size=9, mask_token=5, eos_token=5)
