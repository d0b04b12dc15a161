"""The programs of a training step, lowered from shapes, without weights.

A step of RL is one `rollout`, some `read`s of a fixed policy and some
`inner_step`s (`train.policy`). Inputs are shapes with the shardings of a run,
so that the same programs are compiled. Dims: B rows, P prompt columns, L
completion columns, K views per row, Q slots per view.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dllm_jax import errors, types
from dllm_jax.bench import flops
from dllm_jax.models import config, network, transformer
from dllm_jax.rollout import answer_free, prompts, sharded
from dllm_jax.rollout import batch as batch_lib
from dllm_jax.runtime import sharding
from dllm_jax.train import optim, policy, policy_config
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A model and its training step.

  Attributes:
    name: name in tables.
    model: architecture; the last two token ids are EOS and [MASK].
    rollout: how completions are sampled.
    policy: how the policy is updated.
    optimizer: settings of the optimizer.
  """

  name: str
  model: config.ModelConfig
  rollout: batch_lib.RolloutConfig
  policy: policy_config.PolicyConfig
  optimizer: optim.OptimConfig = optim.OptimConfig(learning_rate=1e-3)

  @property
  def vocab(self) -> types.Vocabulary:
    size = self.model.vocab_size
    return types.Vocabulary(size=size, mask_token=size - 1, eos_token=size - 2)

  @property
  def denoiser(self) -> transformer.TransformerDenoiser:
    return transformer.TransformerDenoiser(cfg=self.model)

  @property
  def decoder(self) -> types.Decoder:
    return self.rollout.decoder

  @property
  def rows(self) -> int:
    return self.rollout.num_prompts * self.rollout.group_size

  @property
  def columns(self) -> int:
    return self.rollout.max_prompt_length + self.decoder.gen_length

  @property
  def views(self) -> tuple[int, int]:
    """(K views per row, Q slots per view)."""
    if self.policy.estimator == 'one_step':
      return 1, self.decoder.gen_length
    slots = min(self.decoder.largest_commit(), self.decoder.gen_length)
    return self.policy.num_views, slots

  def estimator(self):
    return self.policy.make_estimator(self.decoder.largest_commit())

  def minimum(self) -> dict[str, int]:
    """Operations that each program needs, over all devices.

    A denoising step reads the canvas and unembeds the active block; an inner
    step reads all views, forward and backward.
    """
    cfg, columns, (views, slots) = self.model, self.columns, self.views
    step = flops.forward(cfg, columns, columns, self.decoder.block_length)
    forward = flops.forward(cfg, columns, columns, slots)
    backward = flops.backward(cfg, columns, columns, slots)
    return {
      'rollout': self.rows * step,
      'read': self.rows * views * forward,
      'inner_step': self.rows * views * (forward + backward),
    }


def model_of(denoiser: types.Denoiser) -> config.ModelConfig:
  """The record of a transformer, whose operations are counted here.

  Raises:
    errors.UserError: the denoiser is another model.
  """
  if not isinstance(denoiser, transformer.TransformerDenoiser):
    raise errors.UserError(
      f'{type(denoiser).__name__} cannot be measured here: use '
      'model.name=transformer'
    )
  return denoiser.cfg


@functools.cache
def params(case: Case, mesh: Mesh) -> types.Params:
  """Shape, dtype and sharding of every parameter."""
  return sharding.targets(network.shapes(case.model), mesh)


@functools.cache
def state(case: Case, mesh: Mesh) -> state_lib.TrainState:
  """The same for the training state; moments are sharded as their leaves."""
  optimizer = optim.make(case.optimizer)
  shapes = jax.eval_shape(
    lambda params: state_lib.create(params, optimizer),
    network.shapes(case.model),
  )
  return sharding.targets(shapes, mesh)


def key(mesh: Mesh) -> jax.ShapeDtypeStruct:
  """The shape of a PRNG key, replicated over the mesh."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.ShapeDtypeStruct(
    key.shape, key.dtype, sharding=sharding.replicated(mesh)
  )


def batch(case: Case, mesh: Mesh) -> types.RolloutBatch:
  """Shapes of a batch of rollouts, with rows sharded over the mesh."""
  prompt, length = case.rollout.max_prompt_length, case.decoder.gen_length

  def array(*dims, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(
      (case.rows, *dims), dtype, sharding=sharding.rows(mesh)
    )

  return types.RolloutBatch(
    prompt_ids=array(prompt),
    prompt_mask=array(prompt, dtype=bool),
    maskable=array(prompt, dtype=bool),
    tokens=array(length),
    sampler_logp=array(length, dtype=jnp.float32),
    commit_step=array(length),
    num_steps=array(),
    completion_mask=array(length, dtype=bool),
    advantage=array(length, dtype=jnp.float32),
    guided=array(dtype=bool),
    group_id=array(),
    row_id=array(),
  )


def rollout(case: Case, mesh: Mesh) -> jax.stages.Lowered:
  """Samples a batch; the body of its loop is one denoising step."""
  rows = batch(case, mesh)
  return answer_free.sample.lower(
    case.denoiser,
    params(case, mesh),
    key(mesh),
    prompts.RowPrompts(rows.prompt_ids, rows.prompt_mask, rows.row_id),
    case.rollout.decoder,
    mesh=mesh,
    vocab=case.vocab,
  )


def read(case: Case, mesh: Mesh) -> jax.stages.Lowered:
  """Computes the log-probabilities of a fixed policy."""
  return policy.fixed_logp.lower(
    params(case, mesh), batch(case, mesh), key(mesh), **static(case, mesh)
  )


def inner_step(case: Case, mesh: Mesh) -> jax.stages.Lowered:
  """One optimizer step, on a policy that an earlier one has changed."""
  shape = (case.rows, *case.views)
  logp = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding.rows(mesh))
  trained, frozen = state_lib.without_frozen(state(case, mesh))
  return policy.inner_step.lower(
    trained,
    frozen,
    batch(case, mesh),
    logp,
    logp if case.policy.has_kl else None,
    key(mesh),
    optimizer=optim.make(case.optimizer),
    cfg=case.policy,
    mesh=mesh,
    **static(case, mesh),
  )


def static(case: Case, mesh: Mesh) -> dict[str, Any]:
  """The static arguments of reads and inner steps."""
  return {
    'denoiser': sharded.placed(case.denoiser, mesh),
    'vocab': case.vocab,
    'estimator': case.estimator(),
    'num_micro': case.policy.num_micro,
  }


PROGRAMS = {'rollout': rollout, 'read': read, 'inner_step': inner_step}
TITLES = {
  'rollout': 'rollout: a step',
  'read': 'update: a read',
  'inner_step': 'update: a step',
}
