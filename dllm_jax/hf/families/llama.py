"""LLaMA 3: causal; rotary frequencies stretched by 'llama3', or not at all."""

from dllm_jax.hf.families import family

SIZES = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_heads': 'num_attention_heads',
  'num_kv_heads': 'num_key_value_heads',
  'mlp_size': 'intermediate_size',
}
NAMES = family.Names(
  top={
    'embed_tokens': 'model.embed_tokens.weight',
    'norm/weight': 'model.norm.weight',
    'lm_head/kernel': 'lm_head.weight',
  },
  blocks='model.layers.{layer}.',
  block={
    'input_layernorm/weight': 'input_layernorm.weight',
    'post_attention_layernorm/weight': 'post_attention_layernorm.weight',
    'self_attn/q_proj/kernel': 'self_attn.q_proj.weight',
    'self_attn/k_proj/kernel': 'self_attn.k_proj.weight',
    'self_attn/v_proj/kernel': 'self_attn.v_proj.weight',
    'self_attn/o_proj/kernel': 'self_attn.o_proj.weight',
    'mlp/gate_proj/kernel': 'mlp.gate_proj.weight',
    'mlp/up_proj/kernel': 'mlp.up_proj.weight',
    'mlp/down_proj/kernel': 'mlp.down_proj.weight',
  },
)
FAMILY = family.Family(
  model_type='llama',
  architectures=('LlamaForCausalLM',),
  sizes=SIZES,
  must={'hidden_act': 'silu', 'attention_bias': False, 'mlp_bias': False},
  fixed={'causal': True},
  names=NAMES,
)
