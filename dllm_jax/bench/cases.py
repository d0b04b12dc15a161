"""The cases of the suites: models, batches and random inputs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dllm_jax import types
from dllm_jax.bench import programs
from dllm_jax.decoding import fixed
from dllm_jax.models import config, network
from dllm_jax.rollout import batch
from dllm_jax.train import policy_config


def make_model(
  vocab: int, width: int, layers: int, heads: int, mlp: int, **other: Any
) -> config.ModelConfig:
  """A config without grouped queries, whose heads add up to the width.

  Args:
    vocab: vocabulary size.
    width: hidden size.
    layers: number of layers.
    heads: number of heads.
    mlp: hidden size of the MLP.
    **other: more fields of the config.
  """
  return config.ModelConfig(
    vocab_size=vocab,
    hidden_size=width,
    num_layers=layers,
    num_heads=heads,
    num_kv_heads=heads,
    head_dim=width // heads,
    mlp_size=mlp,
    **other,
  )


_TINY = make_model(64, 96, 2, 4, 256, embed_init_std=0.3)
_SMALL = make_model(64, 160, 2, 4, 424, embed_init_std=0.3)
_MEDIUM = make_model(8192, 640, 8, 10, 1728, embed_init_std=0.3)
LLADA = make_model(
  126464,
  4096,
  32,
  32,
  12288,
  rope_theta=500_000.0,
  dtype='bfloat16',
  param_dtype='bfloat16',
)


def make_case(
  name: str,
  model: config.ModelConfig,
  rows: int,
  prompt: int,
  length: int,
  block: int,
  steps: int,
) -> programs.Case:
  """Greedy decoding in blocks, and diffu-GRPO with one view and no KL term.

  Args:
    name: name in tables.
    model: architecture.
    rows: rows of a batch, each with a prompt of its own.
    prompt: length of the prompts.
    length: length of the completions.
    block: block length.
    steps: denoising steps of a completion.
  """
  return programs.Case(
    name=name,
    model=model,
    rollout=batch.RolloutConfig(
      num_prompts=rows,
      group_size=1,
      max_prompt_length=prompt,
      decoder=fixed.Fixed(
        gen_length=length, block_length=block, num_steps=steps
      ),
    ),
    policy=policy_config.PolicyConfig(
      num_inner=1,
      num_micro=2,
      eps=0.2,
      beta=0.0,
      guided_beta=None,
      max_kl_difference=None,
      estimator='one_step',
      mask_prob=0.15,
      num_views=1,
    ),
  )


CASES = (
  make_case('0.2M, 8 rows', _TINY, 8, 17, 36, 36, 18),
  make_case('0.2M, 64 rows', _TINY, 64, 17, 36, 36, 18),
  make_case('0.6M, 32 rows', _SMALL, 32, 17, 36, 36, 18),
  make_case('50M, 4 rows', _MEDIUM, 4, 64, 64, 32, 32),
)
# Of the suite of caches: d1's shape on GSM8K, 16 steps in each of 8 blocks.
CACHED = (
  make_case('0.2M, 4 rows, 456 columns', _TINY, 4, 200, 256, 32, 128),
  make_case('50M, 4 rows, 456 columns', _MEDIUM, 4, 200, 256, 32, 128),
)
# One device has no room for the moments of all weights: adapters are trained.
# A few denoising steps suffice, since all of them cost the same.
_ADAPTED = dataclasses.replace(LLADA, lora_rank=128)
ON_ACCELERATORS = {
  'decode': (
    make_case('LLaDA-8B, 1 row', LLADA, 1, 200, 256, 32, 16),
    make_case('LLaDA-8B, 8 rows', LLADA, 8, 200, 256, 32, 16),
    make_case('LLaDA-8B, 16 rows', LLADA, 16, 200, 256, 32, 16),
  ),
  'update': (make_case('LLaDA-8B, 8 rows', _ADAPTED, 8, 200, 256, 32, 16),),
  'caches': tuple(
    make_case(f'LLaDA-8B, {rows} rows', LLADA, rows, 200, 256, 32, 128)
    for rows in (1, 8)
  ),
}


def of_suite(suite: str) -> tuple[programs.Case, ...]:
  """The cases of a suite that suit the current device."""
  small = CACHED if suite == 'caches' else CASES
  if jax.default_backend() == 'cpu':
    return small
  large = ON_ACCELERATORS[suite]
  if jax.default_backend() == 'gpu':
    large = tuple(map(_with_cudnn, large))
  return small + large


def _with_cudnn(case: programs.Case) -> programs.Case:
  model = dataclasses.replace(case.model, attention='cudnn')
  return dataclasses.replace(case, model=model)


def prompts(case: programs.Case) -> np.ndarray:
  """Random token ids [B, P], the same in every call."""
  rng = np.random.default_rng(0)
  shape = case.rows, case.rollout.max_prompt_length
  return rng.integers(0, case.model.vocab_size - 2, shape).astype(np.int32)


def weights(model: config.ModelConfig) -> types.Params:
  """Random parameters, with adapters that are not zero.

  They are not cached, since an accelerator may have room for one model only.
  """

  def perturb(path, leaf):
    return leaf + 0.01 if path[-1].key == 'lora_b' else leaf

  def make():
    params = network.init(jax.random.key(0), model)
    return jax.tree_util.tree_map_with_path(perturb, params)

  return jax.jit(make)()


def rollouts(case: programs.Case) -> types.RolloutBatch:
  """A batch of random completions, with the types of a real rollout."""
  rng, ids = np.random.default_rng(1), prompts(case)
  shape = case.rows, case.decoder.gen_length
  sign = np.where(np.arange(case.rows) % 2, 1.0, -1.0).astype(np.float32)
  return types.RolloutBatch(
    prompt_ids=jnp.asarray(ids),
    prompt_mask=jnp.ones(ids.shape, bool),
    maskable=jnp.ones(ids.shape, bool),
    tokens=jnp.asarray(
      rng.integers(0, case.model.vocab_size - 2, shape).astype(np.int32)
    ),
    sampler_logp=jnp.full(shape, -3.0, jnp.float32),
    commit_step=jnp.zeros(shape, jnp.int32),
    num_steps=jnp.full(case.rows, case.decoder.num_steps, jnp.int32),
    completion_mask=jnp.ones(shape, bool),
    advantage=jnp.asarray(np.repeat(sign[:, None], shape[1], 1)),
    guided=jnp.zeros(case.rows, bool),
    group_id=jnp.arange(case.rows, dtype=jnp.int32),
    row_id=jnp.arange(case.rows, dtype=jnp.int32),
  )
