"""Training methods, one per file; those of RL with their config group."""

from dllm_jax.train.methods import (
  ag_grpo,
  cpc_grpo,
  diffu_grpo,
  moe_erl,
  ta_grpo_d,
)

# By the value of `method.name`; 'sft' trains the base model, or the one that
# `base.path` names, and nothing after it.
METHODS = {
  'sft': None,
  'diffu_grpo': diffu_grpo.DiffuGrpo,
  'ag_grpo': ag_grpo.AgGrpo,
  'ta_grpo_d': ta_grpo_d.TaGrpoD,
  'cpc_grpo': cpc_grpo.CpcGrpo,
  'moe_erl': moe_erl.MoeErl,
}
