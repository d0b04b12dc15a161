"""The programs of a training step, lowered from shapes: no weights are made.

A step of RL is one `rollout`, some `read`s of a fixed policy and some
`inner_step`s (`train.policy`). Inputs are shapes with the places that they
have in a run, so that what is compiled is what runs. Dims: B rows, P prompt
columns, L completion columns, K views a row, Q slots of a view.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dllm_jax import errors, types
from dllm_jax.bench import flops
from dllm_jax.models import config, transformer
from dllm_jax.rollout import answer_free, sharded
from dllm_jax.runtime import sharding
from dllm_jax.train import optim, policy
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A model, and the step that is taken with it.

  Attributes:
    name: in tables.
    model: its shape; the last two ids are EOS and [MASK].
    rollout: how completions are sampled.
    policy: the update.
    optimizer: of the trained leaves.
  """

  name: str
  model: config.ModelConfig
  rollout: answer_free.RolloutConfig
  policy: policy.PolicyConfig
  optimizer: optim.OptimConfig = optim.OptimConfig(learning_rate=1e-3)

  @property
  def vocab(self) -> types.Vocabulary:
    size = self.model.vocab_size
    return types.Vocabulary(size=size, mask_token=size - 1, eos_token=size - 2)

  @property
  def denoiser(self) -> transformer.TransformerDenoiser:
    return transformer.TransformerDenoiser(cfg=self.model)

  @property
  def rows(self) -> int:
    return self.rollout.num_prompts * self.rollout.group_size

  @property
  def columns(self) -> int:
    return self.rollout.max_prompt_length + self.rollout.gen_length

  @property
  def views(self) -> tuple[int, int]:
    """K views of a row, and Q slots of a view."""
    if self.policy.estimator == 'one_step':
      return 1, self.rollout.gen_length
    slots = min(self.rollout.largest_commit(), self.rollout.gen_length)
    return self.policy.num_views, slots

  def estimator(self):
    return self.policy.make_estimator(self.rollout.largest_commit())

  def shape(self) -> dict[str, int]:
    """The arguments of `flops.inner_step` and `flops.read`."""
    views, slots = self.views
    return {
      'rows': self.rows,
      'views': views,
      'columns': self.columns,
      'slots': slots,
    }

  def minimum(self) -> dict[str, int]:
    """Operations that each program needs, on all devices together."""
    step = flops.decode_step(
      self.model,
      rows=self.rows,
      columns=self.columns,
      block=self.rollout.block_length,
    )
    return {
      'rollout': step,
      'read': flops.read(self.model, **self.shape()),
      'inner_step': flops.inner_step(self.model, **self.shape()),
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
  """Shape, dtype and place of every parameter."""
  return sharding.targets(transformer.shapes(case.model), mesh)


@functools.cache
def state(case: Case, mesh: Mesh) -> state_lib.TrainState:
  """The same of parameters and optimiser; moments lie with their leaves."""
  optimizer = optim.make(case.optimizer)
  made = jax.eval_shape(
    lambda params: state_lib.create(params, optimizer),
    transformer.shapes(case.model),
  )
  return sharding.targets(made, mesh)


def _whole(tree: Any, mesh: Mesh) -> Any:
  """Shapes of what every device holds whole."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding.replicated(mesh)
    ),
    tree,
  )


def key(mesh: Mesh) -> jax.ShapeDtypeStruct:
  """Of a random key."""
  return _whole(jax.eval_shape(lambda: jax.random.key(0)), mesh)


def batch(case: Case, mesh: Mesh) -> types.RolloutBatch:
  """Shapes of rollouts, rows over their axes of the mesh."""
  prompt, length = case.rollout.max_prompt_length, case.rollout.gen_length

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
    row_id=array(),
  )


def rollout(case: Case, mesh: Mesh) -> jax.stages.Lowered:
  """Sampling a batch; its loop's body is one denoising step."""
  rows = batch(case, mesh)
  return answer_free.sample.lower(
    case.denoiser,
    params(case, mesh),
    key(mesh),
    rows.prompt_ids,
    rows.prompt_mask,
    rows.row_id,
    _whole(jax.eval_shape(case.rollout.dials), mesh),
    mesh=mesh,
    vocab=case.vocab,
    decoder=case.rollout.decoder(),
  )


def read(case: Case, mesh: Mesh) -> jax.stages.Lowered:
  """Log-probabilities of a fixed policy."""
  return policy.fixed_logp.lower(
    params(case, mesh), batch(case, mesh), key(mesh), **static(case, mesh)
  )


def inner_step(case: Case, mesh: Mesh) -> jax.stages.Lowered:
  """One optimiser step on the policy that a step before has moved."""
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
  """What is static about reads and inner steps."""
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
