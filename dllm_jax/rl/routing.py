"""Exploration of expert routing: perturbed paths, their gains, and the loss.

A path of a row is one run of the model in which some cells, pairs of a layer
and a token, are sent to another expert than the router's first choice. Path 0
is the router's own. How much better a token's label is predicted on a path
than on path 0 is the advantage of the experts that were changed at it.

`rl.paths` runs them. Dims: B rows, P paths, N layers with experts, L labels of
a row, E experts, k experts of a token.

References:
  Kim and Kang 2025, MoE-ERL, Findings of EMNLP (2025.findings-emnlp.1282).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types, validation
from dllm_jax.ops import masked, streams
from dllm_jax.rl import paths as paths_lib

REPLACEMENTS = ('router', 'other', 'uniform')
ADVANTAGES = ('minus', 'static', 'positive', 'clip', 'log')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExploreConfig:
  """How paths are perturbed.

  Attributes:
    num_paths: perturbed paths of a row and update.
    alpha: share of the cells that are perturbed, in [0, 1].
    replacement: the expert of a perturbed cell: a sample of the 'router', any
      'other' expert than its first choice, or a 'uniform' one of all.
  """

  num_paths: int
  alpha: float
  replacement: str = 'router'

  def __post_init__(self):
    if self.num_paths < 1:
      raise ValueError(
        f'num_paths is {self.num_paths}: there is nothing to compare with the '
        "router's own path; use 1 or more"
      )
    if not 0 <= self.alpha <= 1:
      raise ValueError(f'alpha {self.alpha} is not in [0, 1]')
    validation.choices(self, replacement=REPLACEMENTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CreditConfig:
  """Advantages of paths, and the loss on the router.

  Attributes:
    advantage: a function of the gain, one of `ADVANTAGES`.
    baseline: what a path is compared with: 'top1', the router's own path, or
      'mean', the mean over all paths, in which case path 0 is credited too.
    loss: 'reinforce' or 'ppo'; on-policy they have the same gradient.
    eps: clip radius of 'ppo'.
    max_weight: bound of the importance weights pi / mu of the replacements
      'other' and 'uniform', whose draws are not the router's; 0 has no weights.
    shuffle: control: advantages are permuted among the perturbed labels of a
      micro-batch, whatever their row and path.
  """

  advantage: str = 'minus'
  baseline: str = 'top1'
  loss: str = 'reinforce'
  eps: float = 0.2
  max_weight: float = 5.0
  shuffle: bool = False

  def __post_init__(self):
    validation.choices(
      self,
      advantage=ADVANTAGES,
      baseline=('top1', 'mean'),
      loss=('reinforce', 'ppo'),
    )
    if self.eps <= 0 or self.max_weight < 0:
      raise ValueError(
        f'eps {self.eps} must be positive, max_weight {self.max_weight} not '
        'negative'
      )


def change_mask(
  key: Key[Array, ''],
  credit: Bool[Array, 'B L'],
  row_id: Int[Array, ' B'],
  *,
  num_paths: int,
  num_layers: int,
  alpha: float,
) -> Bool[Array, 'B P N L']:
  """The perturbed cells: round(alpha N n) of a row with n labels, uniformly.

  Args:
    key: consumed; a row's cells depend on it and `row_id` alone.
    credit: the labels.
    row_id: number of each row.
    num_paths: P.
    num_layers: N.
    alpha: share of the cells, in [0, 1].
  """
  shape = (num_paths, num_layers, credit.shape[1])
  draw = lambda key: jax.random.uniform(key, shape)
  uniform = jax.vmap(draw)(streams.row_keys(key, row_id))
  is_cell = jnp.broadcast_to(credit[:, None, None], uniform.shape)
  flat = jnp.where(is_cell, uniform, jnp.inf).reshape(-1, num_layers * shape[2])
  order = jnp.argsort(flat, axis=-1)
  count = jnp.round(alpha * num_layers * jnp.sum(credit, axis=1))
  count = jnp.repeat(count.astype(order.dtype), num_paths)[:, None]
  is_first = jnp.arange(flat.shape[1])[None] < count
  row = jnp.arange(flat.shape[0])[:, None]
  mask = jnp.zeros(flat.shape, bool).at[row, order].set(is_first)
  return mask.reshape(uniform.shape) & is_cell


def override(
  key: Key[Array, ''],
  mask: Bool[Array, 'B P N L'],
  row_id: Int[Array, ' B'],
  *,
  replacement: str,
  num_experts: int,
) -> types.RouterOverride:
  """The experts of the perturbed cells; fields are [B, P, N, L].

  Args:
    key: consumed.
    mask: the perturbed cells.
    row_id: number of each row.
    replacement: one of `REPLACEMENTS`.
    num_experts: E.
  """
  draw = lambda key: jax.random.uniform(key, mask.shape[1:])
  uniform = jax.vmap(draw)(streams.row_keys(key, row_id))
  if replacement == 'router':
    return types.RouterOverride(quantile=jnp.where(mask, uniform, -1.0))
  whole = lambda n: jnp.minimum((uniform * n).astype(jnp.int32), n - 1)
  if replacement == 'other':
    offset = 1 + whole(num_experts - 1)
    return types.RouterOverride(offset=jnp.where(mask, offset, 0))
  return types.RouterOverride(expert=jnp.where(mask, whole(num_experts), -1))


def advantages(
  logp: Float[Array, 'B P L'], cfg: CreditConfig
) -> Float[Array, 'B P L']:
  """A function of the gain of each path in a label's probability; a constant.

  With p_b = exp(logp_b) and the baseline p_0 of path 0, or the mean of p_b over
  all paths: 'minus' p_b - p_0, 'static' its sign, 'positive' and 'clip' it
  within [0, 1] and [-1, 1], 'log' log(p_b / p_0).

  Args:
    logp: log-probability of the labels, path 0 first.
    cfg: the function and the baseline.
  """
  logp = jax.lax.stop_gradient(logp)
  base = logp[:, :1]
  if cfg.baseline == 'mean':
    base = jax.nn.logsumexp(logp, axis=1, keepdims=True)
    base -= jnp.log(logp.shape[1])
  base = jnp.broadcast_to(base, logp.shape)
  gain = jnp.exp(logp) - jnp.exp(base)
  return {
    'minus': gain,
    'static': jnp.sign(gain),
    'positive': jnp.clip(gain, 0.0, 1.0),
    'clip': jnp.clip(gain, -1.0, 1.0),
    'log': logp - base,
  }[cfg.advantage]


def first_logp(paths: paths_lib.Paths) -> Float[Array, 'B P N L']:
  """log pi of the first choice of each cell; gradients flow through it."""
  logp = jax.nn.log_softmax(paths.logits, axis=-1)
  return jnp.take_along_axis(logp, paths.chosen[..., :1], axis=-1)[..., 0]


def importance(
  logp: Float[Array, '*n'],
  mask: Bool[Array, '*n'],
  *,
  replacement: str,
  num_experts: int,
  most: float,
) -> Float[Array, '*n']:
  """min(pi / mu, most): how much likelier the router is to draw the expert.

  mu is 1 / (E - 1) of 'other' and 1 / E of 'uniform'; of the router's own
  draws, of cells that were not changed, and with `most` 0 the weight is 1.

  Args:
    logp: log pi of the experts.
    mask: the perturbed cells.
    replacement: how they were drawn.
    num_experts: E.
    most: bound of the weights.
  """
  if replacement == 'router' or not most:
    return jnp.ones_like(logp)
  inverse = num_experts - (replacement == 'other')
  weight = jnp.exp(jax.lax.stop_gradient(logp)) * inverse
  return jnp.where(mask, jnp.minimum(weight, most), 1.0)


def shuffled(
  key: Key[Array, ''], x: Float[Array, 'B P L'], where: Bool[Array, 'B P L']
) -> Float[Array, 'B P L']:
  """The entries under `where`, permuted; 0 elsewhere. `key` is consumed.

  Of a control: `where` are the labels that are credited on a path, so that the
  loss has as large advantages as without it.
  """
  is_in = where.reshape(-1)
  uniform = jax.random.uniform(key, is_in.shape)
  source = jnp.argsort(jnp.where(is_in, uniform, jnp.inf))
  place = jnp.argsort(~is_in, stable=True)
  mixed = jnp.zeros_like(x.reshape(-1)).at[place].set(x.reshape(-1)[source])
  return jnp.where(where, mixed.reshape(x.shape), 0.0)


def policy_loss(
  logp: Float[Array, 'B P N L'],
  advantage: Float[Array, 'B P N L'],
  mask: Bool[Array, 'B P N L'],
  count: Float[Array, 'P N'],
  *,
  loss: str,
  eps: float,
) -> Float[Array, '']:
  """The loss on the router of the perturbed cells.

  L = - 1/(P N) sum_{b,l} 1/count_{b,l} sum_cells A log pi      ('reinforce')
  'ppo' has min(r A, clip(r, 1-eps, 1+eps) A), r = pi / sg(pi), for A log pi.

  A layer without a perturbed cell on a path adds 0.

  Args:
    logp: log pi of the expert of each cell; gradients flow through it.
    advantage: constants.
    mask: the cells to credit.
    count: number of them in the whole batch, of which this may be a part.
    loss: 'reinforce' or 'ppo'.
    eps: clip radius of 'ppo'.
  """
  if loss == 'ppo':
    ratio = jnp.exp(logp - jax.lax.stop_gradient(logp))
    clipped = jnp.clip(ratio, 1 - eps, 1 + eps)
    gain = jnp.minimum(ratio * advantage, clipped * advantage)
  else:
    gain = advantage * logp
  total = jnp.sum(jnp.where(mask, gain, 0.0), axis=(0, 3))
  return -jnp.mean(total / jnp.maximum(count, 1.0))


def balance_loss(
  logits: Float[Array, 'N B L E'],
  chosen: Int[Array, 'N B L k'],
  mask: Bool[Array, 'B L'],
  *,
  pooled: bool,
) -> Float[Array, '']:
  """E sum_e f_e P_e over the batch, a mean over layers; 1 where even (k = 1).

  f_e is the number of choices of expert e per token, P_e the mean probability
  of e. `pooled` takes both over the tokens of all layers together, as
  transformers does, instead of layer by layer.

  References:
    Fedus et al. 2021, eqs. 4 to 6 (arXiv:2101.03961).
  """
  num_experts = logits.shape[-1]
  weight = mask / jnp.maximum(jnp.sum(mask), 1)
  hot = jax.nn.one_hot(chosen, num_experts).sum(-2)
  share = jnp.einsum('nble,bl->ne', hot, weight)
  mean = jnp.einsum('nble,bl->ne', jax.nn.softmax(logits), weight)
  if pooled:
    share, mean = share.mean(0, keepdims=True), mean.mean(0, keepdims=True)
  return num_experts * jnp.mean(jnp.sum(share * mean, axis=-1))


def z_loss(
  logits: Float[Array, 'N B L E'], mask: Bool[Array, 'B L']
) -> Float[Array, '']:
  """Mean of logsumexp(logits)^2 over tokens and layers.

  References:
    Zoph et al. 2022, ST-MoE, eq. 5 (arXiv:2202.08906).
  """
  square = jax.nn.logsumexp(logits, axis=-1) ** 2
  every = jnp.broadcast_to(mask[None], square.shape)
  return masked.total(square, every) / jnp.maximum(jnp.sum(every), 1)
