"""How well routers choose among experts, and how different the experts are.

The mean reciprocal rank (MRR) of the routers' own paths among perturbed ones is
1 where no perturbation predicts a row better, and H_K / K at chance, with K
paths in all (0.0515 for 101). Dims: R rows, P perturbed paths, N layers with
experts, L labels of a row, E experts.

References:
  Kim and Kang 2025, MoE-ERL, Findings of EMNLP (2025.findings-emnlp.1282).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from dllm_jax import types
from dllm_jax.rl import paths as paths_lib
from dllm_jax.rl import routing
from dllm_jax.rollout import sharded
from dllm_jax.runtime import process_rows

# Mean log-probabilities (nats) that differ by less are tied: the paths of
# identical experts differ by rounding.
TIE = 1e-6
NUM_SAMPLES = 2000  # of the bootstrap


class Ranks(NamedTuple):
  """Of the routers' own paths among all paths, over rows.

  Attributes:
    mrr: mean reciprocal rank; a tie counts half.
    percentile: mean share of the perturbed paths that are worse.
    first: share of rows of rank 1.
    ties: share of perturbed paths that are tied with the routers'.
  """

  mrr: float
  percentile: float
  first: float
  ties: float


def ranks(
  own: Float[np.ndarray, ' R'], others: Float[np.ndarray, 'R P']
) -> Ranks:
  """rank = 1 + number of better paths + half the number of tied ones.

  Args:
    own: score of each row's own path; higher is better.
    others: scores of its perturbed paths.
  """
  gap = others - own[:, None]
  better, tied = gap > TIE, np.abs(gap) <= TIE
  rank = 1 + better.sum(1) + tied.sum(1) / 2
  worse = 1 - better.mean(1) - tied.mean(1) / 2
  return Ranks(
    mrr=float((1 / rank).mean()),
    percentile=float(worse.mean()),
    first=float((rank == 1).mean()),
    ties=float(tied.mean()),
  )


def chance(num_paths: int) -> float:
  """MRR where all of 1 + `num_paths` paths are exchangeable: H_K / K."""
  total = num_paths + 1
  return float((1 / np.arange(1, total + 1)).sum() / total)


def evaluate(
  denoiser: types.Routed,
  params: types.Params,
  texts: paths_lib.Texts,
  label: Int[np.ndarray, ' R'],
  cfg: routing.ExploreConfig,
  key: Key[Array, ''],
  *,
  vocab: types.Vocabulary,
  mesh: Mesh,
  batch_size: int,
) -> dict[str, Any]:
  """Everything that is reported of the routing of one model, as JSON values.

  Args:
    denoiser: the model.
    params: its parameters.
    texts: held-out rows, on the host.
    label: kind of each row; rows of the map.
    cfg: the perturbed paths; their MRR is also computed for draws of the
      router.
    key: consumed; the same key draws the same paths for every model.
    vocab: special ids.
    mesh: device mesh.
    batch_size: rows that are run together.
  """
  denoiser = sharded.placed(denoiser, mesh)
  other = 'other' if cfg.replacement == 'router' else 'router'
  found = []
  for start in range(0, len(label), batch_size):
    rows = jax.tree.map(lambda x: x[start : start + batch_size], texts)  # noqa: B023
    count = len(rows.row_id)
    placed = process_rows.place(rows, mesh, batch_size)
    made = _measure(
      params,
      placed,
      jax.random.clone(key),  # rows have draws of their own
      denoiser=denoiser,
      vocab=vocab,
      cfg=cfg,
      other=other,
    )
    found.append(jax.tree.map(lambda x: np.asarray(x)[:count], made))  # noqa: B023
  whole = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
  return summarise(whole, texts.credit, label, cfg, other)


class Measured(NamedTuple):
  """Mean log-probabilities of rows' labels, and the routers' choices.

  Attributes:
    own: of the routers' own path.
    perturbed: of paths perturbed as configured.
    sampled: of paths perturbed by the other kind of draws.
    forced: log-probability of each label where every cell goes to one expert.
    logp: of each label, on the routers' own path.
    chosen: first choices of the cells.
    confidence: probability of the first choice.
  """

  own: Float[Array, ' R']
  perturbed: Float[Array, 'R P']
  sampled: Float[Array, 'R P']
  forced: Float[Array, 'R E L']
  logp: Float[Array, 'R L']
  chosen: Int[Array, 'R N L']
  confidence: Float[Array, 'R N L']


@functools.partial(
  jax.jit, static_argnames=('denoiser', 'vocab', 'cfg', 'other')
)
def _measure(
  params: types.Params,
  texts: paths_lib.Texts,
  key: Key[Array, ''],
  *,
  denoiser: types.Routed,
  vocab: types.Vocabulary,
  cfg: routing.ExploreConfig,
  other: str,
) -> Measured:
  run = functools.partial(paths_lib.run_paths, denoiser, params, texts, vocab)
  num_layers, num_experts = denoiser.num_sparse_layers, denoiser.num_experts
  mask_key, draw_key = jax.random.split(key)
  mask = routing.change_mask(
    mask_key,
    texts.credit,
    texts.row_id,
    num_paths=cfg.num_paths,
    num_layers=num_layers,
    alpha=cfg.alpha,
  )
  mean = lambda logp: (
    jnp.sum(logp, -1) / jnp.maximum(jnp.sum(texts.credit, -1, keepdims=True), 1)
  )

  def scores(replacement):
    override = routing.override(
      jax.random.clone(draw_key),
      mask,
      texts.row_id,
      replacement=replacement,
      num_experts=num_experts,
    )
    return mean(run(override).logp)

  base = run()
  rows, length = texts.credit.shape
  expert = jnp.broadcast_to(
    jnp.arange(num_experts).reshape(1, -1, 1, 1),
    (rows, num_experts, num_layers, length),
  )
  return Measured(
    own=mean(base.logp)[:, 0],
    perturbed=scores(cfg.replacement),
    sampled=scores(other),
    forced=run(types.RouterOverride(expert=expert)).logp,
    logp=base.logp[:, 0],
    chosen=base.chosen[:, 0, ..., 0],
    confidence=jnp.exp(routing.first_logp(base))[:, 0],
  )


def summarise(
  made: Measured,
  credit: np.ndarray,
  label: Int[np.ndarray, ' R'],
  cfg: routing.ExploreConfig,
  other: str,
) -> dict[str, Any]:
  """The numbers of a report, from what was measured of every row."""
  num_experts = made.forced.shape[1]
  loss = float(-made.logp[credit].mean())
  cell = np.broadcast_to(credit[:, None], made.chosen.shape)
  load = share_of_experts(made.chosen, cell, num_experts)  # [N, E]
  return {
    'loss': loss,
    'perplexity': float(np.exp(loss)),
    'row_loss': (-made.own).round(5).tolist(),
    'mrr': ranks(made.own, made.perturbed)._asdict(),
    'mrr_by_' + other: ranks(made.own, made.sampled)._asdict(),
    'chance': chance(cfg.num_paths),
    'path_variance': float(made.perturbed.var(1).mean()),
    'confidence': float(made.confidence[cell].mean()),
    'load': load.round(4).tolist(),
    'load_entropy': float(entropy(load).mean() / np.log(num_experts)),
    'map': [
      share_of_experts(
        made.chosen[label == kind], cell[label == kind], num_experts
      )
      .round(4)
      .tolist()
      for kind in range(int(label.max()) + 1)
    ],
    **cross_loss(made, credit),
  }


def share_of_experts(
  chosen: Int[np.ndarray, 'R N L'], cell: np.ndarray, num_experts: int
) -> Float[np.ndarray, 'N E']:
  """By layer, the share of the cells that go to each expert."""
  hot = (chosen[..., None] == np.arange(num_experts)) & cell[..., None]
  return hot.sum((0, 2)) / max(cell[:, 0].sum(), 1)


def entropy(share: Float[np.ndarray, '*n E']) -> Float[np.ndarray, '*n']:
  """-sum p log p in nats."""
  return -(share * np.log(np.where(share > 0, share, 1.0))).sum(-1)


def cross_loss(made: Measured, credit: np.ndarray) -> dict[str, Any]:
  """The loss of the tokens of one expert when another one serves them.

  'cross'[i][j] is the mean loss of the labels whose cell the last layer's
  router sends to expert i, when every cell of the row goes to expert j in every
  layer; null where no cell goes to i. 'cross_loss' is the mean over j != i,
  weighted by cells: low where experts overlap.
  """
  num_experts = made.forced.shape[1]
  last = made.chosen[:, -1]
  cross, off, total = [], 0.0, 0
  for i in range(num_experts):
    mine = (last == i) & credit
    count = int(mine.sum())
    losses = [
      float(-made.forced[:, j][mine].mean()) if count else None
      for j in range(num_experts)
    ]
    cross.append(losses)
    if count:
      off += count * float(np.mean(losses[:i] + losses[i + 1 :]))
      total += count
  return {'cross': cross, 'cross_loss': off / max(total, 1)}


def paired(
  ours: Sequence[float], theirs: Sequence[float]
) -> tuple[float, float, float]:
  """(difference of the means, and its 95 % interval by bootstrap over rows)."""
  gap = np.asarray(ours) - np.asarray(theirs)
  rng = np.random.default_rng(0)
  index = rng.integers(len(gap), size=(NUM_SAMPLES, len(gap)))
  low, high = np.quantile(gap[index].mean(1), [0.025, 0.975])
  return float(gap.mean()), float(low), float(high)
