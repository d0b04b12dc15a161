"""config.json: what is read, and what is refused by name."""

import dataclasses
import json

import pytest

from dllm_jax import errors
from dllm_jax.hf import config as hf_config
from dllm_jax.hf.families import FAMILIES
from dllm_jax.models import config, transformer
from tests import tiny

LLAMA = {
  'architectures': ['LlamaForCausalLM'],
  'model_type': 'llama',
  'vocab_size': 128,
  'hidden_size': 64,
  'num_hidden_layers': 3,
  'num_attention_heads': 8,
  'num_key_value_heads': 2,
  'intermediate_size': 96,
  'hidden_act': 'silu',
  'rms_norm_eps': 1e-5,
  'rope_theta': 500000.0,
  'eos_token_id': [7, 9],
  'bos_token_id': 1,
}
SCALING = {
  'rope_type': 'llama3',
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 8192,
}
LLADA = {
  'model_type': 'llada',
  'vocab_size': 90,
  'embedding_size': 96,
  'd_model': 32,
  'n_layers': 2,
  'n_heads': 4,
  'mlp_hidden_size': 48,
  'activation_type': 'silu',
  'block_group_size': 1,
  'block_type': 'llama',
  'layer_norm_type': 'rms',
  'layer_norm_with_affine': True,
  'rope': True,
  'rope_theta': 10000.0,
  'rms_norm_eps': 1e-5,
  'mask_token_id': 95,
  'eos_token_id': 3,
}


def test_llama_by_hand():
  record = hf_config.parse(LLAMA | {'rope_scaling': SCALING}, 'c')
  assert record.family == 'llama'
  assert record.model == config.ModelConfig(
    vocab_size=128,
    hidden_size=64,
    num_layers=3,
    num_heads=8,
    num_kv_heads=2,
    head_dim=8,
    mlp_size=96,
    rope_theta=500_000.0,
    rope_scaling=config.RopeScaling(
      factor=8.0,
      low_freq_factor=1.0,
      high_freq_factor=4.0,
      original_max_position=8192,
    ),
    norm_eps=1e-5,
    causal=True,
  )
  assert record.special == hf_config.Special(eos_tokens=(7, 9), bos_token=1)
  assert record.notices == ()


def test_transformers_5_writes_one_rope_object():
  old = hf_config.parse(LLAMA | {'rope_scaling': SCALING}, 'c')
  new = {k: v for k, v in LLAMA.items() if k != 'rope_theta'} | {
    'dtype': 'bfloat16',
    'rope_parameters': SCALING | {'rope_theta': 500000.0},
    'layer_types': ['full_attention'] * 3,
  }
  assert hf_config.parse(new, 'c').model == old.model
  new['rope_parameters'] = {'rope_type': 'default', 'rope_theta': 500000.0}
  assert hf_config.parse(new, 'c').model == hf_config.parse(LLAMA, 'c').model


def test_llada_derives_what_is_null():
  record = hf_config.parse(LLADA, 'c')
  assert record.model.vocab_size == 96  # the rows of the table
  assert record.model.num_kv_heads == 4
  assert record.special.mask_token == 95
  null = {'embedding_size': None, 'mlp_hidden_size': None, 'mlp_ratio': 4}
  record = hf_config.parse(LLADA | null | {'mask_token_id': 89}, 'c')
  assert (record.model.vocab_size, record.model.mlp_size) == (90, 128)


GPT2 = {
  'model_type': 'gpt2',
  'vocab_size': 50257,
  'n_embd': 768,
  'n_layer': 12,
  'n_head': 12,
  'n_positions': 1024,
  'n_ctx': 1024,
  'layer_norm_epsilon': 1e-5,
  'eos_token_id': 50256,
}


