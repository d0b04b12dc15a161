"""The minimum number of floating-point operations of an algorithm.

A multiply-add is two operations, and only matrix products are counted: all else
in a transformer is linear in the activations. Every column passes through every
block, and only queried columns are unembedded. Recomputation
(`ModelConfig.remat`, chunks of the unembedding) is not part of the minimum.

Dims: N layers, T columns that are computed, S columns that they attend to, Q
columns that are unembedded, H heads, d head dim, D model, V vocabulary.
"""

import dataclasses

from dllm_jax.models import config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
  """Numbers of weights in a model's matrices.

  Attributes:
    layer: of one block without its adapters.
    adapters: of one block's adapters.
    unembedding: D V.
  """

  layer: int
  adapters: int
  unembedding: int


def size(cfg: config.ModelConfig) -> Size:
  """The numbers of weights that multiply a column."""
  wide, narrow = (
    count * cfg.head_dim for count in (cfg.num_heads, cfg.num_kv_heads)
  )
  is_gelu = cfg.feed_forward.startswith('gelu')
  linears = (
    (cfg.hidden_size, wide),
    (cfg.hidden_size, narrow),
    (cfg.hidden_size, narrow),
    (wide, cfg.hidden_size),
    *[(cfg.hidden_size, cfg.mlp_size)] * (1 if is_gelu else 2),
    (cfg.mlp_size, cfg.hidden_size),
  )
  return Size(
    layer=sum(i * o for i, o in linears),
    adapters=cfg.lora_rank * sum(i + o for i, o in linears),
    unembedding=cfg.hidden_size * cfg.vocab_size,
  )


def num_params(cfg: config.ModelConfig) -> int:
  """Number of weights of the whole model, except norms and biases."""
  weights = size(cfg)
  tables = 1 if cfg.tie_embeddings else 2
  layers = cfg.num_layers * (weights.layer + weights.adapters)
  return layers + tables * weights.unembedding


def attention(cfg: config.ModelConfig, columns: int, keys: int) -> int:
  """The products with keys and values in all layers: 4 T S H d N."""
  width = cfg.num_heads * cfg.head_dim
  return 4 * columns * keys * width * cfg.num_layers


def forward(
  cfg: config.ModelConfig, columns: int, keys: int, queries: int
) -> int:
  """One row forward: 2 N (layer + adapters) T + 4 T S H d N + 2 D V Q.

  Args:
    cfg: the model.
    columns: T, columns that pass through the blocks.
    keys: S, columns that each of them attends to.
    queries: Q, columns that are unembedded.
  """
  weights = size(cfg)
  layers = cfg.num_layers * (weights.layer + weights.adapters)
  return (
    2 * layers * columns
    + attention(cfg, columns, keys)
    + 2 * weights.unembedding * queries
  )


def backward(
  cfg: config.ModelConfig, columns: int, keys: int, queries: int
) -> int:
  """One row backward; arguments are those of `forward`.

  One product gives the gradient of the input and one that of the weight. With
  adapters the other weights are frozen and need only the first. Attention has
  no weights, but both inputs of its products need gradients.
  """
  weights = size(cfg)
  trained = 1 if cfg.lora_rank else 2
  layers = trained * weights.layer + 2 * weights.adapters
  return (
    2 * cfg.num_layers * layers * columns
    + 2 * attention(cfg, columns, keys)
    + trained * 2 * weights.unembedding * queries
  )
