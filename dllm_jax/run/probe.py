"""What a few updates on a fixed batch of prompts teach: the mechanism of RL.

For the method of a config and for each of its arms: n updates on the same
prompts, from the same parameters, and the share of right answer-free
completions before and after, on these prompts and on held-out ones. It says in
minutes what a training curve says in hours, and of AG-GRPO whether guided rows
have something to teach: how often groups fail without them, how often guided
rows are right, and how far they are from what the policy writes by itself.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from dllm_jax import errors, types
from dllm_jax.data import pipeline
from dllm_jax.ops import streams
from dllm_jax.rollout import answer_free, batch, context, score
from dllm_jax.run import base_model, checks, settings, setup
from dllm_jax.runtime import console, processes
from dllm_jax.state import workdir
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import methods, optim
from dllm_jax.train import progress as progress_lib
from dllm_jax.train import state as state_lib

# Of the updates, where they were measured: means over all of them.
METRICS = (
  'free/correct',
  'guided/correct',
  'reward/correct',
  'group/failed',
  'group/zero_variance',
  'policy/sampler_gap',
  'policy/sampler_gap_guided',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeConfig:
  """Size of a probe.

  Attributes:
    num_updates: n, updates on the same prompts.
    num_rounds: groups of `rollout.group_size` completions that are sampled of
      every prompt, before and after.
  """

  num_updates: int
  num_rounds: int

  def __post_init__(self):
    if self.num_updates < 0 or self.num_rounds < 1:
      raise ValueError(
        f'num_updates {self.num_updates} is negative, or num_rounds '
        f'{self.num_rounds} is not positive'
      )


class Success(NamedTuple):
  """How often completions without an answer are right.

  Attributes:
    share: of the completions of each prompt.
    failed: share of the groups that have no right one.
  """

  share: Float[np.ndarray, ' N']
  failed: float


def probe(
  config: Mapping[str, Any], cfg: ProbeConfig, screen: console.Console
) -> dict[str, Any]:
  """Probes the method of a config and its arms, from the model `base.path`.

  The prompts are those of the first step of a run of this config; the held-out
  ones are as many of the validation split.

  Args:
    config: nested dicts.
    cfg: size of the probe.
    screen: where progress goes.

  Returns:
    For 'rl', the method itself, and for every arm: `seen` and `unseen`, each
    with the shares `before` and `after`, `gain` and its standard error over
    prompts `error`, and the shares of failed groups `failed_before` and
    `failed_after`; and `updates`, the means of `METRICS`.

  Raises:
    errors.UserError: something that the user can correct, in one line.
  """
  run_cfg = base_model.resolve_base_path(settings.from_config(config))
  if run_cfg.method is None:
    raise errors.UserError(
      "config key method.name is 'sft', which has no rollouts to probe"
    )
  if not run_cfg.base.path:
    raise errors.UserError(
      'config key base.path is empty: name the model to start from'
    )
  model = base_model.describe_base(run_cfg)
  ctx = setup.make_context(run_cfg, model)
  if isinstance(ctx.task, task_lib.OpenEnded):
    raise errors.UserError(
      f'task {run_cfg.task_name!r} has no right answers to probe'
    )
  checks.check_shapes(run_cfg, ctx)
  rows, _ = setup.fit_window(
    run_cfg, ctx, setup.after_first(setup.load_rows, run_cfg)
  )
  checks.check_rows(run_cfg, ctx, rows)
  num_prompts = run_cfg.rollout.num_prompts
  if len(rows.validation) < num_prompts:
    raise errors.UserError(
      f'config key data.num_validation is {len(rows.validation)}: a probe '
      f'needs as many as rollout.num_prompts, {num_prompts}'
    )
  batches = pipeline.Batches(
    rows.prompts,
    seed=streams.host_seed(run_cfg.seed, 'rollout'),
    batch_size=num_prompts,
  )
  parts = {
    'seen': batches.rows(0),
    'unseen': [rows.validation[i] for i in range(num_prompts)],
  }
  base = base_model.load_params(model.folder, ctx, screen)
  measure = lambda params: {
    name: success(ctx, params, part, run_cfg.rollout, cfg.num_rounds)
    for name, part in parts.items()
  }
  screen.line(f'{num_prompts} prompts, before any update')
  before, found = measure(base), {}
  for name, arm in {'rl': run_cfg, **run_cfg.arms}.items():
    own = dataclasses.replace(
      ctx, denoiser=setup.arm_denoiser(ctx.denoiser, run_cfg, arm)
    )
    params, metrics = _train(
      arm, own, base, parts['seen'], cfg.num_updates, name, screen
    )
    after = measure(params)
    gains = {part: _gain(before[part], after[part]) for part in parts}
    found[name] = gains | {'updates': metrics}
  return found


def success(
  ctx: context.Context,
  params: types.Params,
  rows: Sequence[task_lib.Row],
  rollout: batch.RolloutConfig,
  num_rounds: int,
) -> Success:
  """Samples groups of answer-free completions, the same draws every time."""
  draws = dataclasses.replace(ctx, root=streams.step_key(ctx.root, 'eval', 0))
  shares, failed = [], []
  for number in range(num_rounds):
    rollouts = answer_free.groups(draws, params, rows, number, rollout)
    correct = batch.verdicts(
      ctx, rows, rollouts, score.RewardConfig(weights=())
    )
    group_id = rollouts.requests.group_id
    shares.append(
      [score.finite_mean(correct[group_id == i]) for i in range(len(rows))]
    )
    every = np.ones(len(correct), bool)
    failed.append(score.finite_mean(batch.failed(correct, group_id, every)))
  return Success(np.mean(shares, axis=0), float(np.mean(failed)))


def _train(
  cfg: settings.Settings,
  ctx: context.Context,
  base: types.Params,
  rows: Sequence[task_lib.Row],
  num_updates: int,
  name: str,
  screen: console.Console,
) -> tuple[types.Params, dict[str, float]]:
  """Updates on the same rows; the parameters, and means of `METRICS`."""
  optimizer = optim.make(cfg.optim)
  method = methods.METHODS[cfg.method_name](
    cfg=cfg.method,
    ctx=ctx,
    rollout=cfg.rollout,
    optimizer=optimizer,
    reference=base,
  )
  state = progress_lib.on_one_mesh(
    state_lib.create(state_lib.copy_trained(base), optimizer)
  )
  layout = jax.tree.map(lambda leaf: leaf.sharding, state)
  history = []
  with screen.stage(name, num_updates) as bar:
    for step in range(num_updates):
      rollouts, metrics = method.collect(state, rows, step)
      state, inner = method.update(state, rollouts, step)
      state = jax.device_put(state, layout)
      history.append(jax.device_get(metrics | inner[0]))
      bar.step({k: float(v) for k, v in history[-1].items() if k in METRICS})
  means = {}
  for key in METRICS:
    values = np.array([row[key] for row in history if key in row], float)
    if np.isfinite(values).any():
      means[key] = float(np.nanmean(values))
  return state.params, means


def _gain(before: Success, after: Success) -> dict[str, float]:
  gain = after.share - before.share
  return {
    'before': float(before.share.mean()),
    'after': float(after.share.mean()),
    'gain': float(gain.mean()),
    'error': float(gain.std(ddof=1) / np.sqrt(len(gain))),
    'failed_before': before.failed,
    'failed_after': after.failed,
  }


def show(found: Mapping[str, Any], screen: console.Console) -> None:
  """Two tables: shares in percent before and after, and of the updates."""
  percent = lambda value: '' if value is None else f'{100 * value:.1f}'
  nats = lambda value: '' if value is None else f'{value:.2f}'
  screen.table(
    'answer-free completions that are right, % (± one standard error)',
    ['', 'before', 'after', 'gain', 'other prompts', 'gain'],
    [
      [
        name,
        percent(arm['seen']['before']),
        percent(arm['seen']['after']),
        _signed(arm['seen']),
        percent(arm['unseen']['before']),
        _signed(arm['unseen']),
      ]
      for name, arm in found.items()
    ],
  )
  screen.table(
    'groups without a right completion, before and after; rows of the updates '
    'that are right (%); |log pi - log mu| (nats)',
    ['', 'failed', 'after', 'free', 'guided', 'gap, free', 'gap, guided'],
    [
      [
        name,
        percent(arm['seen']['failed_before']),
        percent(arm['seen']['failed_after']),
        percent(of('free/correct', of('reward/correct'))),
        percent(of('guided/correct')),
        nats(of('policy/sampler_gap')),
        nats(of('policy/sampler_gap_guided')),
      ]
      for name, arm in found.items()
      for of in [arm['updates'].get]
    ],
  )


def _signed(part: Mapping[str, float]) -> str:
  return f'{100 * part["gain"]:+.1f} ± {100 * part["error"]:.1f}'


def save(found: Mapping[str, Any], out: pathlib.Path) -> None:
  """Writes the result of `probe`, in process 0."""
  if processes.is_first():
    workdir.write_json(out, found)
