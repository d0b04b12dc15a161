"""What the stages of a run share: rows, context, directory, outlets."""

import dataclasses
import pathlib
from collections.abc import Sequence

import flax
import jax
import numpy as np

from dllm_jax import errors, settings, sharding, types
from dllm_jax.data import pipeline, sources
from dllm_jax.experiment import pretrained_base
from dllm_jax.io import checkpoint, console, hf, metrics, workdir
from dllm_jax.models import config as model_config
from dllm_jax.models import transformer
from dllm_jax.ops import streams
from dllm_jax.rollout import (
  answer_guided,
  context,
  score,
)
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import chat
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


def context_of(
  cfg: settings.Settings,
  origin: pretrained_base.Origin | None,
  *,
  adapters: bool = True,
) -> context.Context:
  """The context of a run: of a pretrained model, or of a tiny one.

  Args:
    cfg: of the run.
    origin: of the models; None where the config describes them.
    adapters: whether those that the config wants are on the model; else those
      that it came with.
  """
  if origin is None:
    words = cfg.task.words()
    return make_context(cfg, tokenizer_lib.Tokenizer.from_words(words))
  return make_context(
    cfg,
    origin.tokenizer,
    model=cfg.adopt(origin.record.model, adapters=adapters),
    template=origin.template,
  )


def make_context(
  cfg: settings.Settings,
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  model: model_config.ModelConfig | None = None,
  template: chat.ChatTemplate = chat.PLAIN,
) -> context.Context:
  """Task, text, model and mesh of a run; `model` None is the config's."""
  if cfg.prefill and model is None:
    raise errors.UserError(
      f'config key rollout.prefill is {cfg.prefill!r}, but it is for '
      'pretrained models: demonstrations are learned whole; leave it empty'
    )
  vocab = types.Vocabulary(
    size=tokenizer.vocab_size,
    mask_token=tokenizer.mask_token,
    eos_token=tokenizer.eos_token,
  )
  return context.Context(
    task=cfg.task,
    tokenizer=tokenizer,
    vocab=vocab,
    denoiser=transformer.TransformerDenoiser(
      cfg=cfg.model_config(vocab) if model is None else model
    ),
    mesh=sharding.make_mesh(cfg.mesh),
    root=jax.random.key(cfg.seed),
    template=template,
    prefill=cfg.prefill,
  )


def param_targets(ctx: context.Context) -> types.Params:
  """Shape, dtype and place of every parameter; nothing is computed."""
  flat = hf.targets(ctx.denoiser.cfg, ctx.mesh)
  return flax.traverse_util.unflatten_dict(flat, sep='/')


def fresh_params(ctx: context.Context) -> types.Params:
  """Random parameters, sharded over `fsdp` and `tensor` by the rules."""
  key = streams.step_key(ctx.root, 'init', 0)
  places = jax.tree.map(lambda leaf: leaf.sharding, param_targets(ctx))
  init = jax.jit(transformer.init, static_argnums=1, out_shardings=places)
  return init(key, ctx.denoiser.cfg)


def load_rows(cfg: settings.Settings) -> Rows:
  """Reads or generates the data set, and picks the run's rows.

  Raises:
    errors.UserError: a file is missing or malformed, the task has no such
      split, or a split holds fewer rows than the config wants.
  """
  train = _split(cfg, 'train')
  validation = _split(cfg, 'validation')
  return Rows(
    demonstrations=_pick(cfg, train, 'num_demonstrations', cfg.seed),
    prompts=train,
    validation=_pick(cfg, validation, 'num_validation', SPLIT_SEED),
    test=load_test(cfg),
  )


def load_test(cfg: settings.Settings) -> Sequence[task_lib.Row]:
  """The held-out rows alone; of files as many as there are, at most.

  Raises:
    errors.UserError: as `load_rows`.
  """
  rows = _split(cfg, 'test')
  if not cfg.data_dir:
    return _pick(cfg, rows, 'num_test', SPLIT_SEED)
  return pipeline.pick(rows, min(cfg.data.num_test, len(rows)), seed=SPLIT_SEED)


def _split(cfg: settings.Settings, split: str) -> Sequence[task_lib.Row]:
  cache = cfg.data.cache_dir or workdir.cache_dir() / 'data'
  try:
    return sources.rows(cfg.task, split, data_dir=cfg.data_dir, cache_dir=cache)
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


def fit_window(
  cfg: settings.Settings, ctx: context.Context, rows: Rows
) -> tuple[Rows, int]:
  """Leaves out training rows from files whose prompt is too long; how many.

  Held-out rows are never left out: `check_rows` refuses them.
  """
  if not cfg.data_dir:
    return rows, 0
  window = cfg.rollout.max_prompt_length
  short = lambda part: [
    row
    for row, length in zip(part, ctx.prompt_lengths(part), strict=True)
    if length <= window
  ]
  kept = dataclasses.replace(
    rows,
    demonstrations=short(rows.demonstrations),
    prompts=short(rows.prompts),
  )
  if not kept.prompts:
    raise errors.UserError(
      f'no training prompt has rollout.max_prompt_length={window} tokens or '
      'fewer: raise that key'
    )
  return kept, len(rows.prompts) - len(kept.prompts)


def check_rows(
  cfg: settings.Settings, ctx: context.Context, rows: Rows
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
  checkpoint.check_params(path, param_targets(ctx))


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
