"""The feed-forward part, against NumPy."""

import dataclasses

import jax
import numpy as np
import pytest

from dllm_jax.models import attention, feed_forward, stack, transformer
from dllm_jax.ops import schedules
from tests import tiny

X = jax.random.normal(jax.random.key(0), (2, 3, 16))


def test_swiglu_equals_numpy():
  params = tiny.params()['layers']['mlp']
  params = jax.tree.map(lambda leaf: leaf[0], params)
  got, beside = feed_forward.SwiGLU(tiny.MODEL).apply({'params': params}, X)
  assert beside == {}
  gate, up, down = (
    np.float64(params[f'{n}_proj']['kernel']) for n in ('gate', 'up', 'down')
  )
  x = np.float64(X)
  hidden = x @ gate
  want = (hidden / (1 + np.exp(-hidden)) * (x @ up)) @ down
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_gelu_equals_numpy():
  cfg = dataclasses.replace(tiny.MODEL, feed_forward='gelu')
  params = tiny.params(cfg)['layers']['mlp']
  params = jax.tree.map(lambda leaf: leaf[0], params)
  got, beside = feed_forward.Gelu(cfg).apply({'params': params}, X)
  assert beside == {}
  own = lambda name: np.float64(params[f'{name}_proj']['kernel'])
  bias = lambda name: np.float64(params[f'{name}_proj']['bias'])
  assert np.abs(bias('up')).min() > 0 and np.abs(bias('down')).min() > 0
  hidden = gelu(np.float64(X) @ own('up') + bias('up'))
  want = hidden @ own('down') + bias('down')
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_an_unknown_part_is_refused_with_the_known_ones():
  values = dataclasses.asdict(tiny.MODEL) | {'feed_forward': 'mixture'}
  del values['vocab_size']
  with pytest.raises(ValueError, match="'mixture': expected one of .'swiglu'"):
    transformer.TransformerDenoiser.from_config(values, tiny.VOCAB)


def test_the_dict_gives_the_part_that_a_block_uses(monkeypatch):
  class Doubled(feed_forward.SwiGLU):
    def __call__(self, x):
      return 2 * x, {'sum': x.sum((1, 2))}

  monkeypatch.setitem(feed_forward.FEED_FORWARD, 'doubled', Doubled)
  cfg = dataclasses.replace(tiny.MODEL, feed_forward='doubled')
  mask = jax.numpy.array([[1, 1, 1], [0, 1, 1]], bool)
  position = schedules.positions(mask)
  allowed = attention.visible(position, position, mask, block=0)
  x = jax.random.normal(jax.random.key(1), (2, 3, 16))
  layers = tiny.params()['layers']
  layers = {k: v for k, v in layers.items() if k != 'mlp'}
  whole, outputs = stack.run_layers(cfg, layers, x, allowed, position)
  assert outputs.kv is None and outputs.feed_forward['sum'].shape == (2, 2)
  # A run of layers gives the outputs of its own layers.
  head = jax.tree.map(lambda leaf: leaf[:1], layers)
  tail = jax.tree.map(lambda leaf: leaf[1:], layers)
  first, one = stack.run_layers(cfg, head, x, allowed, position)
  last, two = stack.run_layers(cfg, tail, first, allowed, position)
  np.testing.assert_allclose(last, whole, rtol=1e-6)
  np.testing.assert_allclose(
    np.concatenate([one.feed_forward['sum'], two.feed_forward['sum']]),
    outputs.feed_forward['sum'],
    rtol=1e-5,
  )
