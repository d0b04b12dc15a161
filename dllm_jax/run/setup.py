"""What the stages of a run share: rows, context, directory, outlets."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import jax

from dllm_jax import errors, types
from dllm_jax import model as model_lib
from dllm_jax.data import benchmarks, pipeline, public, sources
from dllm_jax.hf import config as hf_config
from dllm_jax.models import attention, transformer
from dllm_jax.ops import streams
from dllm_jax.rollout import context
from dllm_jax.run import settings
from dllm_jax.runtime import cache as cache_lib
from dllm_jax.runtime import console, processes, sharding, signals, watchdog
from dllm_jax.state import checkpoint, metrics
from dllm_jax.tasks import paraphrases
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import tokenizer as tokenizer_lib
from dllm_jax.train import loop, progress

T = TypeVar('T')

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
  model: model_lib.Model
  rows: Rows
  directory: pathlib.Path
  log: metrics.MetricsLog
  screen: console.Console
  stop: signals.StopRequest
  watch: watchdog.Watchdog

  def checkpoints(self, stage: str) -> checkpoint.Checkpoints:
    """Those of one stage."""
    return stage_checkpoints(self.directory, stage, self.cfg.keep)

  def beat(self, what: str) -> None:
    """Something goes on that keeps no state; stops it if that is wanted."""
    self.watch.beat(what)
    loop.check_stop(self.stop)

  def advance(self, bar: console.Bar, count: int) -> None:
    """An evaluation went on by some rows; see `beat`."""
    bar.add(count)
    self.beat('evaluation')


class Trained(NamedTuple):
  """A model that a stage of the run has trained.

  Attributes:
    run: with the settings that it was trained with, and its context.
    params: its parameters.
    progress: of its training.
  """

  run: Run
  params: types.Params
  progress: progress.Progress


def arm_denoiser(
  denoiser: types.Denoiser, cfg: settings.Settings, arm: settings.Settings
) -> types.Denoiser:
  """The run's model, or that with the gate of an arm.

  Raises:
    errors.UserError: there is no such gate, the model already has it, or has
      adapters, which could not be saved with another model than their base's.
  """
  scale = arm.model.get('gate_scale')
  if scale == cfg.model.get('gate_scale'):
    return denoiser
  own = transformer.config_of(denoiser)
  where = f'config key model.gate_scale is {scale!r}'
  if own is None or own.gate_scale == scale:
    raise errors.UserError(f'{where}, which is no change of the model')
  if own.lora_rank:
    raise errors.UserError(
      f'{where}, and the model has adapters (model.lora_rank): use 0'
    )
  try:
    return transformer.of_config(dataclasses.replace(own, gate_scale=scale))
  except ValueError as e:
    raise errors.UserError(f"config group 'model': {e}") from e


def arm_of(run: Run, arm: settings.Settings) -> Run:
  """The run with the settings of an arm, and its model."""
  denoiser = arm_denoiser(run.ctx.denoiser, run.cfg, arm)
  if denoiser == run.ctx.denoiser:
    return dataclasses.replace(run, cfg=arm)
  # The family may have no such model, and then could not save it.
  record = run.model.record._replace(
    denoiser=denoiser, family=hf_config.NATIVE, config={}
  )
  return dataclasses.replace(
    run,
    cfg=arm,
    ctx=dataclasses.replace(run.ctx, denoiser=denoiser),
    model=dataclasses.replace(run.model, denoiser=denoiser, record=record),
  )


def stage_checkpoints(
  directory: pathlib.Path, stage: str, keep: int
) -> checkpoint.Checkpoints:
  """The checkpoints of one stage of a workdir."""
  return checkpoint.Checkpoints(
    directory / 'checkpoints' / stage, max_to_keep=keep
  )


def make_context(
  cfg: settings.Settings,
  model: model_lib.Model | None,
  *,
  adapters: bool = True,
) -> context.Context:
  """The context of a run: of a given model, or of one that the config says.

  Args:
    cfg: settings of the run.
    model: described; None where the config describes it.
    adapters: whether those that the config wants are on the model; else those
      that it came with.
  """
  if model is None:
    if cfg.prefill:
      raise errors.UserError(
        f'config key rollout.prefill is {cfg.prefill!r}, but it is for '
        'pretrained models: demonstrations are learned whole; leave it empty'
      )
    model = new_model(cfg)
  else:
    what = f'{model.folder.path} ({model.record.family})'
    cfg.check_kind(model.denoiser, what)
    denoiser = cfg.adopt(model.record, adapters=adapters)
    model = dataclasses.replace(model, denoiser=denoiser)
  if cfg.model.get('attention') == 'cudnn' and not attention.has_cudnn():
    raise errors.UserError(
      "config key model.attention is 'cudnn', but JAX runs on "
      f"{jax.default_backend()}: it is for NVIDIA GPUs; use 'xla'"
    )
  return context.Context(
    task=cfg.task,
    tokenizer=model.tokenizer,
    vocab=model.vocab,
    denoiser=model.denoiser,
    mesh=sharding.make_mesh(cfg.mesh),
    root=jax.random.key(cfg.seed),
    max_prompt_length=cfg.rollout.max_prompt_length,
    template=model.template,
    prefill=cfg.prefill,
  )


def new_model(cfg: settings.Settings) -> model_lib.Model:
  """The model that the config describes, without parameters."""
  tokenizer = tokenizer_lib.Tokenizer.from_words(
    cfg.task.words(), has_mask=not cfg.is_causal
  )
  denoiser = cfg.denoiser(tokenizer.vocabulary())
  cfg.check_kind(denoiser, "what config group 'model' describes")
  return model_lib.of_words(denoiser, tokenizer, cfg.model)


def fresh_params(ctx: context.Context, draw: int = 0) -> types.Params:
  """Random parameters, placed as `sharding.param_targets` says.

  Args:
    ctx: the run.
    draw: number of the draw; a run begins with 0.
  """
  targets = sharding.param_targets(ctx.denoiser, ctx.mesh)
  places = jax.tree.map(lambda leaf: leaf.sharding, targets)
  init = jax.jit(ctx.denoiser.init, out_shardings=places)
  return init(streams.step_key(ctx.root, 'init', draw))


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


def after_first(
  load: Callable[[settings.Settings], T], cfg: settings.Settings
) -> T:
  """`load(cfg)`, in process 0 first and then in the others.

  Processes that share a cache build a data set once.
  """
  loaded = []
  processes.from_first('the data sets', lambda: loaded.append(load(cfg)))
  return loaded[0] if loaded else load(cfg)


def data_digests(cfg: settings.Settings) -> dict[str, str]:
  """Digests of the files that the rows are read from, by name.

  For a run to see that it goes on with the data that it began with.

  Raises:
    errors.UserError: as `load_rows`.
  """
  with _cache(cfg) as cache:
    return sources.digests(
      cfg.task, data_dir=cfg.data_dir, cache_dir=cache, files=cfg.data.files
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


def load_examples(cfg: settings.Settings) -> Sequence[task_lib.Row]:
  """The rows that examples are taken from: MBPP has a split for them.

  Raises:
    errors.UserError: as `load_rows`.
  """
  splits = benchmarks.SPLITS.get(cfg.task.name, ())
  return _split(cfg, 'prompt' if 'prompt' in splits else 'train')


def tell_reach(
  cfg: settings.Settings,
  rows: Sequence[task_lib.Row],
  screen: console.Console,
) -> None:
  """Says how many public Countdown problems the lexicon's operators solve."""
  if cfg.task.name != 'countdown' or not cfg.data_dir:
    return
  operators = cfg.task.operators
  num_solvable = public.num_solvable(rows, operators)
  if num_solvable < len(rows):
    screen.line(
      f'{num_solvable} of the {len(rows)} held-out problems can be solved with '
      f'{" ".join(operators)} alone (task.operators)'
    )


