"""One frozen record from which every transformer of the library is built."""

import dataclasses

from dllm_jax import validation
from dllm_jax.ops import dispatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
  """Llama 3's stretching of the low rotary frequencies; see `layers.rope`.

  Attributes:
    factor: divisor of the lowest frequencies.
    low_freq_factor: wavelengths above original_max_position over this are
      divided by the whole factor.
    high_freq_factor: those below original_max_position over this stay.
    original_max_position: tokens of the context before the stretching.
  """

  factor: float
  low_freq_factor: float
  high_freq_factor: float
  original_max_position: int

  def __post_init__(self):
    for name in ('factor', 'low_freq_factor', 'original_max_position'):
      if not getattr(self, name) > 0:
        raise ValueError(f'{name} {getattr(self, name)} is not positive')
    if not self.high_freq_factor > self.low_freq_factor:
      raise ValueError(
        f'high_freq_factor {self.high_freq_factor} is not above '
        f'low_freq_factor {self.low_freq_factor}'
      )


# Fields of `ModelConfig` that say how a run computes a model, whatever it is.
HOW_IT_RUNS = ('dtype', 'param_dtype', 'remat', 'attention', 'unroll')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """Shape and variant of a transformer.

  Attributes:
    vocab_size: rows of the embedding table.
    hidden_size: D.
    num_layers: blocks in the stack.
    num_heads: H query heads.
    num_kv_heads: K key and value heads; K divides H (K < H is GQA).
    head_dim: d.
    mlp_size: F, hidden width of the feed-forward part, or of one expert.
    rope_theta: base of the rotary frequencies.
    rope_scaling: how they are stretched (Llama 3); None: not at all.
    norm: 'rms' (RMSNorm), or 'layer' (LayerNorm with a bias, GPT-2).
    norm_eps: its epsilon.
    max_positions: rows of a table of positions that is learned and added to the
      embeddings (GPT-2); 0 has none, and queries and keys turn (RoPE).
    causal: True for autoregressive models, False for masked diffusion.
    block_causal: n > 0: masked diffusion in blocks of n tokens, counted from
      the first real token of a row; a token reads those of its own block and of
      the blocks before it. 0: it reads all.
    qk_norm: RMSNorm on queries and keys, per head (Qwen3).
    qk_norm_joint: the same over all heads together (OLMoE).
    attention_bias: biases of the q, k, v projections (Qwen2, Dream, GPT-2).
    output_bias: a bias of the o projection (GPT-2).
    tie_embeddings: the unembedding is the embedding table.
    logit_shift: logits at column k predict column k + 1 (Dream).
    dtype: compute dtype; logits and norms are float32.
    param_dtype: dtype of the stored weights.
    feed_forward: which one, a name of `feed_forward.FEED_FORWARD`.
    num_experts: E, of 'experts' and 'gelu_experts'; 0 elsewhere.
    sparse_every: the last of every so many layers has experts, and the others
      have the same feed-forward part without; 1 is experts in all.
    experts_per_token: k.
    gate_scale: weight of a chosen expert's output: its 'probability' (OLMoE,
      Qwen2-MoE), that 'normalized' over the chosen ones (Qwen3-MoE), or
      'none': 1 / k.
    capacity_factor: an expert serves at most this times its even share of a
      row's tokens; None is all tokens that choose it.
    shared_size: F of an expert that serves every token too (Qwen2-MoE); 0:
      none.
    router_init_std: standard deviation of the router's initial kernel.
    dispatch: how experts are computed, a name of `dispatch.DISPATCHES`, or
      'auto': the fast one of the backend.
    remat: what the backward pass recomputes: 'none', each 'block' except for
      its input, or all of it except for the 'dots', its products with weights.
    attention: 'xla', or 'cudnn': fused kernels without a table of scores, for
      bfloat16 or float16 on NVIDIA GPUs. Other devices and calls with a cache
      use 'xla' either way.
    unroll: a model of at most so many layers is compiled layer by layer, and a
      deeper one as a loop over its layers: faster to compile, slower to run.
    lora_rank: rank of the adapters of every Linear; 0 is none.
    lora_alpha: adapters are scaled by alpha / rank.
    embed_init_std: standard deviation of the initial embedding table.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_size: int
  rope_theta: float = 10_000.0
  rope_scaling: RopeScaling | None = None
  norm: str = 'rms'
  norm_eps: float = 1e-5
  max_positions: int = 0
  causal: bool = False
  block_causal: int = 0
  qk_norm: bool = False
  qk_norm_joint: bool = False
  attention_bias: bool = False
  output_bias: bool = False
  tie_embeddings: bool = False
  logit_shift: bool = False
  dtype: str = 'float32'
  param_dtype: str = 'float32'
  feed_forward: str = 'swiglu'
  num_experts: int = 0
  sparse_every: int = 1
  experts_per_token: int = 0
  gate_scale: str = 'probability'
  capacity_factor: float | None = None
  shared_size: int = 0
  router_init_std: float = 0.02
  dispatch: str = 'auto'
  remat: str = 'none'
  attention: str = 'xla'
  unroll: int = 4
  lora_rank: int = 0
  lora_alpha: float = 64.0
  embed_init_std: float = 0.02

  def __post_init__(self):
    validation.positive(
      self,
      'vocab_size',
      'hidden_size',
      'num_layers',
      'num_heads',
      'num_kv_heads',
      'head_dim',
      'mlp_size',
    )
    validation.not_negative(
      self,
      'max_positions',
      'block_causal',
      'unroll',
      'lora_rank',
      'shared_size',
    )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads {self.num_heads} is not a multiple of num_kv_heads '
        f'{self.num_kv_heads}'
      )
    if self.head_dim % 2 and not self.max_positions:
      raise ValueError(f'head_dim {self.head_dim} is odd; RoPE needs pairs')
    if self.causal and self.block_causal:
      raise ValueError(
        f'causal=True and block_causal {self.block_causal} exclude each other'
      )
    validation.choices(
      self,
      norm=('rms', 'layer'),
      remat=('none', 'block', 'dots'),
      attention=('xla', 'cudnn'),
    )
    if self.attention == 'cudnn':
      if self.dtype not in ('bfloat16', 'float16'):
        raise ValueError(
          f"attention 'cudnn' needs dtype 'bfloat16' or 'float16', not "
          f'{self.dtype!r}'
        )
      if self.head_dim % 8 or self.head_dim > 128:
        raise ValueError(
          "attention 'cudnn' needs a head_dim that is a multiple of 8 and at "
          f'most 128, not {self.head_dim}'
        )
    self._check_experts()

  @property
  def attention_block(self) -> int:
    """Size of the blocks in which tokens read each other; see
    `attention.visible`."""
    return 1 if self.causal else self.block_causal

  def dense(self) -> 'ModelConfig':
    """The model of the same sizes without experts in any layer."""
    if not self.num_experts:
      return self
    is_gelu = self.feed_forward == 'gelu_experts'
    return dataclasses.replace(
      self,
      feed_forward='gelu' if is_gelu else 'swiglu',
      num_experts=0,
      sparse_every=1,
      experts_per_token=0,
      capacity_factor=None,
      shared_size=0,
    )

  def with_experts(self, num_experts: int, sparse_every: int) -> 'ModelConfig':
    """The inverse of `dense`: copies of one MLP compute what it computes.

    Raises:
      ValueError: the model has experts or another feed-forward part, or a value
        is out of range.
    """
    kinds = {'swiglu': 'experts', 'gelu': 'gelu_experts'}
    if self.feed_forward not in kinds:
      raise ValueError(
        f'feed_forward {self.feed_forward!r}: only a dense transformer, with '
        f'one of {tuple(kinds)}, can be upcycled'
      )
    return dataclasses.replace(
      self,
      feed_forward=kinds[self.feed_forward],
      num_experts=num_experts,
      sparse_every=sparse_every,
      experts_per_token=1,
      gate_scale='none',
    )

  def _check_experts(self):
    if self.feed_forward.endswith('experts') != (self.num_experts > 0):
      raise ValueError(
        f'num_experts {self.num_experts} does not fit feed_forward '
        f"{self.feed_forward!r}: 'experts' and 'gelu_experts' need some, and "
        'no other has any'
      )
    if self.num_experts and not (
      1 <= self.experts_per_token <= self.num_experts
    ):
      raise ValueError(
        f'experts_per_token {self.experts_per_token} is not in '
        f'1..num_experts, which is {self.num_experts}'
      )
    if self.sparse_every < 1 or self.num_layers % self.sparse_every:
      raise ValueError(
        f'sparse_every {self.sparse_every} does not divide num_layers '
        f'{self.num_layers}'
      )
    if self.sparse_every > 1 and not self.num_experts:
      raise ValueError(
        f'sparse_every {self.sparse_every} is for models with experts: use 1'
      )
    if self.shared_size and not self.num_experts:
      raise ValueError(
        f'shared_size {self.shared_size} is for models with experts: use 0'
      )
    if self.num_experts and self.lora_rank:
      raise ValueError(
        f'lora_rank {self.lora_rank}: models with experts cannot have adapters'
      )
    if self.max_positions and self.lora_rank:
      raise ValueError(
        f'lora_rank {self.lora_rank}: models with a table of positions '
        '(max_positions) cannot have adapters'
      )
    if self.qk_norm and self.qk_norm_joint:
      raise ValueError('qk_norm and qk_norm_joint exclude each other')
    if self.capacity_factor is not None and not self.capacity_factor > 0:
      raise ValueError(
        f'capacity_factor {self.capacity_factor} is not positive: no expert '
        'would serve a token; None sets no bound'
      )
    validation.choices(
      self,
      gate_scale=('probability', 'normalized', 'none'),
      dispatch=('auto', *dispatch.DISPATCHES),
    )
