"""The families of models that we read, by Hugging Face's config.json.

Pure data. Fields that no table of a family names are refused by `hf_config`,
unless they are null, false or empty.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Family(NamedTuple):
  """How one `model_type` maps to a `ModelConfig`.

  Attributes:
    model_type: its name in config.json.
    architectures: the class names it goes by, the first the one we write.
    sizes: our integer field, and theirs.
    must: fields of which only this value is ours; null and absence are right
      too where the value is false or null.
    fixed: `ModelConfig` fields that are the same for all of the family.
    tie: the name of the field that ties the unembedding.
    ignored: fields that change nothing that we compute.
  """

  model_type: str
  architectures: tuple[str, ...]
  sizes: Mapping[str, str]
  must: Mapping[str, Any]
  fixed: Mapping[str, Any]
  tie: str = 'tie_word_embeddings'
  ignored: frozenset[str] = frozenset()


# Bounds far above every model: they keep nonsense out of shape arithmetic.
LIMITS = {
  'vocab_size': 2**22,
  'hidden_size': 2**17,
  'num_layers': 2**10,
  'num_heads': 2**12,
  'num_kv_heads': 2**12,
  'head_dim': 2**12,
  'mlp_size': 2**20,
}
EVERYWHERE = frozenset(
  (
    'architectures',
    'auto_map',
    'model_type',
    'torch_dtype',
    'dtype',
    'transformers_version',
    'use_cache',
    '_name_or_path',
    '_attn_implementation',
    'initializer_range',
    'attention_dropout',
    'max_position_embeddings',
    'pretraining_tp',
  )
)
SPECIAL = frozenset(
  ('mask_token_id', 'eos_token_id', 'bos_token_id', 'pad_token_id')
)
ROPE = frozenset(('rope_theta', 'rope_scaling', 'rope_parameters'))
# Of the object in rope_scaling or rope_parameters.
ROPE_INNER = frozenset(
  (
    'rope_theta',
    'rope_type',
    'type',
    'factor',
    'low_freq_factor',
    'high_freq_factor',
    'original_max_position_embeddings',
  )
)
_LLAMA_SIZES = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_heads': 'num_attention_heads',
  'num_kv_heads': 'num_key_value_heads',
  'mlp_size': 'intermediate_size',
}
_QWEN_MUST = {'hidden_act': 'silu', 'use_sliding_window': False}
_QWEN_IGNORED = frozenset(('max_window_layers', 'sliding_window'))
FAMILIES = {
  'llada': Family(
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
  ),
  'dream': Family(
    model_type='Dream',
    architectures=('DreamModel',),
    sizes=_LLAMA_SIZES,
    must={**_QWEN_MUST, 'use_mrope': False},
    fixed={'attention_bias': True, 'logit_shift': True},
    ignored=_QWEN_IGNORED,
  ),
  'llama': Family(
    model_type='llama',
    architectures=('LlamaForCausalLM',),
    sizes=_LLAMA_SIZES,
    must={'hidden_act': 'silu', 'attention_bias': False, 'mlp_bias': False},
    fixed={'causal': True},
  ),
  'qwen2': Family(
    model_type='qwen2',
    architectures=('Qwen2ForCausalLM',),
    sizes=_LLAMA_SIZES,
    must=_QWEN_MUST,
    fixed={'causal': True, 'attention_bias': True},
    ignored=_QWEN_IGNORED,
  ),
  'qwen3': Family(
    model_type='qwen3',
    architectures=('Qwen3ForCausalLM',),
    sizes=_LLAMA_SIZES,
    must={**_QWEN_MUST, 'attention_bias': False},
    fixed={'causal': True, 'qk_norm': True},
    ignored=_QWEN_IGNORED,
  ),
}
