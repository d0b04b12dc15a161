"""The floating-point operations that an algorithm needs, and no more.

A multiply-add is two operations, and matrix products alone are counted: what
else a transformer does is linear in its activations. Every column passes
through every block, and only columns that are asked about are unembedded.
Recomputation (`ModelConfig.remat`, chunks of the unembedding) is no part of
the minimum. Dims: B rows, K views a row, S columns, Q queried columns.
"""

import dataclasses

from dllm_jax.models import config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
  """Weights of a model's matrices, in numbers.

  Attributes:
    layer: of one block, without adapters.
    adapters: of one block's adapters.
    unembedding: D V.
  """

  layer: int
  adapters: int
  unembedding: int


def size(cfg: config.ModelConfig) -> Size:
  """How many weights a column is multiplied with."""
  wide, narrow = (
    count * cfg.head_dim for count in (cfg.num_heads, cfg.num_kv_heads)
  )
  linears = (
    (cfg.hidden_size, wide),
    (cfg.hidden_size, narrow),
    (cfg.hidden_size, narrow),
    (wide, cfg.hidden_size),
    (cfg.hidden_size, cfg.mlp_size),
    (cfg.hidden_size, cfg.mlp_size),
    (cfg.mlp_size, cfg.hidden_size),
  )
  return Size(
    layer=sum(i * o for i, o in linears),
    adapters=cfg.lora_rank * sum(i + o for i, o in linears),
    unembedding=cfg.hidden_size * cfg.vocab_size,
  )


def num_params(cfg: config.ModelConfig) -> int:
  """Weights of the whole model, norms and biases left out."""
  weights = size(cfg)
  tables = 1 if cfg.tie_embeddings else 2
  layers = cfg.num_layers * (weights.layer + weights.adapters)
  return layers + tables * weights.unembedding


def attention(cfg: config.ModelConfig, columns: int, keys: int) -> int:
  """q k^T and its product with v, in all layers: 4 T S H d N."""
  width = cfg.num_heads * cfg.head_dim
  return 4 * columns * keys * width * cfg.num_layers


def forward(
  cfg: config.ModelConfig, columns: int, keys: int, queries: int
) -> int:
  """Of one row: 2 N (layer + adapters) T + 4 T S H d N + 2 D V Q.

  Args:
    cfg: the model.
    columns: T that pass through the blocks.
    keys: S that each of them reads.
    queries: Q that are unembedded.
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
  """Of one row: a product for the input's gradient, one for the weight's.

  Where there are adapters the other weights are frozen, and need no second
  product. Attention has no weights, but two inputs in each of its products.
  """
  weights = size(cfg)
  trained = 1 if cfg.lora_rank else 2
  layers = trained * weights.layer + 2 * weights.adapters
  return (
    2 * cfg.num_layers * layers * columns
    + 2 * attention(cfg, columns, keys)
    + trained * 2 * weights.unembedding * queries
  )


def decode_step(
  cfg: config.ModelConfig, *, rows: int, columns: int, block: int
) -> int:
  """Of one denoising step: the canvas forward, the active block unembedded."""
  return rows * forward(cfg, columns, columns, block)


def read(
  cfg: config.ModelConfig, *, rows: int, views: int, columns: int, slots: int
) -> int:
  """Of the log-probabilities of a fixed policy at all views."""
  return rows * views * forward(cfg, columns, columns, slots)


def inner_step(
  cfg: config.ModelConfig, *, rows: int, views: int, columns: int, slots: int
) -> int:
  """Of one optimiser step: all views forward and backward."""
  both = forward(cfg, columns, columns, slots)
  both += backward(cfg, columns, columns, slots)
  return rows * views * both


def update(
  cfg: config.ModelConfig,
  *,
  rows: int,
  views: int,
  columns: int,
  slots: int,
  num_inner: int,
  has_kl: bool,
) -> int:
  """Of `policy.update`: mu inner steps, and the reads that they need.

  The old policy is read for each inner step but the first, the reference for
  each where there is a KL term.
  """
  shape = {'rows': rows, 'views': views, 'columns': columns, 'slots': slots}
  reads = num_inner - 1 + (num_inner if has_kl else 0)
  return num_inner * inner_step(cfg, **shape) + reads * read(cfg, **shape)
