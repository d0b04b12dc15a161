"""MoE-ERL: reinforcement learning of expert routing on perturbed paths.

  L = L_LM + w_b L_balance + w_z L_z + w_RL L_RL + w_PL L_PL

L_LM is the next-token loss of demonstrations on the router's own path. L_RL
rewards the experts of perturbed cells by what they change in the probability of
the next token (`rl.routing`). L_PL is the next-token loss of the perturbed
paths, which teaches experts the tokens of others (MoE-ERL-wPL).

Deviations: docs/methods/moe_erl.md. Dims: B rows, P paths, N layers with
experts, L completion columns.

References:
  Kim and Kang 2025, Findings of EMNLP (2025.findings-emnlp.1282).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Key

from dllm_jax import errors, types, validation
from dllm_jax.ops import streams
from dllm_jax.rl import paths as paths_lib
from dllm_jax.rl import routing
from dllm_jax.rollout import batch as batch_lib
from dllm_jax.rollout import context, demonstrations, sharded
from dllm_jax.runtime import sharding
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import grad
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoeErlConfig:
  """Config group `method` of MoE-ERL.

  Attributes:
    explore: the perturbed paths.
    credit: advantages, and the loss on the router.
    rl_weight: w_RL; 0 has no paths.
    path_weight: w_PL; above 0 it is MoE-ERL-wPL.
    path_sum: L_PL is the sum over paths, as released, instead of their mean.
    lm_weight: factor of L_LM: the control for w_PL's larger gradient.
    balance_weight: w_b.
    z_weight: w_z.
    pooled: L_balance is over all layers together, as transformers has it.
    router_only: L_RL trains routers alone, and nothing below them.
    jitter: size of `types.RouterJitter` in updates, the same on all paths.
    num_micro: micro-batches per optimizer step; L_balance and L_z are means
      over them.
    start: where the base comes from. '': supervised training. 'merged':
      experts that each saw the rows of one label (`specialists`), and new
      routers. 'upcycled': a dense model, whose MLP every expert is a copy of.
      'trained': this loss without L_RL and L_PL.
    study: the paths on which routing is evaluated.
  """

  explore: routing.ExploreConfig
  credit: routing.CreditConfig
  rl_weight: float
  path_weight: float
  path_sum: bool
  lm_weight: float
  balance_weight: float
  z_weight: float
  pooled: bool
  router_only: bool
  jitter: float
  num_micro: int
  start: str
  study: routing.ExploreConfig

  reads_answers = True  # The texts that it learns are demonstrations.

  def __post_init__(self):
    for name in ('explore', 'study'):
      if not getattr(self, name).alpha:
        raise ValueError(f'{name}.alpha 0.0 is not in (0, 1]')
    names = [field.name for field in dataclasses.fields(self)]
    weights = [name for name in names if name.endswith('_weight')]
    validation.not_negative(self, *weights)
    if not 0 <= self.jitter <= 1:
      raise ValueError(f'jitter {self.jitter} is not in [0, 1]')
    validation.positive(self, 'num_micro')
    validation.choices(self, start=('', 'merged', 'upcycled', 'trained'))

  @property
  def explores(self) -> bool:
    """Whether there are perturbed paths."""
    return self.rl_weight > 0 or self.path_weight > 0

  def check(
    self, ctx: context.Context, rollout: batch_lib.RolloutConfig
  ) -> None:
    """Refuses a model or a batch that the method is not for, before any work.

    Raises:
      errors.UserError: names the config keys.
    """
    denoiser = ctx.denoiser
    if not isinstance(denoiser, types.Routed) or denoiser.num_experts < 2:
      raise errors.UserError(
        'method.name=moe_erl trains the routers of experts, and the model has '
        "none: set model.feed_forward='experts' and model.num_experts=2 or more"
      )
    if not isinstance(denoiser, types.CausalLM):
      raise errors.UserError(
        'method.name=moe_erl reads the next token from each state, and the '
        'model is not causal: set model.causal=True'
      )
    if self.start == 'merged':
      labels = getattr(ctx.task, 'num_labels', 0)
      if not 1 <= labels <= denoiser.num_experts:
        raise errors.UserError(
          "method.start='merged' gives each label of the task an expert; task "
          f'{ctx.task.name!r} has {labels} labels and the model '
          f"{denoiser.num_experts} experts: use another start, such as ''"
        )
    num_cells = denoiser.num_sparse_layers * rollout.decoder.gen_length
    for name in ('explore', 'study'):
      alpha = getattr(self, name).alpha
      if round(alpha * num_cells) < 1:
        raise errors.UserError(
          f'config key method.{name}.alpha {alpha} perturbs none of the '
          f'{num_cells} cells of a row: raise it'
        )
    sharding.check_divides(rollout.num_prompts, ctx.mesh, 'rollout.num_prompts')
    grad.check_micro_batches(
      rollout.num_prompts, self.num_micro, ctx.mesh, 'method.num_micro'
    )

  def check_rows(
    self, ctx: context.Context, rows: Sequence[task_lib.Row]
  ) -> None:
    """Nothing to refuse: `collect` checks demonstrations."""


class Explored(NamedTuple):
  """A batch with its perturbations; leading axes are rows."""

  texts: paths_lib.Texts
  mask: Bool[Array, 'B P N L']
  override: types.RouterOverride
  jitter: types.RouterJitter | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoeErl:
  """`loop.Method` of MoE-ERL; fields as in `policy.PolicyMethod`."""

  Config = MoeErlConfig
  phase = 'rl'

  cfg: MoeErlConfig
  ctx: context.Context
  rollout: batch_lib.RolloutConfig
  optimizer: optax.GradientTransformation
  reference: types.Params

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[demonstrations.Demonstrations, dict[str, Any]]:
    """The demonstrations; nothing is sampled."""
    del state, step
    length = self.rollout.decoder.gen_length
    return demonstrations.encode(self.ctx, rows, length), {}

  def update(
    self,
    state: state_lib.TrainState,
    batch: demonstrations.Demonstrations,
    step: int,
  ) -> tuple[state_lib.TrainState, list[dict[str, Any]]]:
    """One optimizer step."""
    state, metrics = _update(
      state,
      batch,
      # The same cells in every arm.
      streams.step_key(self.ctx.root, 'rollout', step),
      denoiser=sharded.placed(self.ctx.denoiser, self.ctx.mesh),
      vocab=self.ctx.vocab,
      optimizer=self.optimizer,
      cfg=self.cfg,
      mesh=self.ctx.mesh,
    )
    return state, [metrics]


def texts_of(
  batch: demonstrations.Demonstrations, vocab: types.Vocabulary
) -> paths_lib.Texts:
  """The rows as one text each, whose completions are the labels."""
  ones = jnp.ones(batch.tokens.shape, bool)
  return paths_lib.Texts(
    jnp.concatenate([batch.prompt_ids, batch.tokens], axis=1),
    jnp.concatenate([batch.prompt_mask, ones], axis=1),
    vocab.through_stop(batch.tokens),
    jnp.arange(batch.tokens.shape[0]),
  )


def explore(
  key: Key[Array, ''],
  texts: paths_lib.Texts,
  cfg: routing.ExploreConfig,
  denoiser: types.Routed,
) -> Explored:
  """Draws the perturbed paths of a batch. `key` is consumed."""
  mask_key, draw_key = jax.random.split(key)
  mask = routing.change_mask(
    mask_key,
    texts.credit,
    texts.row_id,
    # Path 0 has cells too, for the baseline that credits it.
    num_paths=cfg.num_paths + 1,
    num_layers=denoiser.num_sparse_layers,
    alpha=cfg.alpha,
  )
  override = routing.override(
    draw_key,
    mask[:, 1:],
    texts.row_id,
    replacement=cfg.replacement,
    num_experts=denoiser.num_experts,
  )
  return Explored(texts, mask, override)


@functools.partial(
  jax.jit,
  static_argnames=('denoiser', 'vocab', 'optimizer', 'cfg', 'mesh'),
  donate_argnames=('state',),
)
def _update(
  state: state_lib.TrainState,
  batch: demonstrations.Demonstrations,
  key: Key[Array, ''],
  *,
  denoiser: types.Routed,
  vocab: types.Vocabulary,
  optimizer: optax.GradientTransformation,
  cfg: MoeErlConfig,
  mesh: Mesh,
) -> tuple[state_lib.TrainState, dict[str, Any]]:
  path_key, shuffle_key, jitter_key = jax.random.split(key, 3)
  texts = texts_of(batch, vocab)
  explored = explore(path_key, texts, cfg.explore, denoiser)
  if cfg.jitter:
    noise = paths_lib.row_jitter(jitter_key, texts.row_id, cfg.jitter)
    explored = explored._replace(jitter=noise)
  whole = Whole(
    jnp.sum(texts.credit, dtype=jnp.float32),
    jnp.sum(explored.mask, axis=(0, 3), dtype=jnp.float32),
  )

  def loss(params, micro):
    return micro_loss(
      denoiser, params, micro, whole, shuffle_key, vocab=vocab, cfg=cfg
    )

  state, aux = grad.update(
    state,
    explored,
    loss,
    optimizer,
    mesh=mesh,
    num_micro=cfg.num_micro,
    rules=sharding.rules_of(denoiser),
  )
  metrics = {k: jnp.mean(v) for k, v in aux.items() if k.startswith('method/')}
  return state, metrics | {
    'policy/loss': aux['loss'],
    'policy/grad_norm': aux['grad_norm'],
    'policy/skipped_updates': aux['skipped'],
  }


class Whole(NamedTuple):
  """Of the whole batch, which the losses of micro-batches are shares of.

  Attributes:
    num_labels: number of labels.
    num_cells: perturbed cells of each path and layer, path 0 first.
  """

  num_labels: Float[Array, '']
  num_cells: Float[Array, 'P N']


def micro_loss(
  denoiser: types.Routed,
  params: types.Params,
  micro: Explored,
  whole: Whole,
  key: Key[Array, ''],
  *,
  vocab: types.Vocabulary,
  cfg: MoeErlConfig,
) -> tuple[Float[Array, ''], dict[str, Array]]:
  """The share of a micro-batch in the loss of its batch, and metrics.

  Args:
    denoiser: the model.
    params: its parameters, to differentiate.
    micro: some rows of the batch.
    whole: of the batch.
    key: of the shuffled control; consumed.
    vocab: special ids.
    cfg: weights of the losses.
  """
  run = functools.partial(
    paths_lib.run_paths, denoiser, vocab=vocab, jitter=micro.jitter
  )
  texts = micro.texts
  base = run(params, texts)
  first = lambda x: jnp.moveaxis(x[:, 0], 1, 0)  # [N, B, L, ...]
  balance = routing.balance_loss(
    first(base.logits), first(base.chosen), texts.credit, pooled=cfg.pooled
  )
  z = routing.z_loss(first(base.logits), texts.credit)
  lm = -jnp.sum(base.logp) / whole.num_labels
  aux = (cfg.balance_weight * balance + cfg.z_weight * z) / cfg.num_micro
  loss = cfg.lm_weight * lm + aux
  metrics = {
    'method/lm_loss': lm * cfg.num_micro,
    'method/balance': balance,
    'method/z': z,
  }
  if not cfg.explores:
    return loss, metrics
  paths = run(params, texts, overrides=micro.override)
  if cfg.path_weight:
    path_loss = -jnp.sum(paths.logp) / whole.num_labels
    count = 1 if cfg.path_sum else cfg.explore.num_paths
    loss += cfg.path_weight * path_loss / count
  if cfg.rl_weight:
    if cfg.router_only:
      below = jax.lax.stop_gradient(params)
      params = denoiser.with_routers(below, params)
      base = run(params, texts)
      paths = run(params, texts, overrides=micro.override)
    rl, more = _policy_loss(base, paths, micro, whole, key, cfg)
    loss, metrics = loss + cfg.rl_weight * rl, metrics | more
  return loss, metrics


def _policy_loss(
  base: paths_lib.Paths,
  paths: paths_lib.Paths,
  micro: Explored,
  whole: Whole,
  key: Key[Array, ''],
  cfg: MoeErlConfig,
) -> tuple[Float[Array, ''], dict[str, Array]]:
  """L_RL of the perturbed paths; of path 0 too under the baseline 'mean'."""
  num_experts = base.logits.shape[-1]
  both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), base, paths)
  gain = routing.advantages(both.logp, cfg.credit)
  skip = 0 if cfg.credit.baseline == 'mean' else 1
  if cfg.credit.shuffle:
    # Micro-batches are run one after the other under the same key.
    key = jax.random.fold_in(key, micro.texts.row_id[0])
    perturbed = jnp.any(micro.mask, axis=2).at[:, :skip].set(False)
    gain = routing.shuffled(key, gain, perturbed)
  logp = routing.first_logp(both)
  weight = routing.importance(
    logp,
    micro.mask.at[:, 0].set(False),  # path 0 is the router's
    replacement=cfg.explore.replacement,
    num_experts=num_experts,
    most=cfg.credit.max_weight,
  )
  wide = jnp.broadcast_to(gain[:, :, None], logp.shape) * weight
  loss = routing.policy_loss(
    logp[:, skip:],
    wide[:, skip:],
    micro.mask[:, skip:],
    whole.num_cells[skip:],
    loss=cfg.credit.loss,
    eps=cfg.credit.eps,
  )
  mask = micro.mask[:, 1:]
  moved = base.chosen[..., 0] != paths.chosen[..., 0]
  mean = lambda x: jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(mask.sum(), 1)
  return loss, {
    'method/rl_loss': loss * cfg.num_micro,
    'method/gain': mean(wide[:, 1:]),
    'method/moved': mean(moved),
  }
