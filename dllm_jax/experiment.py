"""A whole run: base model, RL, the control, and evaluation of all of them.

Stages run in order and each resumes by itself, so a run that was stopped at
any point goes on where it was when the same command is given again.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax

from dllm_jax import errors, loop, settings, sharding, types
from dllm_jax.data import pipeline, public
from dllm_jax.eval import accuracy
from dllm_jax.io import checkpoint, console, metrics, workdir
from dllm_jax.models import transformer
from dllm_jax.ops import streams
from dllm_jax.rollout import answer_free, context
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import tokenizer as tokenizer_lib
from dllm_jax.train import optim
from dllm_jax.train import state as state_lib
from dllm_jax.train.methods import ag_grpo, diffu_grpo, sft

TOKENIZER_FILE = 'tokenizer.json'
EVAL_FILE = 'eval.json'
# The validation and test rows are the same for every seed.
SPLIT_SEED = 0

# Metrics of the live line, in order of interest.
SHOWN = (
  'reward/correct',
  'free/correct',
  'guided/correct',
  'eval/accuracy',
  'policy/kl',
  'policy/ratio_max',
  'sft/loss',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """The rows of a run: demonstrations, prompts, validation, test."""

  demonstrations: Sequence[task_lib.Row]
  prompts: Sequence[task_lib.Row]
  validation: Sequence[task_lib.Row]
  test: Sequence[task_lib.Row]


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


def load_rows(cfg: settings.Settings) -> Rows:
  """Generates the data set where it is absent, and picks the run's rows.

  Raises:
    errors.UserError: a public file is missing or malformed.
  """
  cache = cfg.data.cache_dir or workdir.cache_dir() / 'data'
  builder = pipeline.prepare(cfg.task, cache)
  train = pipeline.open_split(builder, 'train')
  try:
    test = (
      public.load(cfg.task.name, cfg.data_dir)
      if cfg.data_dir
      else pipeline.open_split(builder, 'test')
    )
  except (FileNotFoundError, ValueError) as e:
    raise errors.UserError(str(e)) from e
  pick = pipeline.pick
  return Rows(
    demonstrations=pick(train, cfg.data.num_demonstrations, seed=cfg.seed),
    prompts=train,
    validation=pick(
      pipeline.open_split(builder, 'validation'),
      cfg.data.num_validation,
      seed=SPLIT_SEED,
    ),
    test=pick(test, cfg.data.num_test, seed=SPLIT_SEED),
  )


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
    return stage_checkpoints(self.directory, stage, self.cfg.keep)


def stage_checkpoints(
  directory: pathlib.Path, stage: str, keep: int
) -> checkpoint.Checkpoints:
  """The checkpoints of one stage of a workdir."""
  return checkpoint.Checkpoints(
    directory / 'checkpoints' / stage, max_to_keep=keep
  )


def run(
  config: dict[str, Any], directory: pathlib.Path, screen: console.Console
) -> dict[str, Any]:
  """Everything that `launch/train.py` does.

  Args:
    config: as nested dicts.
    directory: the workdir; an unfinished run in it is continued.
    screen: where progress and the closing table go.

  Returns:
    What eval.json says.

  Raises:
    errors.UserError: what the user can put right, in one line.
    loop.Interrupted: stopped by a signal, after saving.
  """
  cfg = settings.from_config(config)
  with (
    workdir.StopRequest() as stop,
    workdir.claim(directory, config, extra={}) as resumed,
  ):
    finished = directory / EVAL_FILE
    if finished.exists():
      screen.line(f'{directory} holds a finished run; its results:')
      results = json.loads(finished.read_text())
      show(results, screen)
      return results
    tokenizer = tokenizer_lib.Tokenizer.from_words(cfg.task.words())
    ctx = make_context(cfg, tokenizer)
    check_shapes(cfg, ctx)
    tokenizer.save(directory / TOKENIZER_FILE)
    latest = {
      phase: stage_checkpoints(directory, phase, cfg.keep).latest() or 0
      for phase in ('sft', 'rl', 'control')
    }
    screen.line(
      f'{"continuing" if resumed else "starting"} {directory} on '
      f'{jax.device_count()} {jax.default_backend()} device(s)'
    )
    log = metrics.MetricsLog(directory, resume_step=latest)
    stages = Run(
      cfg=cfg,
      ctx=ctx,
      rows=load_rows(cfg),
      directory=directory,
      log=log,
      screen=screen,
      stop=stop,
    )
    results = _stages(stages)
    workdir.write_json(finished, results)
    log.close()
    show(results, screen)
    return results


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
  for count, micro, what in (
    (rows, cfg.policy.num_micro, 'method.policy.num_micro'),
    (cfg.base.batch_size, cfg.base_sft.num_micro, 'base.num_micro'),
  ):
    if count % (micro * ctx.mesh.shape['data']):
      raise errors.UserError(
        f'{count} rows do not split into {what}={micro} micro-batches on '
        f'{ctx.mesh.shape["data"]} data shard(s): change one of them'
      )


def _stages(run: Run) -> dict[str, Any]:
  """Base, RL, control, evaluation."""
  cfg = run.cfg
  base, base_progress = train_base(run)
  chosen = choose_steps(run, base)
  policies = {'base': base, 'final': base}
  seconds = {'base': base_progress.seconds}
  if cfg.method != 'sft':
    policies['final'], progress = train_policy(run, base, chosen)
    seconds['rl'] = progress.seconds
    _keep(run, 'final', policies['final'], progress)
    if cfg.control:
      policies['control'], extra = train_control(
        run, base, base_progress, progress
      )
      seconds['control'] = extra.seconds
  began = time.perf_counter()
  results = evaluate_all(run, policies, chosen)
  seconds['eval'] = time.perf_counter() - began
  return results | {'seconds': seconds}


def train_base(run: Run) -> tuple[types.Params, loop.Progress]:
  """The base model.

  In this order: 1. kept by an earlier run of this workdir; 2. `base.path`;
  3. trained here by `sft`, from random parameters or its own checkpoint.
  """
  cfg, ctx = run.cfg, run.ctx
  key = streams.step_key(ctx.root, 'init', 0)
  fresh = jax.jit(
    transformer.init, static_argnums=1, out_shardings=_whole(ctx)
  )(key, ctx.denoiser.cfg)
  kept = run.directory / 'base'
  if not kept.exists() and cfg.base.path:
    kept = pathlib.Path(cfg.base.path)
    if not kept.exists():
      raise errors.UserError(
        f'config key base.path names {kept}, which is missing; give the base '
        "directory of a finished run, or '' to train one"
      )
  if kept.exists():
    params, meta = checkpoint.load_params(kept, fresh)
    run.screen.line(f'base model from {kept}')
    return params, loop.Progress(**meta)
  optimizer = optim.make(cfg.base_optim)
  params, progress = loop.run(
    sft.Sft(ctx=ctx, optimizer=optimizer, cfg=cfg.base_sft),
    state_lib.create(fresh, optimizer),
    pipeline.batches(
      run.rows.demonstrations, seed=cfg.seed, batch_size=cfg.base.batch_size
    ),
    title='base (sft)',
    cfg=cfg.base_loop,
    score=_scorer(run, cfg.eval.num_steps[0]),
    **_outlets(run, 'sft'),
  )
  _keep(run, 'base', params, progress)
  return params, progress


def train_policy(
  run: Run, base: types.Params, num_steps: int
) -> tuple[types.Params, loop.Progress]:
  """RL from the base model, watched on validation rows at `num_steps`."""
  cfg, ctx = run.cfg, run.ctx
  optimizer = optim.make(cfg.optim)
  shared = {
    'ctx': ctx,
    'optimizer': optimizer,
    'reference': state_lib.reference(base) if cfg.policy.has_kl else None,
    'rollout': cfg.rollout,
    'reward': cfg.reward,
    'advantage': cfg.advantage,
    'policy': cfg.policy,
  }
  if cfg.method == 'ag_grpo':
    method = ag_grpo.AgGrpo(**shared, guided=cfg.guided)
  else:
    method = diffu_grpo.DiffuGrpo(**shared)
  return loop.run(
    method,
    state_lib.create(_copy(base), optimizer),
    pipeline.batches(
      run.rows.prompts, seed=cfg.seed, batch_size=cfg.rollout.num_prompts
    ),
    title=cfg.method,
    cfg=cfg.loop,
    score=_scorer(run, num_steps),
    **_outlets(run, 'rl'),
  )


def train_control(
  run: Run,
  base: types.Params,
  base_progress: loop.Progress,
  rl_progress: loop.Progress,
) -> tuple[types.Params, loop.Progress]:
  """More supervised training on the same demonstrations, for RL's CPU time."""
  cfg = run.cfg
  per_step = base_progress.cpu_seconds / max(base_progress.step, 1)
  num_steps = max(1, round(rl_progress.cpu_seconds / max(per_step, 1e-9)))
  optimizer = optim.make(cfg.base_optim)
  return loop.run(
    sft.Sft(
      ctx=run.ctx, optimizer=optimizer, cfg=cfg.base_sft, phase='control'
    ),
    state_lib.create(_copy(base), optimizer),
    pipeline.batches(
      run.rows.demonstrations,
      seed=cfg.seed + 1,
      batch_size=cfg.base.batch_size,
    ),
    title='control (more sft)',
    cfg=dataclasses.replace(cfg.base_loop, num_steps=num_steps, patience=0),
    score=_scorer(run, cfg.eval.num_steps[0]),
    **_outlets(run, 'control'),
  )


