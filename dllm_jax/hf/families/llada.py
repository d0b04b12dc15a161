"""LLaDA and iLLaDA: bidirectional; grouped heads and tied tables allowed."""

from collections.abc import Mapping
from typing import Any

from dllm_jax.hf.families import family
from dllm_jax.text import chat


def derive(config: Mapping[str, Any]) -> dict[str, Any]:
  """LLaDA's config.json derives these fields where they are null."""
  ratio, width = config.get('mlp_ratio'), config.get('d_model')
  derived = {
    'embedding_size': config.get('vocab_size'),
    'n_kv_heads': config.get('n_heads'),
  }
  if type(ratio) is int and type(width) is int:
    derived['mlp_hidden_size'] = ratio * width
  return derived | {k: v for k, v in config.items() if v is not None}


FAMILY = family.Family(
  model_type='llada',
  architectures=('LLaDAModelLM',),
  sizes={
    'vocab_size': 'embedding_size',
    'hidden_size': 'd_model',
    'num_layers': 'n_layers',
    'num_heads': 'n_heads',
    'num_kv_heads': 'n_kv_heads',
    'mlp_size': 'mlp_hidden_size',
  },
  must={
    'activation_type': 'silu',
    'alibi': False,
    'attention_layer_norm': False,
    'bias_for_layer_norm': False,
    'block_group_size': 1,
    'block_type': 'llama',
    'clip_qkv': None,
    'include_bias': False,
    'include_qkv_bias': False,
    'input_emb_norm': False,
    'layer_norm_type': 'rms',
    'layer_norm_with_affine': True,
    'multi_query_attention': False,
    'rope': True,
    'scale_logits': False,
  },
  fixed={},
  names=family.Names(
    top={
      'embed_tokens': 'model.transformer.wte.weight',
      'norm/weight': 'model.transformer.ln_f.weight',
      'lm_head/kernel': 'model.transformer.ff_out.weight',
    },
    blocks='model.transformer.blocks.{layer}.',
    block={
      'input_layernorm/weight': 'attn_norm.weight',
      'post_attention_layernorm/weight': 'ff_norm.weight',
      'self_attn/q_proj/kernel': 'q_proj.weight',
      'self_attn/k_proj/kernel': 'k_proj.weight',
      'self_attn/v_proj/kernel': 'v_proj.weight',
      'self_attn/o_proj/kernel': 'attn_out.weight',
      'mlp/gate_proj/kernel': 'ff_proj.weight',
      'mlp/up_proj/kernel': 'up_proj.weight',
      'mlp/down_proj/kernel': 'ff_out.weight',
    },
  ),
  tie='weight_tying',
  ignored=frozenset(
    (
      'alibi_bias_max',
      'attention_layer_norm_with_affine',
      'embedding_dropout',
      'flash_attention',
      'init_cutoff_factor',
      'init_device',
      'init_fn',
      'init_std',
      'max_sequence_length',
      'mlp_ratio',
      'precision',
      'residual_dropout',
      'rope_full_precision',
      'vocab_size',
    )
  ),
  derive=derive,
  writes={'vocab_size': 'vocab_size'},
  template=chat.FAMILIES['llada'],
)