def test_gpt2_by_hand():
  """As on the hub, which leaves out what has transformers' default."""
  model = hf_config.parse(GPT2, 'c').model
  assert (model.num_kv_heads, model.head_dim, model.mlp_size) == (12, 64, 3072)
  assert model.tie_embeddings and model.max_positions == 1024
  assert hf_config.parse(GPT2 | {'n_inner': 96}, 'c').model.mlp_size == 96
  untied = hf_config.parse(GPT2 | {'tie_word_embeddings': False}, 'c').model
  assert not untied.tie_embeddings


@pytest.mark.parametrize(
  'changes, line',
  [
    ({'activation_function': 'relu'}, "activation_function is 'relu'; only"),
    ({'scale_attn_weights': False}, 'scale_attn_weights is False; only True'),
    ({'scale_attn_by_inverse_layer_idx': True}, 'idx is True; only False'),
    ({'n_positions': 0}, 'n_positions is 0; it must be an integer in'),
    ({'rope_theta': 1e4}, "the field 'rope_theta' is unknown"),
    ({'rms_norm_eps': 1e-5}, "the field 'rms_norm_eps' is unknown"),
  ],
)
def test_what_is_not_ours_of_gpt2_is_named(changes, line):
  with pytest.raises(errors.UserError, match=line):
    hf_config.parse(GPT2 | changes, 'c')


def test_program_code_is_noticed():
  record = hf_config.parse(LLADA | {'auto_map': {'AutoModel': 'm.C'}}, 'c')
  (notice,) = record.notices
  assert 'auto_map' in notice and 'not run' in notice


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('tie', [False, True])
def test_what_we_write_is_read_back(family, tie):
  fixed = dict(FAMILIES[family].fixed)
  if 'num_experts' in FAMILIES[family].sizes:
    fixed |= {'num_experts': 5, 'experts_per_token': 3}
    fixed['gate_scale'] = 'normalized' if tie else 'probability'
  if 'shared_size' in FAMILIES[family].sizes:
    fixed['shared_size'] = 7
  if 'block_causal' in FAMILIES[family].sizes:
    fixed['block_causal'] = 5
  model = dataclasses.replace(
    tiny.MODEL, tie_embeddings=tie, norm_eps=1e-6, **fixed
  )
  if family == 'gpt2':
    fixed = {'num_kv_heads': 4, 'max_positions': 40}
    model = dataclasses.replace(model, **fixed)
  if family == 'llama':
    scaling = config.RopeScaling(
      factor=2.0,
      low_freq_factor=1.0,
      high_freq_factor=3.0,
      original_max_position=64,
    )
    model = dataclasses.replace(model, rope_scaling=scaling)
  special = hf_config.Special(
    mask_token=None if model.causal else 29,
    eos_tokens=(28, 27),
    bos_token=3,
    pad_token=4,
  )
  record = hf_config.Record(family, transformer.of_config(model), special)
  text = json.dumps(hf_config.render(record, 'float32'))
  again = hf_config.parse(json.loads(text), 'c')
  assert (again.family, again.model, again.special) == (family, model, special)


def test_published_fields_of_qwen2_moe():
  """As on the hub; `qkv_bias` is newer than its folders."""
  published = LLAMA | {
    'architectures': ['Qwen2MoeForCausalLM'],
    'model_type': 'qwen2_moe',
    'decoder_sparse_step': 1,
    'intermediate_size': 5632,
    'max_window_layers': 21,
    'mlp_only_layers': [],
    'moe_intermediate_size': 1408,
    'norm_topk_prob': False,
    'num_experts': 60,
    'num_experts_per_tok': 4,
    'output_router_logits': False,
    'router_aux_loss_coef': 0.001,
    'shared_expert_intermediate_size': 5632,
    'sliding_window': 32_768,
    'use_sliding_window': False,
  }
  model = hf_config.parse(published, 'c').model
  assert (model.mlp_size, model.shared_size) == (1408, 5632)
  assert (model.num_experts, model.experts_per_token) == (60, 4)
  assert model.attention_bias and model.gate_scale == 'probability'
  for changes in (
    {'qkv_bias': False},
    {'decoder_sparse_step': 2},
    {'mlp_only_layers': [0]},
  ):
    with pytest.raises(errors.UserError, match=next(iter(changes))):
      hf_config.parse(published | changes, 'c')