def choose_steps(run: Run, base: types.Params) -> int:
  """The denoising steps at which the base is best on validation rows."""
  found = accuracy.sweep(
    run.ctx,
    base,
    run.rows.validation,
    _greedy(run.cfg),
    run.cfg.eval.num_steps,
    batch_size=run.cfg.eval.batch_size,
  )
  return max(found, key=lambda steps: found[steps].accuracy)


def evaluate_all(
  run: Run, policies: dict[str, types.Params], chosen: int
) -> dict[str, Any]:
  """Test accuracy of every policy at every setting; see DESIGN of eval.json."""
  cfg = run.cfg
  total = len(run.rows.test) * len(policies) * len(cfg.eval.num_steps)
  swept = {}
  with run.screen.stage('evaluation', total) as bar:
    for name, params in policies.items():
      swept[name] = accuracy.sweep(
        run.ctx,
        params,
        run.rows.test,
        _greedy(cfg),
        cfg.eval.num_steps,
        batch_size=cfg.eval.batch_size,
        advance=bar.add,
      )
  results = {
    'task': cfg.task.name,
    'method': cfg.method,
    'num': len(run.rows.test),
    'chosen_steps': chosen,
  }
  for name, by_steps in swept.items():
    results[name] = by_steps[chosen].summary() | {
      'sweep': {
        str(steps): found.summary() for steps, found in by_steps.items()
      }
    }
    run.log.write(
      'eval',
      0 if name == 'base' else cfg.loop.num_steps,
      {f'{name}/accuracy': results[name]['accuracy']},
    )
  return results


