"""Qwen2 and Qwen2.5: causal, biases of the q, k and v projections."""

from dllm_jax.hf.families import family, llama
from dllm_jax.text import chat

MUST = {'hidden_act': 'silu', 'use_sliding_window': False}
IGNORED = frozenset(('max_window_layers', 'sliding_window'))
NAMES = llama.NAMES._replace(
  block={
    **llama.NAMES.block,
    'self_attn/q_proj/bias': 'self_attn.q_proj.bias',
    'self_attn/k_proj/bias': 'self_attn.k_proj.bias',
    'self_attn/v_proj/bias': 'self_attn.v_proj.bias',
  }
)
FAMILY = family.Family(
  model_type='qwen2',
  architectures=('Qwen2ForCausalLM',),
  sizes=llama.SIZES,
  must=MUST,
  fixed={'causal': True, 'attention_bias': True},
  names=NAMES,
  ignored=IGNORED,
  template=chat.FAMILIES['qwen2'],
)
