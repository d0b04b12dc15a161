"""What is refused before any work: what does not fit together."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from dllm_jax import errors, types
from dllm_jax.rollout import answer_guided, context, score
from dllm_jax.run import pretrained_base, settings, setup
from dllm_jax.runtime import processes, sharding
from dllm_jax.state import checkpoint, workdir
from dllm_jax.tasks import task as task_lib


def check_rows(
  cfg: settings.Settings, ctx: context.Context, rows: setup.Rows
) -> None:
  """Refuses rows that fit neither the window nor the lexicon nor the reward."""
  parts = [rows.demonstrations, rows.validation, rows.test]
  if cfg.method != 'sft':
    parts.append(rows.prompts)
  for part in parts:
    ctx.encode(part, cfg.rollout.max_prompt_length)
  if not cfg.base.path or cfg.control:
    texts = [ctx.task.demonstration(row) for row in rows.demonstrations]
    longest = max(map(len, ctx.tokenizer.encode_batch(texts)))
    if longest > cfg.rollout.gen_length:
      raise errors.UserError(
        f'the longest demonstration has {longest} tokens, more than '
        f'rollout.gen_length={cfg.rollout.gen_length}: raise that key'
      )
  if cfg.method != 'sft':  # a term is only known once something was judged
    nothing = np.full((1, 1), ctx.vocab.eos_token, np.int32)
    score.score(ctx.task, ctx.tokenizer, rows.test[:1], nothing, cfg.reward)
  if cfg.method == 'ag_grpo' and cfg.guided.num_guided:
    _check_anchors(cfg, ctx, rows.validation)
  check_verifier(ctx, rows.test)


def check_verifier(ctx: context.Context, rows: Sequence[task_lib.Row]) -> None:
  """Judges a program, or whatever the task judges, before any work is done.

  Raises:
    errors.UserError: the verifier does not run on this host.
  """
  ctx.task.score(rows[0], ctx.task.demonstration(rows[0]))


def _check_anchors(
  cfg: settings.Settings, ctx: context.Context, rows: Sequence[task_lib.Row]
) -> None:
  """Refuses anchors that cannot be spelled, or that all pass the cap."""
  try:
    found = answer_guided.anchors(ctx.task, ctx.tokenizer, rows, cfg.guided)
  except ValueError as e:
    raise errors.UserError(
      f'anchors of template {cfg.guided.template!r} do not fit the lexicon of '
      f'task {ctx.task.name!r}: {e}; change method.guided.template'
    ) from e
  if not any(found):
    raise errors.UserError(
      f'every anchor is longer than method.guided.max_anchor='
      f'{cfg.guided.max_anchor}: raise that key'
    )


def check_base(
  cfg: settings.Settings, ctx: context.Context, directory: pathlib.Path
) -> None:
  """Refuses a base model that is wanted and is missing, damaged or another."""
  if not cfg.base.path or (directory / 'base').exists():
    return
  path = pathlib.Path(cfg.base.path)
  if pretrained_base.is_folder(path):
    pretrained_base.check(path, ctx)
    return
  if (path / workdir.CONFIG_FILE).exists():
    kept = 'base' if (path / 'base').exists() else 'final'
    raise errors.UserError(
      f'config key base.path names {path}, the workdir of a run; did you mean '
      f'{path / kept}?'
    )
  checkpoint.check_params(path, setup.param_targets(ctx))


def check_shapes(cfg: settings.Settings, ctx: context.Context) -> None:
  """Refuses, before any work, batches that do not fit the mesh or the split."""
  if processes.several() and ctx.mesh.size < jax.device_count():
    raise errors.UserError(
      f'the mesh takes {ctx.mesh.size} of {jax.device_count()} devices, so '
      'that a process may have none: change the mesh.* keys'
    )
  if sharding.divides_params(ctx.mesh):
    if not isinstance(ctx.denoiser, types.Divisible):
      raise errors.UserError(
        f'mesh.fsdp and mesh.tensor divide parameters, and model.name='
        f'{cfg.model["name"]} has no `part` and no sharding rules: use '
        'mesh.fsdp=1 and mesh.tensor=1, and mesh.data for rows'
      )
    ctx.denoiser.part(ctx.mesh)
    setup.param_targets(ctx)
  rows = cfg.rollout.num_prompts * cfg.rollout.group_size
  guided = cfg.rollout.num_prompts * cfg.guided.num_guided
  check = sharding.check_divides
  check(cfg.base.batch_size, ctx.mesh, 'base.batch_size')
  check(cfg.eval.batch_size, ctx.mesh, 'eval.batch_size')
  check(rows, ctx.mesh, 'rollout.num_prompts * rollout.group_size')
  if cfg.method == 'ag_grpo':
    what = 'rollout.num_prompts * method.guided.num_guided'
    check(guided, ctx.mesh, what)
    if cfg.rollout.decode == 'gated':
      raise errors.UserError(
        "config key rollout.decode is 'gated', but the guided rows of ag_grpo "
        'are decoded by a fixed schedule; use rollout.decode=fixed'
      )
    if cfg.rollout.schedule != 'even':
      raise errors.UserError(
        f'config key rollout.schedule is {cfg.rollout.schedule!r}, but the '
        'guided rows of ag_grpo share their tokens evenly among the steps; '
        'use rollout.schedule=even'
      )
  shards = sharding.num_row_shards(ctx.mesh)
  for count, micro, what in (
    (rows, cfg.policy.num_micro, 'method.policy.num_micro'),
    (cfg.base.batch_size, cfg.base_sft.num_micro, 'base.num_micro'),
  ):
    if count % (micro * shards):
      raise errors.UserError(
        f'{count} rows do not split into {what}={micro} micro-batches on '
        f'{shards} shard(s) of mesh.data * mesh.fsdp: change one of them'
      )