# Without what its program alone says: the size of blocks, and [MASK].
SDAR = LLAMA | {
  'architectures': ['SDARForCausalLM'],
  'model_type': 'sdar',
  'vocab_size': 151_936,
  'head_dim': 16,
  'attention_bias': False,
  'attn_implementation': 'flex_attention',
  'ep_size': 1,
  'fuse_cross_entropy': True,
  'debug': False,
  'use_sliding_window': False,
  'eos_token_id': 151_643,
}
FAST = (
  SDAR
  | {
    'architectures': ['Fast_dLLM_QwenForCausalLM'],
    'model_type': 'Fast_dLLM_Qwen',
    'head_dim': None,
    'layer_types': ['full_attention'] * 3,
  }
  | dict.fromkeys(('attn_implementation', 'ep_size', 'fuse_cross_entropy'))
)


@pytest.mark.parametrize(
  'written, field, size, mask, rest',
  [
    (SDAR, 'block_size', 4, 151_669, {'qk_norm': True, 'head_dim': 16}),
    (
      FAST,
      'bd_size',
      32,
      151_665,
      {'attention_bias': True, 'logit_shift': True, 'head_dim': 8},
    ),
  ],
)
def test_blocks_that_a_config_leaves_out(written, field, size, mask, rest):
  record = hf_config.parse(written, 'c')
  (notice,) = record.notices
  assert f'has no {field}: blocks are of {size} tokens' in notice
  assert record.special.mask_token == mask
  assert record.model == dataclasses.replace(
    hf_config.parse(LLAMA, 'c').model,
    causal=False,
    block_causal=size,
    vocab_size=151_936,
    **rest,
  )
  own = hf_config.parse(written | {field: 16, 'mask_token_id': 5}, 'c')
  assert (own.model.block_causal, own.special.mask_token) == (16, 5)
  assert own.notices == ()
  for wrong in (0, -4, 2.5, '4'):
    with pytest.raises(errors.UserError, match=f'{field} is .*1\\.\\.'):
      hf_config.parse(written | {field: wrong}, 'c')
  with pytest.raises(errors.UserError, match='mask_token_id is 151'):
    hf_config.parse(written | {'vocab_size': 128, 'eos_token_id': 3}, 'c')


def test_a_model_that_is_not_of_the_family_is_refused():
  model = dataclasses.replace(tiny.MODEL, attention_bias=True)
  denoiser = transformer.of_config(model)
  special = hf_config.Special(mask_token=29)
  record = hf_config.Record('llada', denoiser, special)
  with pytest.raises(errors.UserError, match="no form in the family 'llada'"):
    hf_config.render(record, 'float32')


