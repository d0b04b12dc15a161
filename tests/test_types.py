"""Vocabulary: which ids end a completion, and whether there is [MASK]."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import types
from dllm_jax.decoding import blocks, fixed, guidance
from dllm_jax.ops import sampling
from dllm_jax.rl import logprobs, masked_diffusion
from tests import tiny


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


WITHOUT = types.Vocabulary(size=9, mask_token=None, eos_token=5)


def test_without_a_mask_all_ids_of_text_are_allowed():
  logits = sampling.allowed_logits(jnp.zeros((2, 11)), WITHOUT)
  np.testing.assert_array_equal(
    np.isfinite(logits), [[True] * 9 + [False] * 2] * 2
  )


def test_what_needs_a_mask_refuses_a_vocabulary_without_one():
  key, batch = jax.random.key(0), tiny.rollouts(0, rows=2, gen_length=4)
  prompts = batch.prompt_ids, batch.prompt_mask
  block = fixed.Fixed(gen_length=4, block_length=4, num_steps=4)
  for call in (
    WITHOUT.need_mask,
    lambda: blocks.init_state(tiny.canvas([[1]], 4), WITHOUT, block),
    lambda: masked_diffusion.masked_views(
      key, *prompts, batch.tokens, WITHOUT, min_ratio=0.1
    ),
    lambda: logprobs.OneStep()(key, batch, WITHOUT),
    lambda: logprobs.SampledSteps(num_steps=2, max_commits=2)(
      key, batch, WITHOUT
    ),
    lambda: guidance.guided(
      tiny.DENOISER, {}, 1.0, gen_length=4, vocab=WITHOUT
    ),
  ):
    with pytest.raises(ValueError, match='the vocabulary has no mask token'):
      call()
  assert tiny.VOCAB.need_mask() == tiny.MASK
