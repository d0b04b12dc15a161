"""Evaluation over the phrasings of a task with paraphrases, and its tables."""

import functools
from collections.abc import Mapping
from typing import Any

from dllm_jax import types
from dllm_jax.eval import views
from dllm_jax.rollout import context
from dllm_jax.run import setup
from dllm_jax.runtime import console, processes
from dllm_jax.state import workdir
from dllm_jax.tasks import task as task_lib

FILE = 'agreement.json'
NUM_SHOWN = 4  # problems in it
Models = Mapping[str, tuple[context.Context, types.Params]]


def evaluate(
  run: setup.Run, models: Models, decoder: types.Decoder
) -> dict[str, dict[str, Any]]:
  """`eval.views.evaluate` of every model on the held-out problems, by name."""
  task, rows = run.ctx.task, run.rows.test
  count = len(task.views(rows[0])) + len(task.unseen_views(rows[0]))
  total = len(models) * len(rows) * (count + run.cfg.is_causal)
  with run.screen.stage('evaluation of phrasings', total) as bar:
    return {
      name: views.evaluate(
        ctx,
        params,
        rows,
        decoder,
        batch_size=run.cfg.eval.batch_size,
        advance=functools.partial(run.advance, bar),
      )
      for name, (ctx, params) in models.items()
    }


def measure_agreement(
  run: setup.Run, models: Models, decoder: types.Decoder
) -> dict[str, dict[str, Any]]:
  """`eval.views.agreement` of every model, by name, and agreement.json.

  On all held-out problems of an open-ended task, under unseen phrasings too;
  else on the few that agreement.json shows.
  """
  task, problems, asked = run.ctx.task, run.rows.test, run.ctx.task.views
  num_seen = len(task.views(problems[0]))
  if isinstance(task, task_lib.OpenEnded):
    asked = lambda row: task.views(row) + task.unseen_views(row)
  else:
    problems = problems[:NUM_SHOWN]
  total = len(models) * sum(len(asked(row)) + 1 for row in problems)
  with run.screen.stage('agreement of phrasings', total) as bar:
    found = {
      name: views.matrices(
        ctx,
        params,
        problems,
        asked,
        decoder,
        batch_size=run.cfg.eval.batch_size,
        advance=functools.partial(run.advance, bar),
      )
      for name, (ctx, params) in models.items()
    }
  if processes.is_first():
    shown = ('base', 'final')
    workdir.write_json(
      run.directory / FILE,
      {
        'problems': [
          {
            'id': row['id'],
            'gold': task.gold(row),
            'views': [task.prompt(view) for view in asked(row)],
            'policies': {name: found[name][i] for name in shown},
          }
          for i, row in enumerate(problems[:NUM_SHOWN])
        ]
      },
    )
  return {name: views.agreement(of, num_seen) for name, of in found.items()}


def show(
  found: Mapping[str, Mapping[str, Any]], screen: console.Console
) -> None:
  """The table over what `evaluate` returned."""
  percent = lambda share: '-' if share is None else f'{100 * share:.1f}'
  screen.table(
    'greedy accuracy (%) over phrasings of the held-out problems: those of '
    'training, and unseen ones',
    ['', 'mean', 'worst', 'same', 'unseen', 'worst', 'together'],
    [
      [
        name,
        f'{percent(p["seen"]["mean"])} ± {percent(p["seen"]["interval"])}',
        percent(p['seen']['worst']),
        percent(p['seen'].get('same')),
        *(percent((p['unseen'] or {}).get(key)) for key in ('mean', 'worst')),
        percent(p.get('ensemble')),
      ]
      for name, p in found.items()
    ],
  )
  screen.line(
    'same: pairs of phrasings with the same answer, right or wrong; together: '
    'decoded from the geometric mean of the phrasings of training, which is '
    'what their consensus can reach'
  )


def show_agreement(
  found: Mapping[str, Mapping[str, Any]], screen: console.Console
) -> None:
  """The table over what `measure_agreement` returned."""
  cell = lambda of: f'{of["mean"]:.3f} ± {of["interval"]:.3f}' if of else '-'
  screen.table(
    'log-probability of a token (nats) of what a phrasing of training wrote, '
    f'on {found["base"]["num"]} held-out problems',
    ['', 'under itself', 'under the others', 'under unseen ones'],
    [
      [name, *(cell(of[kind]) for kind in ('own', 'seen', 'unseen'))]
      for name, of in found.items()
    ],
  )
