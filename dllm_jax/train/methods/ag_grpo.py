"""AG-GRPO: answer-free and answer-guided rollouts under one group baseline.

The first rows of a group are answer-free; the last `num_guided` (or fewer, see
`GuidedConfig.groups` and `anneal_steps`) reason towards the gold answer and
then re-predict it. The loss is diffu-GRPO's, with only the
prompt as context.

References:
  Kim et al. 2026, AG-GRPO, ACL (2026.acl-long.1724).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import errors, types
from dllm_jax.decoding import fixed
from dllm_jax.ops import streams
from dllm_jax.rollout import (
  answer_free,
  answer_guided,
  batch,
  context,
  prompts,
  score,
)
from dllm_jax.runtime import process_rows, sharding
from dllm_jax.tasks import rows as rows_lib
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import policy, policy_config
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgGrpoConfig(policy_config.GroupConfig):
  """Config group `method` of AG-GRPO.

  Attributes:
    guided: the answer-guided part of a group.
  """

  guided: answer_guided.GuidedConfig

  def check(self, ctx: context.Context, rollout: batch.RolloutConfig) -> None:
    """See `GroupConfig.check`."""
    super().check(ctx, rollout)
    guided, decoder = self.guided, rollout.decoder
    if not isinstance(decoder, fixed.Fixed) or decoder.schedule != 'even':
      raise errors.UserError(
        'config keys rollout.decode and rollout.schedule: the guided rows of '
        "ag_grpo are decoded by an even, fixed schedule; use 'fixed' and 'even'"
      )
    if guided.num_guided > rollout.group_size:
      raise errors.UserError(
        f'config key method.guided.num_guided is {guided.num_guided}, more '
        f'than rollout.group_size {rollout.group_size}'
      )
    if guided.max_anchor >= decoder.gen_length:
      raise errors.UserError(
        f'config key method.guided.max_anchor is {guided.max_anchor}; it must '
        f'be below rollout.gen_length {decoder.gen_length}'
      )
    sharding.check_divides(
      rollout.num_prompts * guided.num_guided,
      ctx.mesh,
      'rollout.num_prompts * method.guided.num_guided',
    )

  def check_rows(
    self, ctx: context.Context, rows: Sequence[task_lib.Row]
  ) -> None:
    """See `GroupConfig.check_rows`; also refuses anchors that do not fit."""
    super().check_rows(ctx, rows)
    if not self.guided.num_guided:
      return
    if isinstance(ctx.task, rows_lib.Problems):
      lacking = [row['id'] for row in rows if not ctx.task.has_answer(row)]
      if lacking:
        raise errors.UserError(
          f'{lacking[0]} has no "answer", and ag_grpo guides with it '
          f'({len(lacking)} of {len(rows)} rows have none): add it, or use '
          'configs/diffu_grpo.py'
        )
    try:
      anchors = answer_guided.anchors(
        ctx.task, ctx.tokenizer, rows, self.guided
      )
    except ValueError as e:
      raise errors.UserError(
        f'cannot encode the anchors of template {self.guided.template!r} in '
        f'task {ctx.task.name!r}: {e}; change method.guided.template'
      ) from e
    if not any(anchors):
      raise errors.UserError(
        f'every anchor is longer than method.guided.max_anchor='
        f'{self.guided.max_anchor}: increase it'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgGrpo(policy.PolicyMethod):
  """`loop.Method` of AG-GRPO."""

  Config = AgGrpoConfig

  cfg: AgGrpoConfig

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[types.RolloutBatch, dict[str, Any]]:
    """Samples both kinds of rows of every group, and rewards them together."""
    ctx, size = self.ctx, self.rollout.group_size
    cfg, decoder = self.cfg.guided, self.rollout.decoder
    requests = batch.request_groups(ctx, rows, size)
    anchors = answer_guided.anchors(ctx.task, ctx.tokenizer, rows, cfg)
    row_id = np.arange(len(requests.prompt_id))
    is_last = row_id % size >= size - cfg.num_at(step)
    has_anchor = np.array([a is not None for a in anchors])
    guided = is_last & has_anchor[requests.prompt_id]
    key = streams.step_key(ctx.root, 'rollout', step)

    # The two kinds are sampled separately, then merged in row order. There are
    # two shapes of answer-free rows: without the guided ones, while every group
    # has `num_guided` of them, and all rows.
    num_guided = len(rows) * cfg.num_guided
    is_replaced = cfg.groups == 'failed' and bool(guided.any())
    parts, share = [], None
    if is_replaced:
      free = requests.prompts
      parts.append(answer_free.rollout(ctx, state.params, key, free, decoder))
      tried = batch.Rollouts(requests, parts[0])
      correct = batch.verdicts(ctx, rows, tried, self.cfg.reward)
      counted = np.ones(len(row_id), bool)
      failed = batch.failed(correct, requests.group_id, counted)
      guided &= (failed == 1)[requests.group_id]
      share = score.finite_mean(failed)
    elif not guided.all():
      is_full = guided.sum() == num_guided
      num_free = len(row_id) - (num_guided if is_full else 0)
      free = batch.take(requests.prompts, row_id[~guided], num_free, ctx.mesh)
      parts.append(answer_free.rollout(ctx, state.params, key, free, decoder))
    if guided.any():
      parts.append(
        self._guided(state, key, requests, anchors, row_id[guided], num_guided)
      )
    trajectory = parts[0]
    if len(parts) == 2:
      trajectory = batch.merge(
        *parts, guided, ctx.mesh, is_first_whole=is_replaced
      )
    judged = batch.judge(
      ctx,
      rows,
      batch.Rollouts(requests, trajectory, guided),
      reward=score.task_reward(ctx, self.cfg.reward),
      advantage=self.cfg.advantage,
    )
    made, metrics = judged.batch, judged.metrics
    if share is not None:  # of all answer-free rows, before some were replaced
      metrics = metrics | {'group/failed': share}
    if cfg.credit == 'reasoning' and guided.any():
      length = np.array([len(anchor or ()) for anchor in anchors])
      start = decoder.gen_length - length[requests.prompt_id]
      is_answer = np.arange(decoder.gen_length) >= start[:, None]
      made = made._replace(
        advantage=self._zero(made.advantage, guided[:, None] & is_answer)
      )
    return made, metrics

  def _zero(
    self, advantage: Float[Array, 'B L'], where: Bool[np.ndarray, 'B L']
  ) -> Float[Array, 'B L']:
    """The advantages with zeros at the given tokens."""
    mesh, num_rows = self.ctx.mesh, len(where)
    own = process_rows.share(mesh, num_rows)
    placed = process_rows.place(where[own], mesh, num_rows)
    return _zero(sharding.rows(mesh))(advantage, placed)

  def _guided(
    self,
    state: state_lib.TrainState,
    key: Key[Array, ''],
    requests: batch.Requests,
    anchors: Sequence[Sequence[int] | None],
    row_id: Int[np.ndarray, ' b'],
    num_rows: int,
  ) -> types.Trajectory:
    """Answer-guided completions of the given rows, padded to `num_rows`."""
    ctx, cfg = self.ctx, self.cfg.guided
    own = process_rows.share(ctx.mesh, len(row_id), num_rows)
    anchor = prompts.pad_left(
      [anchors[i] for i in requests.prompt_id[row_id[own]]],
      cfg.max_anchor,
      ctx.vocab.eos_token,
    )
    return answer_guided.sample(
      ctx.denoiser,
      state.params,
      key,
      answer_guided.Anchored(
        batch.take(requests.prompts, row_id, num_rows, ctx.mesh),
        *process_rows.place((anchor.ids, anchor.mask), ctx.mesh, num_rows),
      ),
      answer_guided.passes(self.rollout.decoder, cfg),
      mesh=ctx.mesh,
      vocab=ctx.vocab,
    )

  def largest_commit(self) -> int:
    """Of both kinds of rows."""
    decoders = [self.rollout.decoder]
    if self.cfg.guided.num_guided:
      decoders += answer_guided.passes(decoders[0], self.cfg.guided)
    return max(decoder.largest_commit() for decoder in decoders)


@functools.cache
def _zero(rows: jax.sharding.NamedSharding):
  return jax.jit(
    lambda advantage, where: jnp.where(where, 0, advantage), out_shardings=rows
  )
