"""The feed-forward part of a block, chosen by `ModelConfig.feed_forward`.

A part maps states to states, and returns beside them a dict of arrays that are
collected by layer (`stack.LayerOutputs`). Dims: B rows, S columns, D
model, F hidden width.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from dllm_jax.models import config, layers


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


FEED_FORWARD = {'swiglu': SwiGLU}
