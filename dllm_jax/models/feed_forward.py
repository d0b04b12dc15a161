"""The feed-forward part of a block, chosen by `ModelConfig.feed_forward`.

A part maps states to states, and returns beside them a dict of arrays that are
collected by layer (`stack.LayerOutputs`). Dims: B rows, S columns, D model, F
hidden width, E experts, k experts of a token.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dllm_jax import types
from dllm_jax.models import config, layers
from dllm_jax.ops import dispatch


class SwiGLU(nn.Module):
  """down(silu(gate(x)) * up(x)), and nothing beside it."""

  cfg: config.ModelConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B S D']
  ) -> tuple[Float[Array, 'B S D'], dict[str, Array]]:
    cfg = self.cfg
    gate = layers.Linear(cfg, cfg.mlp_size, name='gate_proj')(x)
    up = layers.Linear(cfg, cfg.mlp_size, name='up_proj')(x)
    down = layers.Linear(cfg, cfg.hidden_size, name='down_proj')
    return down(nn.silu(gate) * up), {}


class Gelu(nn.Module):
  """down(gelu(up(x))) with biases, gelu in its tanh form (GPT-2).

  References:
    Hendrycks and Gimpel 2016 (arXiv:1606.08415).
  """

  cfg: config.ModelConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B S D']
  ) -> tuple[Float[Array, 'B S D'], dict[str, Array]]:
    cfg = self.cfg
    up = layers.Linear(cfg, cfg.mlp_size, use_bias=True, name='up_proj')
    down = layers.Linear(cfg, cfg.hidden_size, use_bias=True, name='down_proj')
    return down(nn.gelu(up(x), approximate=True)), {}


class Experts(nn.Module):
  """A mixture of experts, of which a router chooses k for each token.

  An expert is a `SwiGLU`, or with `feed_forward` 'gelu_experts' a `Gelu`.

  y = sum_{e in top_k(l)} g_e expert_e(x),   l = x W,  p = softmax(l)

  The gate g_e is p_e, p_e over the sum of the chosen ones, or 1 / k
  (`ModelConfig.gate_scale`). The router is computed in float32 and has no bias.
  With a capacity, an expert serves the first ceil(capacity_factor k n / E)
  tokens of a row of n that choose it; to the others it adds nothing. n counts
  the tokens of the call, so that decoding with a cache drops none. A shared
  expert of width `shared_size` adds sigmoid(x w) shared(x) to every token.

  Beside y it returns 'logits' l and 'chosen', the experts of each token, the
  first choice first; and with a capacity 'kept', whether they served it.

  References:
    Shazeer et al. 2017 (arXiv:1701.06538); Fedus et al. 2021, Switch
    Transformers, section 2 (arXiv:2101.03961); shared experts: Dai et al. 2024,
    DeepSeekMoE (arXiv:2401.06066), with the gate of transformers'
    `Qwen2MoeSparseMoeBlock`.
  """

  cfg: config.ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B S D'],
    is_real: Bool[Array, 'B S'],
    override: types.RouterOverride | None = None,
  ) -> tuple[Float[Array, 'B S D'], dict[str, Array]]:
    """The output, and the router's.

    Args:
      x: the tokens.
      is_real: False on padding, which takes no capacity.
      override: of this layer.
    """
    cfg = self.cfg
    jitter = None if override is None else override.jitter
    logits = _Router(cfg, name='gate')(x, jitter)
    probs = jax.nn.softmax(logits, axis=-1)
    chosen = choose(logits, cfg.experts_per_token, override)
    gate = jnp.take_along_axis(probs, chosen, axis=-1)
    if cfg.gate_scale == 'normalized':
      gate /= jnp.sum(gate, axis=-1, keepdims=True)
    elif cfg.gate_scale == 'none':
      gate = jnp.full_like(gate, 1 / cfg.experts_per_token)
    beside = {'logits': logits, 'chosen': chosen}
    if cfg.capacity_factor is not None:
      share = cfg.capacity_factor * cfg.experts_per_token / cfg.num_experts
      capacity = jnp.ceil(share * jnp.sum(is_real, axis=1))
      kept = within_capacity(chosen, is_real, cfg.num_experts, capacity)
      gate, beside['kept'] = jnp.where(kept, gate, 0.0), kept
    flat = lambda leaf: leaf.reshape(-1, leaf.shape[-1])
    y = dispatch.find(cfg.dispatch)(
      gelu if cfg.feed_forward == 'gelu_experts' else swiglu,
      _Kernels(cfg, name='experts')(x.dtype),
      *map(flat, (x, chosen, gate)),
    )
    y = y.reshape(x.shape)
    if cfg.shared_size:
      wide = dataclasses.replace(cfg, mlp_size=cfg.shared_size)
      is_gelu = cfg.feed_forward == 'gelu_experts'
      shared, _ = (Gelu if is_gelu else SwiGLU)(wide, name='shared_expert')(x)
      share = layers.Linear(cfg, 1, name='shared_expert_gate')(x)
      y += nn.sigmoid(share) * shared
    return y, beside


def swiglu(product: dispatch.Product, x: Float[Array, '*n D']):
  """`SwiGLU` of every token's own expert."""
  hidden = nn.silu(product(x, 'gate_proj')) * product(x, 'up_proj')
  return product(hidden, 'down_proj')