def tell_doubts(
  cfg: settings.Settings,
  rows: Sequence[task_lib.Row],
  screen: console.Console,
) -> None:
  """Says which rows have phrasings that may not ask for the same thing."""
  if not isinstance(cfg.task, paraphrases.Paraphrases):
    return
  doubts = [
    f'{row["id"]} ({why})'
    for row in rows
    if (why := paraphrases.doubt([row['prompt'], *row['paraphrases']]))
  ]
  if doubts:
    more = f' and {len(doubts) - 5} more' if len(doubts) > 5 else ''
    screen.line(
      f'{len(doubts)} of {len(rows)} rows may not ask for the same thing in '
      f'all phrasings; they are kept: {", ".join(doubts[:5])}{more}'
    )


def _split(cfg: settings.Settings, split: str) -> Sequence[task_lib.Row]:
  with _cache(cfg) as cache:
    return sources.rows(
      cfg.task,
      split,
      data_dir=cfg.data_dir,
      cache_dir=cache,
      files=cfg.data.files,
    )


@contextlib.contextmanager
def _cache(cfg: settings.Settings) -> Iterator[pathlib.Path]:
  """Where data sets are built; that it cannot be written is one line."""
  cache = pathlib.Path(cfg.data.cache_dir or cache_lib.cache_dir() / 'data')
  try:
    yield cache
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


def all_views(task: task_lib.Task, row: task_lib.Row) -> list[task_lib.Row]:
  """The row, and of a task with paraphrases the row under every phrasing."""
  if not isinstance(task, task_lib.Paraphrased):
    return [row]
  return [row, *task.views(row), *task.unseen_views(row)]


def fit_window(
  cfg: settings.Settings, ctx: context.Context, rows: Rows
) -> tuple[Rows, int]:
  """Leaves out training rows from files whose prompt is too long; how many.

  Held-out rows and the user's own are never left out: `check_rows` refuses
  them.
  """
  if not cfg.data_dir or cfg.data.files:
    return rows, 0
  window = cfg.rollout.max_prompt_length

  def short(part):
    views = [all_views(ctx.task, row) for row in part]
    lengths = iter(ctx.prompt_lengths([view for of in views for view in of]))
    longest = [max(next(lengths) for _ in of) for of in views]
    return [
      row for row, size in zip(part, longest, strict=True) if size <= window
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
