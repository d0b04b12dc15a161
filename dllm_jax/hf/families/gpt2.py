"""GPT-2: causal; LayerNorm, biases everywhere, learned positions, one c_attn.

Its kernels are [in, out] as ours are, and q, k and v are columns of one tensor.
"""

from collections.abc import Mapping
from typing import Any

from dllm_jax.hf.families import family

_QKV = 'attn.c_attn'
NAMES = family.Names(
  top={
    'embed_tokens': 'wte.weight',
    'embed_positions': 'wpe.weight',
    'norm/weight': 'ln_f.weight',
    'norm/bias': 'ln_f.bias',
    'lm_head/kernel': 'lm_head.weight',
  },
  blocks='h.{layer}.',
  block={
    'input_layernorm/weight': 'ln_1.weight',
    'input_layernorm/bias': 'ln_1.bias',
    'self_attn/q_proj/kernel': f'{_QKV}.weight',
    'self_attn/k_proj/kernel': f'{_QKV}.weight',
    'self_attn/v_proj/kernel': f'{_QKV}.weight',
    'self_attn/q_proj/bias': f'{_QKV}.bias',
    'self_attn/k_proj/bias': f'{_QKV}.bias',
    'self_attn/v_proj/bias': f'{_QKV}.bias',
    'self_attn/o_proj/kernel': 'attn.c_proj.weight',
    'self_attn/o_proj/bias': 'attn.c_proj.bias',
    'post_attention_layernorm/weight': 'ln_2.weight',
    'post_attention_layernorm/bias': 'ln_2.bias',
    'mlp/up_proj/kernel': 'mlp.c_fc.weight',
    'mlp/up_proj/bias': 'mlp.c_fc.bias',
    'mlp/down_proj/kernel': 'mlp.c_proj.weight',
    'mlp/down_proj/bias': 'mlp.c_proj.bias',
  },
  prefix='transformer.',
  is_in_out=True,
  buffers=('.attn.bias', '.attn.masked_bias'),
)


def derive(config: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that are absent or null have transformers' defaults."""
  width = config.get('n_embd')
  derived = {
    'activation_function': 'gelu_new',
    'scale_attn_weights': True,
    'tie_word_embeddings': True,
  }
  if type(width) is int:
    derived['n_inner'] = 4 * width
  return derived | {k: v for k, v in config.items() if v is not None}


FAMILY = family.Family(
  model_type='gpt2',
  architectures=('GPT2LMHeadModel',),
  sizes={
    'vocab_size': 'vocab_size',
    'hidden_size': 'n_embd',
    'num_layers': 'n_layer',
    'num_heads': 'n_head',
    'num_kv_heads': 'n_head',
    'mlp_size': 'n_inner',
    'max_positions': 'n_positions',
  },
  must={
    'activation_function': 'gelu_new',
    'add_cross_attention': False,
    'scale_attn_by_inverse_layer_idx': False,
    'scale_attn_weights': True,
  },
  fixed={
    'causal': True,
    'norm': 'layer',
    'attention_bias': True,
    'output_bias': True,
    'feed_forward': 'gelu',
  },
  names=NAMES,
  norm_eps='layer_norm_epsilon',
  ignored=frozenset(
    (
      'attn_pdrop',
      'embd_pdrop',
      'gradient_checkpointing',
      'id2label',
      'label2id',
      'n_ctx',
      'reorder_and_upcast_attn',  # float32 scores, which ours always are
      'resid_pdrop',
      'summary_activation',
      'summary_first_dropout',
      'summary_proj_to_labels',
      'summary_type',
      'summary_use_proj',
      'task_specific_params',
    )
  ),
  derive=derive,
  writes={},
)
