"""Views of the next-token loss: by hand, and against the exact likelihood."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dllm_jax import types
from dllm_jax.eval import likelihood
from dllm_jax.models import transformer
from dllm_jax.rl import logprobs, masked_diffusion, next_token
from tests import tiny

EOS = tiny.EOS
VOCAB = types.Vocabulary(size=30, mask_token=None, eos_token=EOS)
PROMPT, PROMPT_MASK = tiny.pad([[4, 5, 6], [7]], 3)
TOKENS = np.array([[1, 2, EOS, EOS], [3, EOS, EOS, EOS]], np.int32)
CREDIT = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
CAUSAL = dataclasses.replace(tiny.MODEL, causal=True)


def views():
  args = PROMPT, PROMPT_MASK, TOKENS, CREDIT
  return next_token.teacher_forced(*map(jnp.asarray, args))


def test_views_by_hand():
  got = views()
  assert got.tokens.tolist() == [
    [[4, 5, 6, 1, 2, EOS, EOS]],
    [[0, 0, 7, 3, EOS, EOS, EOS]],
  ]
  assert got.attention_mask[1, 0].tolist() == [False] * 2 + [True] * 5
  assert got.slot.tolist() == [[[0, 1, 2, 3]]] * 2
  np.testing.assert_array_equal(got.target[:, 0], TOKENS)
  np.testing.assert_array_equal(got.credit[:, 0], CREDIT)
  assert got.weight.tolist() == [[1.0], [1.0]]


def test_loss_of_a_table_by_hand():
  """A model that reads nothing: the loss is the mean of its own numbers."""
  params = tiny.table_params(0, 4, context=0.0, size=30)
  got = masked_diffusion.loss(
    tiny.Table(gen_length=4), params, views(), VOCAB, num_tokens=jnp.float32(5)
  )
  logp = tiny.log_softmax(params['table'])
  first = logp[0, 1] + logp[1, 2] + logp[2, EOS]
  second = logp[0, 3] + logp[1, EOS]
  np.testing.assert_allclose(got, -(first + second) / 5, rtol=1e-6)


def test_the_sum_is_the_exact_likelihood():
  lm = transformer.of_config(CAUSAL)
  params = jax.tree.map(jnp.asarray, tiny.params(lm.cfg))
  logp = logprobs.read_views(lm, params, views(), VOCAB, gen_length=4).logp
  pairs = likelihood.Pairs(PROMPT, PROMPT_MASK, TOKENS, CREDIT)
  own = jnp.arange(len(TOKENS))
  want = likelihood.exact(lm, params, pairs, own, vocab=VOCAB).logp
  np.testing.assert_allclose(logp.sum((1, 2)), want, rtol=1e-5)
  loss = masked_diffusion.loss(
    lm, params, views(), VOCAB, num_tokens=jnp.float32(5)
  )
  np.testing.assert_allclose(loss, -np.sum(want) / 5, rtol=1e-5)


def test_what_follows_the_credit_is_not_read():
  lm = transformer.of_config(CAUSAL)
  params = jax.tree.map(jnp.asarray, tiny.params(lm.cfg))
  args = (jnp.asarray(x) for x in (PROMPT, PROMPT_MASK))
  other = jnp.asarray(np.where(CREDIT, TOKENS, 9))
  changed = next_token.teacher_forced(*args, other, jnp.asarray(CREDIT))
  read = lambda v: logprobs.read_views(lm, params, v, VOCAB, gen_length=4).logp
  np.testing.assert_array_equal(read(views()), read(changed))