def show(results: dict[str, Any], screen: console.Console) -> None:
  """The closing table: every policy at every setting."""
  names = [n for n in ('base', 'control', 'final') if n in results]
  chosen = str(results['chosen_steps'])
  rows = []
  for steps in results['base']['sweep']:
    cells = [results[name]['sweep'][steps] for name in names]
    rows.append(
      [f'{steps} steps' + (' *' if steps == chosen else '')]
      + [f'{100 * c["accuracy"]:.1f} ± {100 * c["interval"]:.1f}' for c in cells]
    )
  screen.table(
    f'{results["task"]}: greedy accuracy (%) on {results["num"]} held-out '
    f'problems',
    ['', *names],
    rows,
  )
  gain = results['final']['accuracy'] - results['base']['accuracy']
  screen.line(
    f'* the setting at which the base is best on validation rows; there '
    f'{results["method"]} - base = {100 * gain:+.1f} points'
  )


def _outlets(run: Run, stage: str) -> dict[str, Any]:
  return {
    'checkpoints': run.checkpoints(stage),
    'log': run.log,
    'screen': run.screen,
    'stop': run.stop,
  }


def _scorer(run: Run, num_steps: int):
  """Validation metrics of parameters, for `loop.run`."""
  cfg = dataclasses.replace(_greedy(run.cfg), num_steps=num_steps)

  def score(params):
    found = accuracy.evaluate(
      run.ctx,
      params,
      run.rows.validation,
      cfg,
      batch_size=run.cfg.eval.batch_size,
    )
    means = {f'eval/{k}': v for k, v in found.metrics.items()}
    return {
      'eval/accuracy': found.accuracy,
      'eval/mean_steps': found.mean_steps,
    } | means

  return score


def _greedy(cfg: settings.Settings) -> answer_free.RolloutConfig:
  return dataclasses.replace(cfg.rollout, temperature=0.0)


def _keep(
  run: Run, name: str, params: types.Params, progress: loop.Progress
) -> None:
  """Parameters under a name of their own, for later runs and `--model`."""
  if not (run.directory / name).exists():
    checkpoint.save_params(
      run.directory / name, params, dataclasses.asdict(progress)
    )


def _whole(ctx: context.Context):
  return sharding.replicated(ctx.mesh)


def _copy(params: types.Params) -> types.Params:
  """Buffers of their own: training donates the ones that it is given."""
  return jax.tree.map(jax.numpy.copy, params)
