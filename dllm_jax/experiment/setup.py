"""What the stages of a run share: rows, context, directory, outlets."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from dllm_jax import errors, settings, sharding, types
from dllm_jax.data import pipeline, public
from dllm_jax.io import checkpoint, console, metrics, workdir
from dllm_jax.models import transformer
from dllm_jax.ops import streams
from dllm_jax.rollout import (
  answer_guided,
  context,
  prompts,
  score,
)
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import tokenizer as tokenizer_lib

# The validation and test rows are the same for every seed.
SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """The rows of a run: demonstrations, prompts, validation, test."""

  demonstrations: Sequence[task_lib.Row]
  prompts: Sequence[task_lib.Row]
  validation: Sequence[task_lib.Row]
  test: Sequence[task_lib.Row]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """What the stages of a run share."""

  cfg: settings.Settings
  ctx: context.Context
  rows: Rows
  directory: pathlib.Path
  log: metrics.MetricsLog
  screen: console.Console
  stop: workdir.StopRequest

  def checkpoints(self, stage: str) -> checkpoint.Checkpoints:
    """Those of one stage."""
    return stage_checkpoints(self.directory, stage, self.cfg.keep)


def stage_checkpoints(
  directory: pathlib.Path, stage: str, keep: int
) -> checkpoint.Checkpoints:
  """The checkpoints of one stage of a workdir."""
  return checkpoint.Checkpoints(
    directory / 'checkpoints' / stage, max_to_keep=keep
  )


def make_context(
  cfg: settings.Settings, tokenizer: tokenizer_lib.Tokenizer
) -> context.Context:
  """Task, text, model and mesh of a run."""
  vocab = types.Vocabulary(
    size=tokenizer.vocab_size,
    mask_token=tokenizer.mask_token,
    eos_token=tokenizer.eos_token,
  )
  return context.Context(
    task=cfg.task,
    tokenizer=tokenizer,
    vocab=vocab,
    denoiser=transformer.TransformerDenoiser(cfg=cfg.model_config(vocab)),
    mesh=sharding.make_mesh(cfg.mesh),
    root=jax.random.key(cfg.seed),
  )


def fresh_params(ctx: context.Context) -> types.Params:
  """Random parameters, sharded over `fsdp` and `tensor` by the rules."""
  key = streams.step_key(ctx.root, 'init', 0)
  shapes = jax.eval_shape(
    lambda key: transformer.init(key, ctx.denoiser.cfg), key
  )
  init = jax.jit(
    transformer.init,
    static_argnums=1,
    out_shardings=sharding.param_shardings(shapes, ctx.mesh),
  )
  return init(key, ctx.denoiser.cfg)


def load_rows(cfg: settings.Settings) -> Rows:
  """Generates the data set where it is absent, and picks the run's rows.

  Raises:
    errors.UserError: a public file is missing or malformed, or a split holds
      fewer rows than the config wants.
  """
  builder = _prepare(cfg)
  train = pipeline.open_split(builder, 'train')
  validation = pipeline.open_split(builder, 'validation')
  return Rows(
    demonstrations=_pick(cfg, train, 'num_demonstrations', cfg.seed),
    prompts=train,
    validation=_pick(cfg, validation, 'num_validation', SPLIT_SEED),
    test=load_test(cfg),
  )


def load_test(cfg: settings.Settings) -> Sequence[task_lib.Row]:
  """The held-out rows alone; of the public files where `data_dir` says so.

  Raises:
    errors.UserError: as `load_rows`.
  """
  if not cfg.data_dir:
    test = pipeline.open_split(_prepare(cfg), 'test')
    return _pick(cfg, test, 'num_test', SPLIT_SEED)
  try:
    rows = public.load(cfg.task.name, cfg.data_dir)
  except (FileNotFoundError, ValueError) as e:
    raise errors.UserError(str(e)) from e
  return pipeline.pick(rows, min(cfg.data.num_test, len(rows)), seed=SPLIT_SEED)


def _prepare(cfg: settings.Settings):
  cache = cfg.data.cache_dir or workdir.cache_dir() / 'data'
  try:
    return pipeline.prepare(cfg.task, cache)
  except OSError as e:
    raise errors.UserError(
      f'the data set cannot be written to {cache}: {e.strerror}; change '
      'data.cache_dir or $DLLM_JAX_CACHE'
    ) from e


def _pick(
  cfg: settings.Settings, source: Sequence[task_lib.Row], name: str, seed: int
) -> Sequence[task_lib.Row]:
  wanted = getattr(cfg.data, name)
  if wanted > len(source):
    raise errors.UserError(
      f'config key data.{name} is {wanted}, but there are {len(source)} '
      'rows: lower it'
    )
  return pipeline.pick(source, wanted, seed=seed)


def check_rows(
  cfg: settings.Settings, ctx: context.Context, rows: Rows
) -> None:
  """Refuses rows that fit neither the window nor the lexicon nor the reward."""
  parts = [rows.demonstrations, rows.validation, rows.test]
  if cfg.method != 'sft':
    parts.append(rows.prompts)
  for part in parts:
    prompts.encode(ctx.task, ctx.tokenizer, part, cfg.rollout.max_prompt_length)
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
  if not path.exists():
    raise errors.UserError(
      f'config key base.path names {path}, which is missing; give the base '
      "directory of a finished run, or '' to train one"
    )
  if (path / workdir.CONFIG_FILE).exists():
    raise errors.UserError(
      f'config key base.path names {path}, the workdir of a run; did you mean '
      f'{path / "base"}?'
    )
  like = jax.eval_shape(
    lambda key: transformer.init(key, ctx.denoiser.cfg), ctx.root
  )
  checkpoint.check_params(path, like)


def check_shapes(cfg: settings.Settings, ctx: context.Context) -> None:
  """Refuses, before any work, batches that do not fit the mesh or the split."""
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
  for count, micro, what in (
    (rows, cfg.policy.num_micro, 'method.policy.num_micro'),
    (cfg.base.batch_size, cfg.base_sft.num_micro, 'base.num_micro'),
  ):
    if count % (micro * ctx.mesh.shape['data']):
      raise errors.UserError(
        f'{count} rows do not split into {what}={micro} micro-batches on '
        f'{ctx.mesh.shape["data"]} data shard(s): change one of them'
      )
