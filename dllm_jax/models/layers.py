"""The parts of a block: Linear with its adapter, norms, RoPE.

Dims: B rows, S columns, H heads, d head dim, D model.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dllm_jax.models import config
from dllm_jax.ops import quantize


class Linear(nn.Module):
  """y = x W + b + (alpha / rank) (x A) B, the adapter only where rank > 0.

  The kernel is in `param_dtype`, and frozen when adapters are trained. A and B
  are float32, and cast to x's dtype for use like the kernel. B starts at zero,
  so a new adapter changes nothing.

  References:
    Hu et al. 2021, LoRA, eq. 3 (arXiv:2106.09685).
  """

  cfg: config.ModelConfig
  features: int
  use_bias: bool = False
  wide: bool = False  # accumulate and return in float32 (the unembedding)

  @nn.compact
  def __call__(self, x: Float[Array, '*n i']) -> Float[Array, '*n o']:
    cfg, size = self.cfg, x.shape[-1]
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(),
      (size, self.features),
      jnp.dtype(cfg.param_dtype),
    )
    scale = None  # of the weights that `compression` made
    for name in (quantize.CHANNEL_SCALE, quantize.GROUP_SCALE):
      if self.has_variable('params', name):
        scale = self.get_variable('params', name)
    out_dtype = jnp.dtype(jnp.float32 if self.wide else x.dtype)
    y = quantize.product(x, jnp.asarray(kernel), scale, out_dtype)
    if self.use_bias:
      bias = self.param(
        'bias', nn.initializers.zeros, (self.features,), cfg.param_dtype
      )
      y += jnp.broadcast_to(bias.astype(x.dtype), y.shape)
    if cfg.lora_rank:
      lora_a = self.param(
        'lora_a', nn.initializers.lecun_normal(), (size, cfg.lora_rank)
      )
      lora_b = self.param(
        'lora_b', nn.initializers.zeros, (cfg.lora_rank, self.features)
      )
      scale = cfg.lora_alpha / cfg.lora_rank
      inner = quantize.product(x, lora_a, None, x.dtype)
      y += quantize.product(inner, scale * lora_b, None, x.dtype).astype(
        y.dtype
      )
    return y


class RMSNorm(nn.Module):
  """x / rms(x) * weight, computed in float32."""

  cfg: config.ModelConfig

  @nn.compact
  def __call__(self, x: Float[Array, '*n D']) -> Float[Array, '*n D']:
    weight = self.param(
      'weight', nn.initializers.ones, x.shape[-1:], self.cfg.param_dtype
    )
    wide = x.astype(jnp.float32)
    wide *= jax.lax.rsqrt(
      jnp.mean(wide * wide, axis=-1, keepdims=True) + self.cfg.norm_eps
    )
    weight = jnp.broadcast_to(weight.astype(jnp.float32), x.shape)
    return (wide * weight).astype(x.dtype)


class LayerNorm(nn.Module):
  """(x - mean(x)) / std(x) * weight + bias, computed in float32.

  References:
    Ba et al. 2016, eq. 4 (arXiv:1607.06450).
  """

  cfg: config.ModelConfig

  @nn.compact
  def __call__(self, x: Float[Array, '*n D']) -> Float[Array, '*n D']:
    size, kind = x.shape[-1:], self.cfg.param_dtype
    weight = self.param('weight', nn.initializers.ones, size, kind)
    bias = self.param('bias', nn.initializers.zeros, size, kind)
    wide = x.astype(jnp.float32)
    wide -= jnp.mean(wide, axis=-1, keepdims=True)
    wide *= jax.lax.rsqrt(
      jnp.mean(wide * wide, axis=-1, keepdims=True) + self.cfg.norm_eps
    )
    weight, bias = (
      jnp.broadcast_to(leaf.astype(jnp.float32), x.shape)
      for leaf in (weight, bias)
    )
    return (wide * weight + bias).astype(x.dtype)


# By the value of `ModelConfig.norm`.
NORMS = {'rms': RMSNorm, 'layer': LayerNorm}


def rope_frequencies(
  head_dim: int, theta: float, scaling: config.RopeScaling | None = None
) -> Float[Array, ' half']:
  """Angle per position of each pair of columns, in float32.

  f_i = theta^(-2i/d). Llama 3 stretches these for a longer context: with the
  wavelength w = 2 pi / f, the old context c and the factor a, a pair that turns
  at least `high` times in c keeps f, one that turns at most `low` times gets
  f / a, and between them f is interpolated linearly in the turns c / w.

  References:
    Grattafiori et al. 2024, Llama 3, section 3.4.3 (arXiv:2407.21783).
  """
  half = head_dim // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if scaling is None:
    return frequency
  turns = scaling.original_max_position * frequency / (2 * jnp.pi)
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
  return frequency * (kept + (1 - kept) / scaling.factor)


def rope(
  x: Float[Array, 'B S H d'],
  position: Int[Array, 'B S'],
  *,
  theta: float,
  scaling: config.RopeScaling | None = None,
) -> Float[Array, 'B S H d']:
  """Rotary position embedding, halves convention, angles in float32.

  (x1, x2) -> (x1 cos a - x2 sin a, x2 cos a + x1 sin a),
  a = position * theta^(-2i/d), scaled as `rope_frequencies` says: column i
  turns with column i + d/2, as in the Hugging Face weights of LLaMA, Qwen and
  LLaDA.

  References:
    Su et al. 2021, RoFormer, eq. 34 (arXiv:2104.09864).
  """
  frequency = rope_frequencies(x.shape[-1], theta, scaling)
  angle = position[:, :, None, None].astype(jnp.float32) * frequency.reshape(
    1, 1, 1, -1
  )
  cos, sin = jnp.cos(angle), jnp.sin(angle)  # [B, S, 1, d/2]
  x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)
  return turned.astype(x.dtype)
