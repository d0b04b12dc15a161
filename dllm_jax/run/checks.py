"""What is refused before any work: what does not fit together."""

import dataclasses
from collections.abc import Sequence

import jax

from dllm_jax import errors, types
from dllm_jax.rollout import context
from dllm_jax.run import (
  arms,
  conversations,
  routing,
  settings,
  setup,
  speculation,
)
from dllm_jax.runtime import processes, sharding
from dllm_jax.tasks import rows as rows_lib
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import grad


def check_rows(
  cfg: settings.Settings, ctx: context.Context, rows: setup.Rows
) -> None:
  """Refuses rows that fit neither the window nor the lexicon nor the reward."""
  if conversations.applies(cfg):
    conversations.check_lengths(cfg, rows)
    return
  asked = [v for row in rows.test for v in setup.all_views(ctx.task, row)]
  parts = [rows.demonstrations, rows.validation, asked]
  if cfg.method is not None:
    parts.append(rows.prompts)
  for part in parts:
    ctx.encode(part)
  if not cfg.base.path or cfg.control or cfg.tunes_base:
    _check_demonstrations(ctx, rows.demonstrations, cfg.base_sft.gen_length)
  if routing.applies(cfg):  # learns those of all rows
    for part in (rows.prompts, rows.validation, rows.test):
      _check_demonstrations(ctx, part, cfg.base_sft.gen_length)
  for name, arm in {'': cfg, **cfg.arms}.items():
    if arm.method is not None:
      with arms.named(name):
        if isinstance(ctx.task, rows_lib.Problems):  # any may lack an answer
          arm.method.check_rows(ctx, [*rows.prompts, *rows.validation])
        elif not isinstance(ctx.task, task_lib.Paraphrased):
          arm.method.check_rows(ctx, rows.validation)
        elif isinstance(ctx.task, task_lib.RowSource):
          arm.method.check_rows(ctx, [*rows.validation, *rows.test])
        else:  # any row of a file may lack a phrasing
          every = [*rows.prompts, *rows.validation, *rows.test]
          arm.method.check_rows(ctx, every)
  if cfg.speculation.num_prompts > len(rows.test):
    raise errors.UserError(
      f'config key speculation.num_prompts is {cfg.speculation.num_prompts}, '
      f'more than the {len(rows.test)} held-out problems (data.num_test)'
    )
  check_verifier(ctx, rows.test)


def _check_demonstrations(
  ctx: context.Context, rows: Sequence[task_lib.Row], gen_length: int
) -> None:
  """Refuses demonstrations that are longer than a completion may be."""
  texts = [ctx.task.demonstration(row) for row in rows]
  longest = max(map(len, ctx.tokenizer.encode_batch(texts)), default=0)
  if longest > gen_length:
    raise errors.UserError(
      f'the longest demonstration has {longest} tokens, more than '
      f'rollout.gen_length={gen_length}: raise that key'
    )


def check_verifier(ctx: context.Context, rows: Sequence[task_lib.Row]) -> None:
  """Judges a program, or whatever the task judges, before any work is done.

  Raises:
    errors.UserError: the verifier does not run on this host.
  """
  ctx.task.score(rows[0], ctx.task.demonstration(rows[0]))


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
    sharding.param_targets(ctx.denoiser, ctx.mesh)
  cfg.rollout.decoder.check(ctx.denoiser)
  is_open_ended = isinstance(ctx.task, task_lib.OpenEnded)
  if is_open_ended and not conversations.applies(cfg):
    _check_open_ended(cfg)
  speculation.check(cfg.speculation, ctx.denoiser, ctx.mesh)
  routing.check(cfg, ctx)
  sharding.check_divides(cfg.base.batch_size, ctx.mesh, 'base.batch_size')
  sharding.check_divides(cfg.eval.batch_size, ctx.mesh, 'eval.batch_size')
  grad.check_micro_batches(
    cfg.base.batch_size, cfg.base_sft.num_micro, ctx.mesh, 'base.num_micro'
  )
  for name, arm in {'': cfg, **cfg.arms}.items():
    if arm.method is not None:
      with arms.named(name):
        denoiser = setup.arm_denoiser(ctx.denoiser, cfg, arm)
        arm.rollout.decoder.check(denoiser)
        own = dataclasses.replace(ctx, denoiser=denoiser)
        arm.method.check(own, arm.rollout)


def _check_open_ended(cfg: settings.Settings) -> None:
  """Refuses what needs a right answer where the task has none."""
  needs = {
    'config key base.path is empty': not cfg.base.path,
    'config key train.control is True': cfg.control,
  }
  for name, arm in {'': cfg, **cfg.arms}.items():
    of, method = f'arms.{name}.' if name else '', arm.method
    needs |= {
      f'config group {of}method ({arm.method_name}) reads them': method is None
      or method.reads_answers,
      f'config key {of}train.eval_every is {arm.loop.eval_every}': (
        arm.loop.eval_every > 0
      ),
    }
  for wanted, is_needed in needs.items():
    if is_needed:
      raise errors.UserError(
        f'task {cfg.task_name!r} has no right answers, but {wanted}; see '
        'configs/cpc_grpo.py:paraphrases'
      )
