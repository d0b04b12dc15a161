"""Dream: Qwen2.5 without the causal mask; logits of the next position."""

from dllm_jax.hf.families import family, llama, qwen2
from dllm_jax.text import chat

FAMILY = family.Family(
  model_type='Dream',
  architectures=('DreamModel',),
  sizes=llama.SIZES,
  must={**qwen2.MUST, 'use_mrope': False},
  fixed={'attention_bias': True, 'logit_shift': True},
  names=qwen2.NAMES,
  ignored=qwen2.IGNORED,
  writes={},
  template=chat.FAMILIES['dream'],
)
