"""Qwen3: causal, RMSNorm on queries and keys."""

from dllm_jax.hf.families import family, llama, qwen2
from dllm_jax.text import chat

NAMES = llama.NAMES._replace(
  block={
    **llama.NAMES.block,
    'self_attn/q_norm/weight': 'self_attn.q_norm.weight',
    'self_attn/k_norm/weight': 'self_attn.k_norm.weight',
  }
)
FAMILY = family.Family(
  model_type='qwen3',
  architectures=('Qwen3ForCausalLM',),
  sizes=llama.SIZES,
  must={**qwen2.MUST, 'attention_bias': False},
  fixed={'causal': True, 'qk_norm': True},
  names=NAMES,
  ignored=qwen2.IGNORED,
  head_dim=128,  # transformers' default
  template=chat.FAMILIES['qwen3'],
)
