"""What a few updates on a fixed batch of prompts teach: the mechanism of RL.

For the method of a config and for each of its arms: n updates on the same
prompts, from the same parameters, and the share of right answer-free
completions before and after, on these prompts and on held-out ones. Of AG-GRPO
it says whether guided rows have something to teach: how often groups fail
without them, how often guided rows are right, and how far they are from what
the policy writes by itself.

Every arm takes n updates, whatever its `train.num_steps`; completions are
sampled as the rollouts of the run, with the model of the arm.
"""

import dataclasses
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
from dllm_jax.runtime import console
from dllm_jax.state import provenance, workdir
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import methods, optim
from dllm_jax.train import progress as progress_lib
from dllm_jax.train import state as state_lib

# Means over the updates, where they were measured.
METRICS = (
  'guided/correct',
  'group/failed',
  'group/zero_variance',
  'policy/sampler_gap',
  'policy/sampler_gap_guided',
  'policy/skipped_updates',
)
PARTS = ('seen', 'held_out')


class Success(NamedTuple):
  """How often answer-free completions are right.

  Attributes:
    share: of the completions of each prompt that have a verdict; NaN where none
      has.
    failed: share of the groups without a right completion.
  """

  share: Float[np.ndarray, ' N']
  failed: float


class _Started(NamedTuple):
  """What a probe starts from: settings, context, parameters and prompts."""

  cfg: settings.Settings
  ctx: context.Context
  base: types.Params
  rows: dict[str, Sequence[task_lib.Row]]


def probe(
  config: Mapping[str, Any],
  screen: console.Console,
  *,
  num_updates: int,
  num_rounds: int,
) -> dict[str, Any]:
  """Probes the method of a config and its arms, from the model `base.path`.

  The prompts are those of the first step of a run of this config; the held-out
  ones are as many of the validation split.

  Args:
    config: nested dicts.
    screen: where progress goes.
    num_updates: n, updates on the same prompts.
    num_rounds: groups of `rollout.group_size` completions that are sampled of
      every prompt, before and after.

  Returns:
    'about', what was run, and 'arms': for 'rl', the method itself, and for
    every arm, 'seen' and 'held_out', each with the shares 'before' and 'after',
    their difference 'gain' with its standard error over prompts 'error', and
    the shares of failed groups 'failed_before' and 'failed_after'; and
    'updates', the means of `METRICS`.

  Raises:
    errors.UserError: something that the user can correct, in one line.
  """
  if num_updates < 0 or num_rounds < 1:
    raise ValueError(
      f'num_updates {num_updates} is negative, or num_rounds {num_rounds} is '
      'not positive'
    )
  started = _start(config, screen)
  before, found = {}, {}
  for name, arm in {'rl': started.cfg, **started.cfg.arms}.items():
    denoiser = setup.arm_denoiser(started.ctx.denoiser, started.cfg, arm)
    own = started._replace(
      ctx=dataclasses.replace(started.ctx, denoiser=denoiser)
    )
    if denoiser not in before:
      before[denoiser] = _measure(own, own.base, num_rounds, 'before', screen)
    params, metrics = _train(own, arm, num_updates, name, screen)
    after = _measure(own, params, num_rounds, f'after {name}', screen)
    gains = {part: _gain(before[denoiser][part], after[part]) for part in PARTS}
    found[name] = gains | {'updates': metrics}
  return {
    'about': workdir.flatten(config)
    | {'num_updates': num_updates, 'num_rounds': num_rounds}
    | provenance.code(),
    'arms': found,
  }


def _start(config: Mapping[str, Any], screen: console.Console) -> _Started:
  """Checks everything, and reads the model and the rows."""
  cfg = base_model.resolve_base_path(settings.from_config(config))
  if cfg.method is None:
    raise errors.UserError(
      "config key method.name is 'sft', which has no rollouts to probe"
    )
  if not cfg.base.path:
    raise errors.UserError(
      'config key base.path is empty: name the model to start from'
    )
  num_prompts = cfg.rollout.num_prompts
  if num_prompts < 2:
    raise errors.UserError(
      'config key rollout.num_prompts is 1: a probe compares prompts, 2 or more'
    )
  if getattr(cfg.rollout.decoder, 'temperature', 1.0) == 0:
    raise errors.UserError(
      'config key rollout.temperature is 0: all completions of a prompt would '
      'be the same'
    )
  cfg = dataclasses.replace(cfg, control=False)  # nothing is demonstrated
  model = base_model.describe_base(cfg)
  ctx = setup.make_context(cfg, model)
  if isinstance(ctx.task, task_lib.OpenEnded):
    raise errors.UserError(
      f'task {cfg.task_name!r} has no right answers to probe'
    )
  checks.check_shapes(cfg, ctx)
  rows, _ = setup.fit_window(cfg, ctx, setup.load_rows(cfg))
  checks.check_rows(cfg, ctx, rows)
  if len(rows.validation) < num_prompts:
    raise errors.UserError(
      f'config key data.num_validation is {len(rows.validation)}: a probe '
      f'needs as many as rollout.num_prompts, {num_prompts}'
    )
  batches = pipeline.Batches(
    rows.prompts,
    seed=streams.host_seed(cfg.seed, 'rollout'),
    batch_size=num_prompts,
  )
  held_out = [rows.validation[i] for i in range(num_prompts)]
  base = base_model.load_params(model.folder, ctx, screen)
  parts = dict(zip(PARTS, (batches.rows(0), held_out), strict=True))
  return _Started(cfg, ctx, base, parts)


