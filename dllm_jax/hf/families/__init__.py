"""The families of models that are read and written, a file each."""

from dllm_jax.hf.families import dream, llada, llama, qwen2, qwen3

FAMILIES = {
  'llada': llada.FAMILY,
  'dream': dream.FAMILY,
  'llama': llama.FAMILY,
  'qwen2': qwen2.FAMILY,
  'qwen3': qwen3.FAMILY,
}
