"""Evaluation over the phrasings of a task with paraphrases, and its table."""

import functools
from collections.abc import Mapping
from typing import Any

from dllm_jax import types
from dllm_jax.eval import views
from dllm_jax.rollout import context
from dllm_jax.run import setup
from dllm_jax.runtime import console, processes
from dllm_jax.state import workdir

FILE = 'agreement.json'
NUM_MATRICES = 4  # problems in it


def evaluate(
  run: setup.Run,
  models: Mapping[str, tuple[context.Context, types.Params]],
  decoder: types.Decoder,
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


def keep_matrices(
  run: setup.Run,
  policies: Mapping[str, types.Params],
  decoder: types.Decoder,
) -> None:
  """Writes who agrees with whom on the first problems: agreement.json."""
  task, problems = run.ctx.task, run.rows.test[:NUM_MATRICES]
  names = ('base', 'final')
  total = len(names) * sum(len(task.views(row)) + 1 for row in problems)
  with run.screen.stage('agreement of phrasings', total) as bar:
    by_policy = {
      name: views.matrices(
        run.ctx,
        policies[name],
        problems,
        decoder,
        batch_size=run.cfg.eval.batch_size,
        advance=functools.partial(run.advance, bar),
      )
      for name in names
    }
  if processes.is_first():
    workdir.write_json(
      run.directory / FILE,
      {
        'problems': [
          {
            'id': row['id'],
            'gold': task.gold(row),
            'views': [task.prompt(view) for view in task.views(row)],
            'policies': {name: of[i] for name, of in by_policy.items()},
          }
          for i, row in enumerate(problems)
        ]
      },
    )


def show(
  found: Mapping[str, Mapping[str, Any]], screen: console.Console
) -> None:
  """The table over what `evaluate` returned."""
  percent = lambda share: f'{100 * share:.1f}'
  screen.table(
    'greedy accuracy (%) over phrasings of the held-out problems: those of '
    'training, and unseen ones',
    ['', 'mean', 'worst', 'best', 'sd', 'unseen', 'worst', 'all together'],
    [
      [
        name,
        f'{percent(p["seen"]["mean"])} ± {percent(p["seen"]["interval"])}',
        percent(p['seen']['worst']),
        percent(p['seen']['best']),
        percent(p['seen']['std']),
        *(
          percent(p['unseen'][key]) if p['unseen'] else '-'
          for key in ('mean', 'worst')
        ),
        percent(p['ensemble']) if 'ensemble' in p else '-',
      ]
      for name, p in found.items()
    ],
  )
  screen.line(
    'all together: decoded from the geometric mean of the phrasings of '
    'training, which is what their consensus can reach'
  )