def _measure(
  started: _Started,
  params: types.Params,
  num_rounds: int,
  title: str,
  screen: console.Console,
) -> dict[str, Success]:
  """`success` on both parts of the prompts."""
  with screen.stage(title, num_rounds * len(PARTS)) as bar:
    return {
      part: success(
        started.ctx, params, started.rows[part], started.cfg, num_rounds, bar
      )
      for part in PARTS
    }


def success(
  ctx: context.Context,
  params: types.Params,
  rows: Sequence[task_lib.Row],
  cfg: settings.Settings,
  num_rounds: int,
  bar: console.Bar,
) -> Success:
  """Samples groups of completions of every row, the same draws every time.

  Args:
    ctx: the run, with the model that is sampled from.
    params: its parameters.
    rows: N rows of the task.
    cfg: settings of the run: decoder, size of a group, and reward.
    num_rounds: groups of each row.
    bar: shows progress.
  """
  own_draws = dataclasses.replace(
    ctx, root=streams.step_key(ctx.root, 'eval', 0)
  )
  reward = getattr(cfg.method, 'reward', score.NO_REWARD)
  correct, failed = [], []
  for number in range(num_rounds):
    rollouts = answer_free.groups(own_draws, params, rows, number, cfg.rollout)
    verdicts = batch.verdicts(ctx, rows, rollouts, reward)
    correct.append(verdicts.reshape(len(rows), -1))
    failed.append(
      batch.failed(
        verdicts, rollouts.requests.group_id, np.ones(len(verdicts), bool)
      )
    )
    bar.add()
  share = [score.finite_mean(own) for own in np.concatenate(correct, axis=1)]
  return Success(np.array(share), score.finite_mean(np.array(failed)))


def _train(
  started: _Started,
  arm: settings.Settings,
  num_updates: int,
  name: str,
  screen: console.Console,
) -> tuple[types.Params, dict[str, float]]:
  """Updates on the same rows; the parameters, and means of `METRICS`."""
  optimizer = optim.make(arm.optim)
  method = methods.METHODS[arm.method_name](
    cfg=arm.method,
    ctx=started.ctx,
    rollout=arm.rollout,
    optimizer=optimizer,
    reference=started.base,
  )
  state = progress_lib.on_one_mesh(
    state_lib.create(state_lib.copy_trained(started.base), optimizer)
  )
  layout = jax.tree.map(lambda leaf: leaf.sharding, state)
  history = []
  with screen.stage(name, num_updates) as bar:
    for step in range(num_updates):
      rollouts, metrics = method.collect(state, started.rows['seen'], step)
      state, inner = method.update(state, rollouts, step)
      state = jax.device_put(state, layout)
      history.append(jax.device_get(metrics | inner[0]))
      bar.add(
        metrics={k: float(v) for k, v in history[-1].items() if k in METRICS}
      )
  means = {
    key: score.finite_mean(np.array([row.get(key, np.nan) for row in history]))
    for key in METRICS
  }
  if means['policy/skipped_updates'] > 0:
    screen.line(f'{name}: some updates were not finite, and were skipped')
  return state.params, {k: v for k, v in means.items() if np.isfinite(v)}


def _gain(before: Success, after: Success) -> dict[str, float]:
  gain = after.share - before.share
  judged = gain[np.isfinite(gain)]
  error = np.nan
  if len(judged) > 1:
    error = float(judged.std(ddof=1) / np.sqrt(len(judged)))
  return {
    'before': score.finite_mean(before.share),
    'after': score.finite_mean(after.share),
    'gain': score.finite_mean(gain),
    'error': error,
    'failed_before': before.failed,
    'failed_after': after.failed,
  }


def show(found: Mapping[str, Any], screen: console.Console) -> None:
  """Two tables: success before and after, and what the updates saw."""
  arms = found['arms']
  percent = lambda value: '' if value is None else f'{100 * value:.1f}'
  nats = lambda value: '' if value is None else f'{value:.2f}'
  screen.table(
    'answer-free completions that are right, % (± one standard error)',
    ['', 'before', 'after', 'gain', 'held out', 'held-out gain'],
    [
      [
        name,
        percent(arm['seen']['before']),
        percent(arm['seen']['after']),
        _signed(arm['seen']),
        percent(arm['held_out']['before']),
        _signed(arm['held_out']),
      ]
      for name, arm in arms.items()
    ],
  )
  screen.table(
    'groups without a right completion, before and after, and groups of equal '
    'rewards and guided rows that are right in the updates (%); '
    '|log pi - log mu| (nats)',
    ['', 'failed', 'after', 'tied', 'guided', 'gap, free', 'gap, guided'],
    [
      [
        name,
        percent(arm['seen']['failed_before']),
        percent(arm['seen']['failed_after']),
        percent(arm['updates'].get('group/zero_variance')),
        percent(arm['updates'].get('guided/correct')),
        nats(arm['updates'].get('policy/sampler_gap')),
        nats(arm['updates'].get('policy/sampler_gap_guided')),
      ]
      for name, arm in arms.items()
    ],
  )


def _signed(part: Mapping[str, float]) -> str:
  return f'{100 * part["gain"]:+.1f} ± {100 * part["error"]:.1f}'
