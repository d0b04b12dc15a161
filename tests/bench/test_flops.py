"""Operations by hand, and LLaDA's published shape."""

import dataclasses

import pytest

from dllm_jax.bench import cases, flops
from dllm_jax.models import config

# q and o are 4 x 6, k and v 4 x 2, gate and up 4 x 5, down 5 x 4.
CFG = config.ModelConfig(
  vocab_size=7,
  hidden_size=4,
  num_layers=2,
  num_heads=3,
  num_kv_heads=1,
  head_dim=2,
  mlp_size=5,
)
LAYER = 24 + 8 + 8 + 24 + 20 + 20 + 20
LORA = dataclasses.replace(CFG, lora_rank=3)
ADAPTERS = 3 * (10 + 6 + 6 + 10 + 9 + 9 + 9)


def test_numbers_of_weights_by_hand():
  assert flops.size(CFG) == flops.Size(layer=LAYER, adapters=0, unembedding=28)
  assert flops.size(LORA).adapters == ADAPTERS
  assert flops.num_params(CFG) == 2 * LAYER + 2 * 28
  tied = dataclasses.replace(CFG, tie_embeddings=True)
  assert flops.num_params(tied) == 2 * LAYER + 28
  gelu = dataclasses.replace(CFG, feed_forward='gelu')  # up and down alone
  assert flops.size(gelu).layer == LAYER - 20


def test_forward_by_hand():
  # 10 columns of 11 keys: scores and mixtures of width 6, in 2 layers.
  attention = 2 * 2 * (10 * 11 * 6) * 2
  assert flops.attention(CFG, 10, 11) == attention
  want = 2 * 2 * LAYER * 10 + attention + 2 * 28 * 3
  assert flops.forward(CFG, 10, 11, 3) == want
  assert flops.forward(LORA, 10, 11, 3) == want + 2 * 2 * ADAPTERS * 10


def test_backward_is_two_forwards_where_all_is_trained():
  assert flops.backward(CFG, 10, 11, 3) == 2 * flops.forward(CFG, 10, 11, 3)


def test_frozen_weights_have_no_gradient():
  attention = flops.attention(CFG, 10, 11)
  want = 2 * 2 * (LAYER + 2 * ADAPTERS) * 10 + 2 * attention + 2 * 28 * 3
  assert flops.backward(LORA, 10, 11, 3) == want


def test_an_inner_step_is_three_reads_of_all_views():
  case = cases.make_case('', CFG, 6, 7, 3, 3, 1)
  policy = dataclasses.replace(case.policy, estimator='trajectory', num_views=2)
  case = dataclasses.replace(case, policy=policy)
  forward = flops.forward(CFG, 10, 10, 3)
  assert case.minimum() == {
    'rollout': 6 * forward,
    'read': 12 * forward,
    'inner_step': 36 * forward,
  }


def test_llada_has_the_published_numbers():
  # 8.016e9 parameters; 7.81 TFLOP for 512 tokens, all unembedded.
  assert flops.num_params(cases.LLADA) == pytest.approx(8.016e9, rel=1e-3)
  found = flops.forward(cases.LLADA, 512, 512, 512)
  assert found == pytest.approx(7.81e12, rel=1e-3)
  case = cases.make_case('', cases.LLADA, 3, 256, 256, 256, 1)
  step = flops.forward(cases.LLADA, 512, 512, 256)
  assert case.minimum()['rollout'] == 3 * step
