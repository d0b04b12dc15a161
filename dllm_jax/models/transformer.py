"""One transformer for LLaDA, Dream, LLaMA and Qwen, by `ModelConfig`.

The blocks are one `Block`, stacked: every leaf of `params['layers']` has a
leading [num_layers] axis, and a run of layers is a slice of it. Leaf names are
Hugging Face's. Dims: B rows, S columns, Q queried columns, D model, V
vocabulary.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.models import attention, config, layers, parts
from dllm_jax.ops import schedules

# What the backward pass finds of a block's forward pass, beside its input.
REMAT = {
  'block': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nn.Module):
  """Pre-norm attention and SwiGLU, each with a residual.

  Attributes:
    cfg: of what this device computes.
    layout: of the model.
  """

  cfg: config.ModelConfig
  layout: parts.Layout = parts.WHOLE

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B S D'],
    allowed: Bool[Array, 'B S S'],
    position: Int[Array, 'B S'],
  ) -> Float[Array, 'B S D']:
    cfg = self.cfg
    normed = layers.RMSNorm(cfg, name='input_layernorm')(x)
    mixed = attention.Attention(cfg, name='self_attn')(
      normed, allowed, position
    )
    x += parts.add(mixed, self.layout)
    normed = layers.RMSNorm(cfg, name='post_attention_layernorm')(x)
    return x + parts.add(layers.SwiGLU(cfg, name='mlp')(normed), self.layout)


def _stacked_blocks(key: Key[Array, ''], cfg: config.ModelConfig):
  """Initial parameters of all blocks, stacked on a leading axis."""
  x = jnp.zeros((1, 1, cfg.hidden_size), cfg.dtype)
  allowed = jnp.ones((1, 1, 1), bool)
  position = jnp.zeros((1, 1), jnp.int32)

  def one(key):
    return Block(cfg, parent=None).init(key, x, allowed, position)['params']

  return jax.vmap(one)(jax.random.split(key, cfg.num_layers))


def run_layers(
  cfg: config.ModelConfig,
  params: types.Params,
  x: Float[Array, 'B S D'],
  allowed: Bool[Array, 'B S S'],
  position: Int[Array, 'B S'],
  start: int = 0,
  stop: int | None = None,
  layout: parts.Layout = parts.WHOLE,
) -> Float[Array, 'B S D']:
  """Applies blocks [start, stop) by `lax.scan` over the stacked parameters.

  Args:
    cfg: of what this device computes; `cfg.remat` says what the backward pass
      recomputes.
    params: the stacked blocks, `model_params['layers']`.
    x: input of block `start`.
    allowed: which key each query may read.
    position: position ids.
    start: first block.
    stop: one past the last; None for all.
    layout: of the model.

  Returns:
    Output of block `stop` - 1.
  """

  def body(x, block_params):
    block_params = parts.gather(block_params, layout, cfg.dtype, of_layer=True)
    y = Block(cfg, layout, parent=None).apply(
      {'params': block_params}, x, allowed, position
    )
    return y, None

  if cfg.remat != 'none':
    # A scan keeps the compiler from undoing it.
    body = jax.checkpoint(body, policy=REMAT[cfg.remat], prevent_cse=False)
  segment = jax.tree.map(lambda leaf: leaf[start:stop], params)
  x, _ = jax.lax.scan(body, x, segment)
  return x


class Transformer(nn.Module):
  """Token ids to float32 logits. No sampling, no loss, no randomness inside.

  Attributes:
    cfg: of what this device computes (`parts.local_config`).
    layout: of the model; but for its layers, its parameters are put together
      over `fsdp` already.
  """

  cfg: config.ModelConfig
  layout: parts.Layout = parts.WHOLE

  def setup(self):
    cfg = self.cfg
    self.embed_tokens = self.param(
      'embed_tokens',
      nn.initializers.normal(cfg.embed_init_std),
      (cfg.vocab_size, cfg.hidden_size),
      jnp.dtype(cfg.param_dtype),
    )
    if self.is_initializing():
      self.layers = self.param('layers', _stacked_blocks, cfg)
    else:  # `param` would miss what `run_layers` has yet to gather
      self.layers = self.get_variable('params', 'layers')
    self.norm = layers.RMSNorm(cfg)
    if not cfg.tie_embeddings:
      # The unembedding is no target of the adapters.
      plain = dataclasses.replace(cfg, lora_rank=0)
      self.lm_head = layers.Linear(plain, cfg.vocab_size, wide=True)

  def hidden(
    self, tokens: Int[Array, 'B S'], attention_mask: Bool[Array, 'B S']
  ) -> Float[Array, 'B S D']:
    """States after the final norm, of every column."""
    cfg = self.cfg
    allowed = attention.visible(attention_mask, causal=cfg.causal)
    position = schedules.positions(attention_mask)
    x = parts.look_up(self.embed_tokens, tokens, self.layout, cfg.dtype)
    x = run_layers(cfg, self.layers, x, allowed, position, layout=self.layout)
    return self.norm(x)

  def unembed(self, hidden: Float[Array, 'B Q D']) -> Float[Array, 'B Q V']:
    """Float32 logits of the given states."""
    if self.cfg.tie_embeddings:
      table = self.embed_tokens.astype(hidden.dtype)
      logits = jnp.dot(hidden, table.T, preferred_element_type=jnp.float32)
    else:
      logits = self.lm_head(hidden)
    return parts.join(logits, self.layout)

  def __call__(
    self, tokens: Int[Array, 'B S'], attention_mask: Bool[Array, 'B S']
  ) -> Float[Array, 'B S V']:
    """Float32 logits of every column."""
    return self.unembed(self.hidden(tokens, attention_mask))


def _previous_real(
  attention_mask: Bool[Array, 'B S'], query: Int[Array, 'B Q']
) -> Int[Array, 'B Q']:
  """The nearest real column before each query; column 0 where there is none."""
  columns = jnp.broadcast_to(
    jnp.arange(attention_mask.shape[1])[None], attention_mask.shape
  )
  latest = jax.lax.cummax(jnp.where(attention_mask, columns, 0), axis=1)
  return jnp.take_along_axis(latest, jnp.maximum(query - 1, 0), axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerDenoiser:
  """`types.Denoiser` of a bidirectional transformer.

  Only the queried columns are unembedded. Where the model's logits are
  shifted (Dream), column k is read from the state of the token before it.

  Attributes:
    cfg: the model.
    layout: where the model is in parts.
  """

  cfg: config.ModelConfig
  layout: parts.Layout = parts.WHOLE

  def part(self, mesh: Mesh) -> 'TransformerDenoiser':
    """The same as each device of a mesh computes it; see `types.Divisible`."""
    layout = parts.layout_on(mesh, self.cfg)
    return dataclasses.replace(self, layout=layout)

  def placed(self, mesh: Mesh) -> 'TransformerDenoiser':
    """The same under `jit` over a mesh; see `types.Divisible`."""
    return dataclasses.replace(self, layout=parts.Layout(mesh=mesh))

  def __call__(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q V']:
    return self.unembed(
      params, self.states(params, tokens, attention_mask, query)
    )

  def states(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q D']:
    """What the logits of the queried columns are made of."""
    model, variables = self._whole(params)
    hidden = model.apply(
      variables, tokens, attention_mask, method=Transformer.hidden
    )
    if self.cfg.logit_shift:
      query = _previous_real(attention_mask, query)
    return jnp.take_along_axis(hidden, query[..., None], axis=1)

  def unembed(
    self, params: types.Params, states: Float[Array, 'B Q D']
  ) -> Float[Array, 'B Q V']:
    """The logits of `states`."""
    model, variables = self._whole(params)
    return model.apply(variables, states, method=Transformer.unembed)

  def _whole(self, params: types.Params) -> tuple[Transformer, types.Params]:
    """The model, and its variables with all but the layers put together."""
    model = Transformer(parts.local_config(self.cfg, self.layout), self.layout)
    outer = {k: v for k, v in params.items() if k != 'layers'}
    outer = parts.gather(outer, self.layout, self.cfg.dtype)
    return model, {'params': {**outer, 'layers': params['layers']}}


def init(key: Key[Array, ''], cfg: config.ModelConfig) -> types.Params:
  """Fresh parameters. `key` is consumed; jit this, eager init is slow."""
  # They do not depend on it, and JAX's call of cuDNN has no vmap over queries
  # that keeps the mask.
  cfg = dataclasses.replace(cfg, attention='xla')
  tokens = jnp.zeros((1, 2), jnp.int32)
  return Transformer(cfg).init(key, tokens, jnp.ones((1, 2), bool))['params']


def shapes(cfg: config.ModelConfig) -> types.Params:
  """Shape and dtype of every parameter; nothing is computed."""
  return jax.eval_shape(lambda: init(jax.random.key(0), cfg))