def gelu(product: dispatch.Product, x: Float[Array, '*n D']):
  """`Gelu` of every token's own expert; a bias is a product with 1."""
  one = jnp.ones_like(x[..., :1])
  hidden = product(x, 'up_proj') + product(one, 'up_bias')
  hidden = nn.gelu(hidden, approximate=True)
  return product(hidden, 'down_proj') + product(one, 'down_bias')


class _Router(nn.Module):
  """x W in float32."""

  cfg: config.ModelConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B S D'], jitter: types.RouterJitter | None
  ) -> Float[Array, 'B S E']:
    kernel = self.param(
      'kernel',
      nn.initializers.normal(self.cfg.router_init_std),
      (x.shape[-1], self.cfg.num_experts),
      jnp.dtype(self.cfg.param_dtype),
    )
    x = x.astype(jnp.float32)
    if jitter is not None:
      # The one draw in a module: factors of all layers, [N, B, S, D], would be
      # as large as all states.
      draw = lambda key: jax.random.uniform(key, x.shape[1:], minval=-1.0)
      x *= 1 + jitter.size[:, None, None] * jax.vmap(draw)(jitter.key)
    # Otherwise TPUs multiply in bfloat16 passes, and experts are swapped.
    return jnp.dot(
      x,
      kernel.astype(jnp.float32),
      precision=jax.lax.Precision.HIGHEST,
    )


class _Kernels(nn.Module):
  """The experts' kernels, each [E, in, out], in the compute dtype.

  A bias is a kernel [E, 1, out].
  """

  cfg: config.ModelConfig

  @nn.compact
  def __call__(self, dtype: jnp.dtype) -> dispatch.Kernels:
    cfg = self.cfg
    into = (cfg.hidden_size, cfg.mlp_size)
    shapes = {'gate_proj': into, 'up_proj': into, 'down_proj': into[::-1]}
    has_bias = cfg.feed_forward == 'gelu_experts'
    if has_bias:
      del shapes['gate_proj']
    kernels = {}
    for name, shape in shapes.items():
      kernel, bias = _Kernel(cfg, shape, has_bias, name=name)()
      kernels[name] = jnp.asarray(kernel, dtype)
      if has_bias:
        short = name.removesuffix('_proj')
        kernels[f'{short}_bias'] = jnp.asarray(bias[:, None], dtype)
    return kernels


class _Kernel(nn.Module):
  cfg: config.ModelConfig
  shape: tuple[int, int]
  has_bias: bool

  @nn.compact
  def __call__(self):
    cfg, dtype = self.cfg, jnp.dtype(self.cfg.param_dtype)
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(batch_axis=0),
      (cfg.num_experts, *self.shape),
      dtype,
    )
    if not self.has_bias:
      return kernel, None
    shape = (cfg.num_experts, self.shape[1])
    return kernel, self.param('bias', nn.initializers.zeros, shape, dtype)


def choose(
  logits: Float[Array, 'B S E'],
  count: int,
  override: types.RouterOverride | None,
) -> Int[Array, 'B S k']:
  """The k experts of each token; an override replaces the first choice.

  The other k - 1 are the best of the rest.
  """
  if override is None:
    return jax.lax.top_k(logits, count)[1]
  num_experts = logits.shape[-1]
  first = replaced(logits, override)
  is_first = first[..., None] == jnp.arange(num_experts).reshape(1, 1, -1)
  return jax.lax.top_k(jnp.where(is_first, jnp.inf, logits), count)[1]


def replaced(
  logits: Float[Array, 'B S E'], override: types.RouterOverride
) -> Int[Array, 'B S']:
  """The first choice under an override."""
  first = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  if override.quantile is not None:
    upto = jnp.cumsum(jax.nn.softmax(logits, axis=-1), axis=-1)
    # Sums of float32 may end below 1: the last expert takes what is beyond.
    drawn = jnp.sum(upto[..., :-1] <= override.quantile[..., None], axis=-1)
    first = jnp.where(override.quantile >= 0, drawn.astype(jnp.int32), first)
  if override.offset is not None:
    first = (first + override.offset) % logits.shape[-1]
  if override.expert is not None:
    first = jnp.where(override.expert >= 0, override.expert, first)
  return first


def within_capacity(
  chosen: Int[Array, 'B S k'],
  is_real: Bool[Array, 'B S'],
  num_experts: int,
  capacity: Float[Array, ' B'],
) -> Bool[Array, 'B S k']:
  """Whether a token is among the first `capacity` of its row at its expert.

  In the order of columns; first choices of a column come before second ones.
  """
  rows, size, count = chosen.shape
  hot = jax.nn.one_hot(chosen, num_experts, dtype=jnp.int32)
  hot = jnp.where(is_real[..., None, None], hot, 0)
  taken = jnp.cumsum(hot.reshape(rows, size * count, -1), axis=1)
  taken = taken.reshape(hot.shape)
  place = jnp.take_along_axis(taken, chosen[..., None], axis=-1)[..., 0]
  return (place <= capacity[:, None, None]) & is_real[..., None]


FEED_FORWARD = {
  'swiglu': SwiGLU,
  'gelu': Gelu,
  'experts': Experts,  # each a SwiGLU
  'gelu_experts': Experts,  # each a Gelu
}
