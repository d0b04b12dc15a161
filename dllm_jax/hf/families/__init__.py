"""The families of models that are read and written, a file each."""

from dllm_jax.hf.families import (
  dream,
  fast_dllm,
  gpt2,
  llada,
  llama,
  olmoe,
  qwen2,
  qwen2_moe,
  qwen3,
  qwen3_moe,
  sdar,
)

FAMILIES = {
  'llada': llada.FAMILY,
  'dream': dream.FAMILY,
  'sdar': sdar.FAMILY,
  'fast_dllm': fast_dllm.FAMILY,
  'llama': llama.FAMILY,
  'qwen2': qwen2.FAMILY,
  'qwen3': qwen3.FAMILY,
  'olmoe': olmoe.FAMILY,
  'qwen2_moe': qwen2_moe.FAMILY,
  'qwen3_moe': qwen3_moe.FAMILY,
  'gpt2': gpt2.FAMILY,
}
