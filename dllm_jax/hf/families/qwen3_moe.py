"""Qwen3-MoE: Qwen3 with experts in every layer."""

from dllm_jax.hf.families import family, olmoe, qwen2, qwen3

FAMILY = family.Family(
  model_type='qwen3_moe',
  architectures=('Qwen3MoeForCausalLM',),
  sizes=olmoe.SIZES | {'mlp_size': 'moe_intermediate_size'},
  flags=olmoe.FLAGS,
  must={**qwen2.MUST, 'attention_bias': False, 'decoder_sparse_step': 1},
  fixed={'causal': True, 'qk_norm': True, 'feed_forward': 'experts'},
  names=olmoe.NAMES,
  # The width of dense layers, which there are none of.
  ignored=qwen2.IGNORED | olmoe.IGNORED | {'intermediate_size'},
  head_dim=qwen3.FAMILY.head_dim,
  writes=qwen3.FAMILY.writes | {'intermediate_size': 'mlp_size'},
  template=qwen3.FAMILY.template,
)
