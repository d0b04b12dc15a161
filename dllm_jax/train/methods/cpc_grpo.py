"""CPC-GRPO: answer-free RL from the agreement of paraphrased prompts.

Candidates are written for K views of a problem, and scored by how likely the
other views find them. A candidate's advantage is broadcast to all views, which
distils the ensemble of the prompts into each of them. With another `signal`, it
is one of the answer-free methods that it is compared with. No gold answer is
read, except for metrics. Dims: N sets, K views, M candidates, L completion
columns.

References:
  Kim and Kang 2026, CPC-GRPO, Findings of ACL (2026.findings-acl.1486); what is
  theirs and what ours: docs/methods/cpc_grpo.md.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dllm_jax import errors, types, validation
from dllm_jax.decoding import ensemble
from dllm_jax.ops import masked, sampling, streams
from dllm_jax.rl import consensus, intrinsic, logprobs
from dllm_jax.rollout import batch, context, paraphrase, sharded, unverified
from dllm_jax.runtime import process_rows, sharding
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import policy, policy_config
from dllm_jax.train import state as state_lib

Signal = Literal[
  'consensus',
  'majority',
  'self_likelihood',
  'self_certainty',
  'entropy',
  'random',
]
SIGNALS = get_args(Signal)
_MEASURES = {
  'self_likelihood': sampling.token_logp,
  'self_certainty': intrinsic.self_certainty,
  'entropy': intrinsic.negative_entropy,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CpcGrpoConfig(policy_config.MethodConfig):
  """Config group `method` of CPC-GRPO.

  Attributes:
    num_views: K, views of a problem in a step.
    signal: what a candidate is rewarded for: 'consensus'; 'majority', the most
      frequent answer of its set (TTRL); or the mean over its tokens, after its
      own view alone, of 'self_likelihood', 'self_certainty' (INTUITOR) or
      negative 'entropy' (RENT); 'random'.
    pairs: 'all' views learn from a candidate, or its 'own' alone.
    cross_negative: factor of negative advantages where a view did not write the
      candidate, in [0, 1]; 1 is the form that the abstract suggests.
    aggregate: how the scores of the views make a reward (`rl.consensus`).
    include_self: whether its own view scores a candidate, too.
    subtract_unrelated: subtract the score under a view of the next problem of
      the batch, so that text which is likely anywhere earns nothing.
    scorer: the 'policy' scores, or the 'reference', which is the base.
    candidates: 'per_view', 'ensemble' (from the mean of all views), or 'mixed'.
    ensemble_mean: 'geometric' or 'arithmetic'.
    prefix: k, first tokens of a candidate that are written, scored and trained;
      0 is all.
  """

  num_views: int
  signal: Signal = 'consensus'
  pairs: Literal['all', 'own'] = 'all'
  cross_negative: float = 0.0
  aggregate: consensus.Aggregate = 'mean'
  include_self: bool = False
  subtract_unrelated: bool = False
  scorer: Literal['policy', 'reference'] = 'reference'
  candidates: paraphrase.Candidates = 'per_view'
  ensemble_mean: ensemble.Mean = 'geometric'
  prefix: int = 0

  def __post_init__(self):
    validation.choices(
      self,
      signal=SIGNALS,
      pairs=('all', 'own'),
      aggregate=consensus.AGGREGATES,
      scorer=('policy', 'reference'),
      candidates=paraphrase.CANDIDATES,
      ensemble_mean=ensemble.MEANS,
    )
    if self.num_views < 2:
      raise ValueError(
        f'num_views is {self.num_views}, and agreement takes 2 views or more'
      )
    if not 0.0 <= self.cross_negative <= 1.0:
      raise ValueError(f'cross_negative {self.cross_negative} is not in [0, 1]')
    validation.not_negative(self, 'prefix')
    if self.subtract_unrelated and self.aggregate == 'probability':
      raise ValueError(
        'subtract_unrelated is of log-probabilities, and aggregate '
        "'probability' is none: use another"
      )
    needs_own = self.pairs == 'own' or self.signal in _MEASURES
    if needs_own and self.candidates != 'per_view':
      raise ValueError(
        f'pairs {self.pairs!r} with signal {self.signal!r} needs a view that '
        f'wrote the candidate, and candidates is {self.candidates!r}: use '
        "'per_view'"
      )

  @property
  def reads_answers(self) -> bool:
    """A vote is over answers."""
    return self.signal == 'majority'

  @property
  def rows_per_rollout(self) -> int:
    """Every candidate is trained after each of the K views."""
    return self.num_views if self.pairs == 'all' else 1

  def check(self, ctx: context.Context, rollout: batch.RolloutConfig) -> None:
    """See `MethodConfig.check`; also refuses what makes no candidates."""
    super().check(ctx, rollout)
    if not isinstance(ctx.task, task_lib.Paraphrased):
      raise errors.UserError(
        f'config key task.name is {ctx.task.name!r}, which has no paraphrases '
        'of its prompts, and method cpc_grpo needs them: use paraphrases, '
        'phrasings, or gsm8k_phrasings, openbookqa_phrasings, aqua_phrasings'
      )
    if self.subtract_unrelated and rollout.num_prompts < 2:
      raise errors.UserError(
        'config key rollout.num_prompts is 1, and '
        'method.subtract_unrelated needs another problem: use 2 or more'
      )
    if self.prefix > rollout.decoder.gen_length:
      raise errors.UserError(
        f'config key method.prefix is {self.prefix}, more than '
        f'rollout.gen_length {rollout.decoder.gen_length}'
      )
    decoder = rollout.decoder
    if decoder.top_p < 1 or decoder.top_k:
      raise errors.UserError(
        f'config keys rollout.top_p {decoder.top_p} and rollout.top_k '
        f'{decoder.top_k} truncate the candidates, and scores are of all '
        'tokens: use 1 and 0'
      )
    if self.candidates != 'per_view':
      if decoder.num_drafts:
        raise errors.UserError(
          'config key rollout.decode drafts, which the candidates of an '
          "ensemble do not (method.candidates): use 'autoregressive'"
        )
      source = paraphrase.sources(
        self.candidates, rollout.group_size, self.num_views
      )
      for kind in (source < 0, source >= 0):
        sharding.check_divides(
          rollout.num_prompts * int(kind.sum()),
          ctx.mesh,
          f'the number of candidates of each kind ({self.candidates})',
        )

  def check_rows(
    self, ctx: context.Context, rows: Sequence[task_lib.Row]
  ) -> None:
    """See `MethodConfig.check_rows`: every row has its views."""
    paraphrase.check_sets(ctx.task, rows, self.num_views)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CpcGrpo(policy.PolicyMethod):
  """`loop.Method` of CPC-GRPO."""

  Config = CpcGrpoConfig

  cfg: CpcGrpoConfig

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[types.RolloutBatch, dict[str, Any]]:
    """Writes candidates for every set, rewards them, and pairs them."""
    ctx, cfg = self.ctx, self.cfg
    decoder = self.rollout.decoder
    if cfg.prefix:
      decoder = decoder.resized(cfg.prefix)
    sets = paraphrase.request_sets(ctx, rows, cfg.num_views, step)
    source = paraphrase.sources(
      cfg.candidates, self.rollout.group_size, cfg.num_views
    )
    rollouts = paraphrase.candidates(
      ctx,
      state.params,
      sets,
      source,
      step,
      decoder=decoder,
      mean=cfg.ensemble_mean,
    )
    own = paraphrase.own_pairs(ctx, rollouts)
    pairs, metrics = None, {}
    if cfg.pairs == 'all' or cfg.signal == 'consensus':
      pairs = paraphrase.all_pairs(ctx, sets, rollouts, source)
    if cfg.signal == 'majority':
      reward = unverified.majority(ctx, len(own.row_id), len(source))
    else:
      values, metrics = self._reward(
        state.params, sets, rollouts, own, pairs, source, step
      )
      reward = unverified.given(ctx, values)
    judged = batch.judge(
      ctx, sets.rows, rollouts, reward=reward, advantage=cfg.advantage
    )
    reference = None
    if cfg.candidates == 'per_view':
      reference = self._measure(self.reference, own)
    correct = process_rows.replicate(judged.correct, ctx.mesh)
    metrics |= judged.metrics
    metrics |= _course(judged.batch, correct, reference, num_sets=sets.num_sets)
    made = judged.batch if cfg.pairs == 'own' else pairs
    return _credit(made, judged.batch, source, cfg=cfg), metrics

  def _measure(
    self,
    params: types.Params,
    rows: types.RolloutBatch,
    measure: logprobs.Measure = sampling.token_logp,
  ) -> Float[Array, 'B L']:
    """What is measured at each token of the completions."""
    cfg, mesh = self.cfg.policy, self.ctx.mesh
    share = len(rows.row_id) // sharding.num_row_shards(mesh)
    measured = policy.fixed_logp(
      params,
      rows,
      self.ctx.root,  # The views of causal models draw nothing.
      denoiser=sharded.placed(self.ctx.denoiser, mesh),
      vocab=self.ctx.vocab,
      estimator=cfg.make_estimator(max_commits=1),
      num_micro=math.gcd(share, cfg.num_micro),
      measure=measure,
    )
    return measured[:, 0]

  def _reward(
    self,
    params: types.Params,
    sets: paraphrase.Sets,
    rollouts: batch.Rollouts,
    own: types.RolloutBatch,
    pairs: types.RolloutBatch | None,
    source: Int[np.ndarray, ' M'],
    step: int,
  ) -> tuple[Float[Array, ' B'], dict[str, Float[Array, '']]]:
    """The rewards of the candidates, and metrics of the agreement."""
    cfg = self.cfg
    if cfg.signal == 'random':
      key = streams.step_key(self.ctx.root, 'reward', step)
      return unverified.random(key, own.row_id), {}
    if cfg.signal in _MEASURES:
      measured = self._measure(params, own, _MEASURES[cfg.signal])
      return unverified.token_mean(measured, own.completion_mask), {}
    scorer = self.reference if cfg.scorer == 'reference' else params
    logp = self._measure(scorer, pairs)
    reward, metrics = _consensus(logp, pairs.completion_mask, source, cfg=cfg)
    if cfg.subtract_unrelated:
      others = paraphrase.unrelated_pairs(self.ctx, sets, rollouts)
      logp = self._measure(scorer, others)
      reward -= unverified.token_mean(logp, others.completion_mask)
    return reward, metrics


@functools.partial(jax.jit, static_argnames=('cfg',))
def _consensus(
  logp: Float[Array, 'B L'],
  mask: Bool[Array, 'B L'],
  source: Int[Array, ' M'],
  *,
  cfg: CpcGrpoConfig,
) -> tuple[Float[Array, ' b'], dict[str, Float[Array, '']]]:
  """The reward of every candidate, set by set, and mean scores."""
  by_pair = lambda x: x.reshape(-1, cfg.num_views, len(source), x.shape[1])
  scores = consensus.scores(by_pair(logp), by_pair(mask)[:, 0])
  weight = consensus.view_weights(
    source, cfg.num_views, include_self=cfg.include_self
  )
  reward = consensus.rewards(scores, weight, cfg.aggregate)
  others, own = consensus.agreement(scores, source)
  metrics = {'consensus/agreement': others, 'consensus/own': own}
  return reward.reshape(-1), metrics


@functools.partial(jax.jit, static_argnames=('num_sets',))
def _course(
  rows: types.RolloutBatch,
  correct: Float[Array, ' B'],
  reference: Float[Array, 'B L'] | None,
  *,
  num_sets: int,
) -> dict[str, Float[Array, '']]:
  """Variety of the candidates, their distance to the base, and their worth.

  Args:
    rows: rewarded candidates after their own views.
    correct: 1, 0 or NaN; for metrics alone.
    reference: log-probability of each token under the reference policy (nats).
    num_sets: N.
  """
  by_set = lambda x: x.reshape(num_sets, -1, *x.shape[1:])
  mask = rows.completion_mask
  metrics = consensus.diversity(
    by_set(rows.tokens), by_set(jnp.sum(mask, axis=1))
  )
  # The advantage is linear in the reward within a set.
  metrics['correlation'] = consensus.correlation(
    by_set(rows.advantage[:, 0]), by_set(correct)
  )
  if reference is not None:
    kl = masked.total(rows.sampler_logp - reference, mask)
    metrics['kl'] = kl / jnp.maximum(jnp.sum(mask), 1)
  return {f'consensus/{name}': value for name, value in metrics.items()}


@functools.partial(jax.jit, static_argnames=('cfg',))
def _credit(
  rows: types.RolloutBatch,
  rewarded: types.RolloutBatch,
  source: Int[Array, ' M'],
  *,
  cfg: CpcGrpoConfig,
) -> types.RolloutBatch:
  """The rows of the update with the advantages of their candidates.

  Args:
    rows: own or all pairs, as `cfg.pairs` says.
    rewarded: the candidates with their advantages.
    source: s(m).
    cfg: how pairs are credited.
  """
  by_set = lambda x: x.reshape(-1, len(source))
  num_tokens = by_set(jnp.sum(rewarded.completion_mask, axis=1))
  advantage = consensus.per_candidate(
    by_set(rewarded.advantage[:, 0]), num_tokens
  )
  counted = num_tokens > 0
  if cfg.pairs == 'all':
    advantage = consensus.pair_advantages(
      advantage, source, cfg.num_views, cross_negative=cfg.cross_negative
    )
    counted = jnp.broadcast_to(counted[:, None], advantage.shape)
  wide = jnp.broadcast_to(advantage.reshape(-1, 1), rows.tokens.shape)
  return rows._replace(
    advantage=wide,
    completion_mask=rows.completion_mask & counted.reshape(-1, 1),
  )
