"""What is measured: decoding, updates, and whole steps of training.

Ours and the PyTorch reference take turns in one process, from the same weights
and on the same inputs, and a row says whether they did the same. Weights are
random: a fixed schedule takes as many steps whatever they are.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dllm_jax import types
from dllm_jax.bench import flops, hardware, hlo, hlo_counts, programs, timing
from dllm_jax.models import config, transformer
from dllm_jax.rollout import answer_free
from dllm_jax.train import optim, policy
from dllm_jax.train import state as state_lib

_TINY = config.ModelConfig(
  vocab_size=64,
  hidden_size=96,
  num_layers=2,
  num_heads=4,
  num_kv_heads=4,
  head_dim=24,
  mlp_size=256,
  embed_init_std=0.3,
)
_SMALL = config.ModelConfig(
  vocab_size=64,
  hidden_size=160,
  num_layers=2,
  num_heads=4,
  num_kv_heads=4,
  head_dim=40,
  mlp_size=424,
  embed_init_std=0.3,
)
_MEDIUM = config.ModelConfig(
  vocab_size=8192,
  hidden_size=640,
  num_layers=8,
  num_heads=10,
  num_kv_heads=10,
  head_dim=64,
  mlp_size=1728,
  embed_init_std=0.3,
)
LLADA = config.ModelConfig(
  vocab_size=126464,
  hidden_size=4096,
  num_layers=32,
  num_heads=32,
  num_kv_heads=32,
  head_dim=128,
  mlp_size=12288,
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
  return programs.Case(
    name=name,
    model=model,
    rollout=answer_free.RolloutConfig(
      num_prompts=rows,
      group_size=1,
      max_prompt_length=prompt,
      gen_length=length,
      block_length=block,
      num_steps=steps,
      temperature=0.0,
    ),
    policy=policy.PolicyConfig(
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
# One device holds the model, but not the moments of all its weights: adapters
# are trained. Few steps: each of a decoder's costs the same.
_ADAPTED = dataclasses.replace(LLADA, lora_rank=128)
ON_ACCELERATORS = {
  'decode': (
    make_case('LLaDA-8B, 1 row', LLADA, 1, 200, 256, 32, 16),
    make_case('LLaDA-8B, 8 rows', LLADA, 8, 200, 256, 32, 16),
    make_case('LLaDA-8B, 16 rows', LLADA, 16, 200, 256, 32, 16),
  ),
  'update': (make_case('LLaDA-8B, 8 rows', _ADAPTED, 8, 200, 256, 32, 16),),
}


def cases(suite: str) -> tuple[programs.Case, ...]:
  """Those of a suite that suit the device at hand."""
  if jax.default_backend() == 'cpu':
    return CASES
  large = ON_ACCELERATORS[suite]
  if jax.default_backend() == 'gpu':
    large = tuple(map(_with_cudnn, large))
  return CASES + large


def _with_cudnn(case: programs.Case) -> programs.Case:
  model = dataclasses.replace(case.model, attention='cudnn')
  return dataclasses.replace(case, model=model)


def _prompts(case: programs.Case) -> np.ndarray:
  rng = np.random.default_rng(0)
  shape = case.rows, case.rollout.max_prompt_length
  return rng.integers(0, case.model.vocab_size - 2, shape).astype(np.int32)


@functools.lru_cache(maxsize=1)  # of one model: an accelerator holds no more
def _weights(model: config.ModelConfig) -> types.Params:
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), model)


def _compile(
  lower: Callable[[], jax.stages.Lowered], minimum: int
) -> tuple[jax.stages.Compiled, dict[str, Any]]:
  """The program, and what is known of it before it has run."""
  begin = time.perf_counter()
  compiled = lower().compile()
  seconds = time.perf_counter() - begin
  count = hlo_counts.flops(hlo.parse(compiled.as_text()))
  memory = compiled.memory_analysis()
  return compiled, {
    'compile_seconds': seconds,
    'flops': count,
    'flops_over_minimum': count / minimum,
    'peak_bytes': memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes,
  }


def rates(
  case: programs.Case,
  taken: dict[str, timing.Timing],
  *,
  tokens: int,
  steps: int,
  minimum: int,
  facts: dict[str, Any],
) -> dict[str, Any]:
  """A row of a table.

  Args:
    case: what was measured.
    taken: times of 'ours', and of others to compare with.
    tokens: that a call makes or trains.
    steps: denoising or optimiser steps of a call.
    minimum: operations that a call needs.
    facts: what else is known of the case.
  """
  ours = taken['ours']
  device = jax.devices()[0]
  peak = hardware.peak_of(device.device_kind)
  return {
    'case': case.name,
    'params': flops.num_params(case.model),
    'device': device.device_kind,
    'tokens_per_second': tokens / ours.wall,
    'steps_per_second': steps / ours.wall,
    'mfu': minimum / ours.wall / peak if peak else None,
    'seconds': {name: time._asdict() for name, time in taken.items()},
    'speedup': {
      name: {
        'wall': time.wall / ours.wall,
        'cpu': time.cpu / ours.cpu,
      }
      for name, time in taken.items()
      if name != 'ours'
    },
    **facts,
  }


def decode(
  case: programs.Case, mesh: Mesh, *, reference: Any, rounds: int
) -> dict[str, Any]:
  """Greedy decoding of a batch by the fixed schedule.

  Args:
    case: what to decode.
    mesh: of one device.
    reference: the module `torch_reference`, or None.
    rounds: of the timing.
  """
  params, ids = _weights(case.model), _prompts(case)
  compiled, facts = _compile(
    lambda: programs.rollout(case, mesh), case.minimum()['rollout']
  )
  args = (
    params,
    jax.random.key(0),
    jnp.asarray(ids),
    jnp.ones(ids.shape, bool),
    jnp.arange(case.rows, dtype=jnp.int32),
    case.rollout.dials(),
  )
  made = {}

  def ours():
    made['ours'] = np.asarray(compiled(*args).tokens)

  calls = {'ours': ours}
  if reference is not None:
    model = reference.Model(
      cfg=case.model, params=reference.leaves(params, _torch_device(reference))
    )
    for name in ('published', 'tuned'):

      def theirs(name=name):
        made[name] = reference.decode(model, case, ids, tuned=name == 'tuned')

      calls[f'torch_{name}'] = theirs
  taken = timing.in_turns(calls, rounds)
  steps = case.rollout.num_steps
  row = rates(
    case,
    taken,
    tokens=case.rows * case.rollout.gen_length,
    steps=steps,
    minimum=steps * case.minimum()['rollout'],
    facts=facts,
  )
  for name in set(made) - {'ours'}:
    row[f'same_as_{name}'] = float(np.mean(made[name] == made['ours']))
  return row


def _torch_device(reference: Any) -> str:
  on_gpu = jax.default_backend() == 'gpu'
  return 'cuda' if on_gpu and reference.torch.cuda.is_available() else 'cpu'


def rollouts(case: programs.Case) -> types.RolloutBatch:
  """A batch as a rollout might have made it, with random completions."""
  rng, ids = np.random.default_rng(1), _prompts(case)
  shape = case.rows, case.rollout.gen_length
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
    num_steps=jnp.full(case.rows, case.rollout.num_steps, jnp.int32),
    completion_mask=jnp.ones(shape, bool),
    advantage=jnp.asarray(np.repeat(sign[:, None], shape[1], 1)),
    guided=jnp.zeros(case.rows, bool),
    row_id=jnp.arange(case.rows, dtype=jnp.int32),
  )


def update(
  case: programs.Case, mesh: Mesh, *, reference: Any, rounds: int
) -> dict[str, Any]:
  """One inner step: views of all rows forward and backward, and AdamW."""
  batch, key = rollouts(case), jax.random.key(2)
  compiled, facts = _compile(
    lambda: programs.inner_step(case, mesh), case.minimum()['inner_step']
  )
  optimizer = optim.make(case.optimizer)
  start = state_lib.copy_trained(_weights(case.model))
  state, frozen = state_lib.without_frozen(state_lib.create(start, optimizer))
  held = {'state': state, 'norms': []}
  shape = case.rows, *case.views
  old = jnp.full(shape, -3.0, jnp.float32)

  def ours():
    held['state'], metrics = compiled(
      held['state'], frozen, batch, old, None, key
    )
    held['norms'].append(float(metrics['policy/grad_norm']))

  calls, norms = {'ours': ours}, {}
  if reference is not None:
    views = jax.tree.map(np.asarray, case.estimator()(key, batch, case.vocab))
    inputs = views, np.asarray(old[:, 0]), np.asarray(batch.advantage)
    leaves = reference.leaves(_weights(case.model), _torch_device(reference))
    for name in ('published', 'tuned'):
      params = reference.copy_trained(leaves)
      trainer = reference.Trainer(
        reference.Model(cfg=case.model, params=params), case
      )

      def theirs(name=name, trainer=trainer):
        norm = trainer.step(
          *inputs, np.asarray(batch.completion_mask), tuned=name == 'tuned'
        )
        norms.setdefault(name, norm)

      calls[f'torch_{name}'] = theirs
  taken = timing.in_turns(calls, rounds)
  row = rates(
    case,
    taken,
    tokens=case.rows * case.rollout.gen_length,
    steps=1,
    minimum=case.minimum()['inner_step'],
    facts=facts,
  )
  for name, norm in norms.items():
    row[f'same_as_{name}'] = norm / held['norms'][0]
  return row


SUITES = {'decode': decode, 'update': update}
