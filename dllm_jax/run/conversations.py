"""Runs on conversations: tokenized once, and judged by their held-out loss."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dllm_jax import errors, types
from dllm_jax.analysis import policies as names_lib
from dllm_jax.rollout import context, demonstrations
from dllm_jax.run import settings, setup
from dllm_jax.runtime import console
from dllm_jax.tasks import rows as rows_lib
from dllm_jax.tasks import task as task_lib
from dllm_jax.train.methods import sft


def applies(cfg: settings.Settings) -> bool:
  """Whether the rows of a run are conversations."""
  return isinstance(cfg.task, rows_lib.Conversations)


def tokenize(ctx: context.Context, rows: setup.Rows) -> setup.Rows:
  """The rows with their tokens, each tokenized once.

  Raises:
    errors.UserError: as `demonstrations.tokenized`.
  """
  parts = (rows.prompts, rows.validation, rows.test)
  own = {row['id']: row for part in parts for row in part}
  found = demonstrations.tokenized(ctx, list(own.values()))
  by_id = {row['id']: row for row in found}
  return setup.Rows(
    **{
      field.name: [by_id[row['id']] for row in getattr(rows, field.name)]
      for field in dataclasses.fields(rows)
    }
  )


def check(cfg: settings.Settings) -> None:
  """Refuses what needs a verifier, or no model to begin with.

  Raises:
    errors.UserError: names the config key.
  """
  wrong = {
    f'method.name={cfg.method_name} needs a verifier: set task.verifier, or '
    'train with configs/sft.py': cfg.method_name != 'sft' or cfg.arms,
    'base.path is empty: name a model folder': not cfg.base.path,
    f'train.num_steps={cfg.loop.num_steps} trains nothing': (
      not cfg.loop.num_steps
    ),
    'train.patience and train.floor_patience watch an accuracy: use 0': (
      cfg.loop.keeps_best
    ),
    'eval.thresholds are gates, which nothing is decoded with: use ()': (
      cfg.eval.thresholds
    ),
  }
  for why, is_wrong in wrong.items():
    if is_wrong:
      raise errors.UserError(
        f'the rows of {cfg.data.train} are conversations without a verifier, '
        f'and {why}'
      )


def check_lengths(cfg: settings.Settings, rows: setup.Rows) -> None:
  """Refuses rows that do not fit; none is cut or left out.

  Raises:
    errors.UserError: names the first row, and how many there are.
  """
  every = {row['id']: row for row in [*rows.prompts, *rows.validation]}
  every |= {row['id']: row for row in rows.test}
  for key, where, name, bound in (
    (
      'prompt',
      "before the assistant's first turn",
      'max_prompt_length',
      cfg.rollout.max_prompt_length,
    ),
    (
      'completion',
      "from the assistant's first turn on",
      'gen_length',
      cfg.base_sft.gen_length,
    ),
  ):
    sizes = {
      name: len(getattr(row['conversation'], key))
      for name, row in every.items()
    }
    long = [name for name, size in sizes.items() if size > bound]
    if long:
      raise errors.UserError(
        f'{long[0]} has {sizes[long[0]]} tokens {where}, more than '
        f'rollout.{name}={bound} ({len(long)} of {len(every)} rows do; the '
        f'longest has {max(sizes.values())}): raise that key, or shorten them'
      )


def tell(rows: setup.Rows, screen: console.Console) -> None:
  """Says how much there is to learn."""
  learnt = sum(sum(r['conversation'].learnt) for r in rows.demonstrations)
  screen.line(
    f'{len(rows.demonstrations)} rows to learn, {learnt} tokens of the '
    f'assistant in them; {len(rows.test)} rows are held out'
  )


def loss(
  run: setup.Run,
  params: types.Params,
  rows: Sequence[task_lib.Row],
  advance: Callable[[int], None],
) -> float:
  """See `sft.held_out_loss`."""
  return sft.held_out_loss(
    run.ctx,
    params,
    rows,
    run.cfg.base_sft,
    batch_size=run.cfg.eval.batch_size,
    advance=advance,
  )


def scorer(run: setup.Run) -> Callable[[types.Params], dict[str, float]]:
  """A function from parameters to validation metrics, for `loop.run`."""
  beat = lambda count: run.watch.beat('evaluating')
  return lambda params: {
    'eval/loss': loss(run, params, run.rows.validation, beat)
  }


def evaluate(
  run: setup.Run, policies: Mapping[str, types.Params]
) -> dict[str, dict[str, float]]:
  """By policy the loss of the held-out rows: what eval.json says."""
  rows, found = run.rows.test, {}
  with run.screen.stage('evaluation', len(rows) * len(policies)) as bar:
    advance = functools.partial(run.advance, bar)
    for name, params in policies.items():
      found[name] = {'loss': loss(run, params, rows, advance)}
  for name, of in found.items():
    step = run.cfg.loop.num_steps if name == 'final' else 0
    run.log.write('eval', step, {f'{name}/loss': of['loss']})
  return found


def show(results: Mapping[str, Any], screen: console.Console) -> None:
  """The closing table."""
  screen.table(
    f'{results["num"]} held-out rows',
    ['', 'nats per token'],
    [
      [name, f'{results[name]["loss"]:.4f}']
      for name in names_lib.NAMES
      if name in results
    ],
  )