@pytest.mark.parametrize(
  'changes, line',
  [
    (
      {'model_type': 'gptj'},
      'model_type is .gptj.; expected one of',
    ),
    ({'model_type': ['llama']}, 'model_type is'),
    ({'model_type': None}, 'model_type is missing'),
    ({'architectures': ['LlamaForX']}, 'architectures is .*LlamaForCausalLM'),
    ({'architectures': 3}, 'architectures is 3; it must be a list'),
    ({'hidden_act': 'gelu'}, "hidden_act is 'gelu'; only 'silu'"),
    ({'mlp_bias': True}, 'mlp_bias is True; only False'),
    ({'attention_bias': 1}, 'attention_bias is 1; only False'),
    ({'quantization_config': {'bits': 4}}, "field 'quantization_config'"),
    ({'num_experts': 8}, "the field 'num_experts' is unknown"),
    ({'a\nb\x1b[2J' * 99: 1}, r'the field .a\\nb'),
    ({'vocab_size': 10**30}, 'vocab_size is 10+; it must be an integer in'),
    ({'num_hidden_layers': 2**40}, 'num_hidden_layers is'),
    ({'num_hidden_layers': 3.0}, 'num_hidden_layers is 3.0; it must be an int'),
    ({'hidden_size': True}, 'hidden_size is True'),
    ({'hidden_size': '64'}, "hidden_size is '64'"),
    ({'intermediate_size': -1}, 'intermediate_size is -1'),
    ({'num_key_value_heads': 3}, 'not a multiple of num_kv_heads 3'),
    ({'num_attention_heads': 10}, 'hidden size 64 is not a multiple'),
    ({'head_dim': 7}, 'head_dim 7 is odd'),
    ({'rms_norm_eps': 0}, 'rms_norm_eps is 0'),
    ({'rms_norm_eps': 'x'}, 'rms_norm_eps is'),
    ({'rope_theta': -5}, 'rope_theta is -5'),
    ({'rope_scaling': {'type': 'yarn'}}, 'type is .yarn.; only'),
    ({'rope_scaling': 3}, 'rope_scaling is 3'),
    ({'rope_scaling': {**SCALING, 'factor': 0}}, 'rope scaling: factor is 0'),
    (
      {'rope_scaling': {**SCALING, 'high_freq_factor': 1.0}},
      'high_freq_factor 1.0 is not above',
    ),
    ({'rope_parameters': []}, 'rope_parameters is'),
    (
      {
        'rope_parameters': {'rope_type': 'default', 'rope_theta': 500000.0},
        'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0},
      },
      'rope_scaling is .*; rope_parameters says something else',
    ),
    (
      {'rope_parameters': {'rope_type': 'default', 'rope_theta': 7.0}},
      'rope_theta is 500000.0; rope_parameters says something else',
    ),
    (
      {
        'rope_parameters': {
          'rope_type': 'default',
          'rope_theta': 500000.0,
          'partial_rotary_factor': 0.5,
        }
      },
      'partial_rotary_factor is 0.5; this field is not supported',
    ),
    (
      {'rope_scaling': {**SCALING, 'attention_factor': 2.0}},
      'attention_factor is 2.0; this field is not supported',
    ),
    (
      {'rope_scaling': {'rope_type': 'default', 'type': 'yarn'}},
      "type is 'yarn'; rope_type says something else",
    ),
    ({'tie_word_embeddings': 'yes'}, 'tie_word_embeddings is'),
    ({'layer_types': ['sliding_attention']}, 'layer_types is'),
    ({'eos_token_id': 128}, 'eos_token_id is 128; each must be'),
    ({'eos_token_id': [1, 2.5]}, 'eos_token_id is'),
    ({'bos_token_id': -1}, 'bos_token_id is -1; it must be an integer in 0..'),
  ],
)
def test_what_is_not_ours_is_named(changes, line):
  with pytest.raises(errors.UserError, match=line) as raised:
    hf_config.parse(LLAMA | changes, 'dir/config.json')
  text = str(raised.value)
  assert text.startswith('dir/config.json') and len(text) < 500
  assert text.isprintable()


@pytest.mark.parametrize(
  'changes, line',
  [
    ({'mask_token_id': None}, 'mask_token_id is missing'),
    ({'mask_token_id': 96}, r'mask_token_id is 96; .* in 0\.\.95'),
    ({'mask_token_id': 3}, 'mask_token_id is 3; eos_token_id is the same'),
    ({'alibi': True}, 'alibi is True; only False'),
    ({'rope': False}, 'rope is False; only True'),
    ({'block_type': 'sequential'}, 'block_type is'),
    ({'include_qkv_bias': True}, 'include_qkv_bias is True'),
    ({'layer_norm_type': None}, 'layer_norm_type is missing'),
    ({'clip_qkv': 8.0}, 'clip_qkv is 8.0'),
  ],
)
def test_what_is_not_ours_of_llada_is_named(changes, line):
  with pytest.raises(errors.UserError, match=line):
    hf_config.parse(LLADA | changes, 'c')
