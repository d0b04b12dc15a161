"""OLMoE: causal, experts in every layer, one norm over all heads together."""

from dllm_jax.hf.families import family, llama, qwen3

SIZES = llama.SIZES | {
  'num_experts': 'num_experts',
  'experts_per_token': 'num_experts_per_tok',
}
# True: weights of the chosen experts sum to 1.
FLAGS = {'norm_topk_prob': ('gate_scale', 'normalized', 'probability')}
IGNORED = frozenset(('router_aux_loss_coef', 'output_router_logits'))
_EXPERT = 'mlp.experts.{expert}'
NAMES = llama.NAMES._replace(
  block={
    **{k: v for k, v in qwen3.NAMES.block.items() if not k.startswith('mlp/')},
    'mlp/gate/kernel': 'mlp.gate.weight',
    'mlp/experts/gate_proj/kernel': f'{_EXPERT}.gate_proj.weight',
    'mlp/experts/up_proj/kernel': f'{_EXPERT}.up_proj.weight',
    'mlp/experts/down_proj/kernel': f'{_EXPERT}.down_proj.weight',
  }
)
FAMILY = family.Family(
  model_type='olmoe',
  architectures=('OlmoeForCausalLM',),
  sizes=SIZES,
  flags=FLAGS,
  must={'hidden_act': 'silu', 'attention_bias': False, 'clip_qkv': None},
  fixed={'causal': True, 'qk_norm_joint': True, 'feed_forward': 'experts'},
  names=NAMES,
  ignored=IGNORED,
  writes={},
)
