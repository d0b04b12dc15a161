"""Fast-dLLM v2: Qwen2.5, masked diffusion over blocks; logits of the next
position."""

from dllm_jax.hf.families import family, llama, qwen2

FAMILY = family.Family(
  model_type='Fast_dLLM_Qwen',
  architectures=('Fast_dLLM_QwenForCausalLM',),
  sizes=llama.SIZES | {'block_causal': 'bd_size'},
  must=qwen2.MUST,
  fixed={'attention_bias': True, 'logit_shift': True},
  names=qwen2.NAMES,
  ignored=qwen2.IGNORED,
  # [MASK] is a default of the program beside the weights.
  derive=family.defaults(bd_size=32, mask_token_id=151665),
)
