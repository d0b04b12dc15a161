"""SDAR: Qwen3, masked diffusion over blocks; logits of the same position."""

from dllm_jax.hf.families import family, llama, qwen2, qwen3

FAMILY = family.Family(
  model_type='sdar',
  architectures=('SDARForCausalLM',),
  sizes=llama.SIZES | {'block_causal': 'block_size'},
  must=qwen3.FAMILY.must,
  fixed={'qk_norm': True},
  names=qwen3.NAMES,
  ignored=qwen2.IGNORED
  | {
    'attn_implementation',
    'debug',
    'ep_size',
    'fuse_cross_entropy',
    'micro_forward',
    'skip_checkpoint',
    'use_deepep',
  },
  # The released folders name neither: the block is in the script that decodes,
  # [MASK] in the tokenizer.
  derive=family.defaults(block_size=4, mask_token_id=151669),
  head_dim=qwen3.FAMILY.head_dim,
)
