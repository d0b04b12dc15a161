"""Evaluation of finished policies: results files, and the closing table."""

import json
import pathlib
import tempfile
from typing import Any

from dllm_jax import errors, loop, settings, sharding, types
from dllm_jax.eval import accuracy
from dllm_jax.experiment import setup
from dllm_jax.io import checkpoint, console, workdir
from dllm_jax.text import tokenizer as tokenizer_lib

EVAL_FILE = 'eval.json'
TOKENIZER_FILE = 'tokenizer.json'


def evaluate_all(
  run: setup.Run, policies: dict[str, types.Params], chosen: int
) -> dict[str, Any]:
  """Test accuracy of every policy at every setting: what eval.json says."""
  cfg = run.cfg
  total = len(run.rows.test) * len(policies) * len(cfg.eval.num_steps)
  swept = {}
  with run.screen.stage('evaluation', total) as bar:

    def advance(count):
      bar.add(count)
      loop.check_stop(run.stop)

    for name, params in policies.items():
      swept[name] = accuracy.sweep(
        run.ctx,
        params,
        run.rows.test,
        run.greedy(),
        cfg.eval.num_steps,
        batch_size=cfg.eval.batch_size,
        advance=advance,
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
      cfg.loop.num_steps if name == 'final' else 0,
      {f'{name}/accuracy': results[name]['accuracy']},
    )
  return results


def read(path: pathlib.Path) -> dict[str, Any]:
  """The eval.json of a finished run.

  Raises:
    errors.UserError: it is not what `evaluate_all` wrote.
  """
  try:
    found = json.loads(path.read_text())
    if {'chosen_steps', 'base', 'final'} <= found.keys():
      return found
  except (ValueError, AttributeError):
    pass
  raise errors.UserError(
    f'{path} is not the results of a run any more; move it away, and the same '
    'command evaluates the kept models again'
  )


def show(results: dict[str, Any], screen: console.Console) -> None:
  """The closing table: every policy at every setting."""
  names = [n for n in ('base', 'control', 'final') if n in results]
  chosen = str(results['chosen_steps'])
  rows = []
  for steps in results['base']['sweep']:
    cells = [results[name]['sweep'][steps] for name in names]
    rows.append(
      [f'{steps} steps' + (' *' if steps == chosen else '')]
      + [
        f'{100 * c["accuracy"]:.1f} ± {100 * c["interval"]:.1f}' for c in cells
      ]
    )
  screen.table(
    f'{results["task"]}: greedy accuracy (%) on {results["num"]} held-out '
    f'problems',
    ['', *names],
    rows,
  )
  gains = [
    f'final - {name} = '
    f'{100 * (results["final"]["accuracy"] - results[name]["accuracy"]):+.1f}'
    for name in names
    if name != 'final'
  ]
  screen.line(
    '± is 1.96 standard errors. * is the setting at which the base is best on '
    f'validation rows; there {", ".join(gains)} points ({results["method"]})'
  )


def evaluate_model(
  cfg: settings.Settings,
  directory: pathlib.Path,
  name: str,
  *,
  out: pathlib.Path | None,
  screen: console.Console,
) -> dict[str, Any]:
  """Everything that `launch/eval.py` does.

  Args:
    cfg: task, model and decoding; its temperature is used as it is.
    directory: workdir of a run.
    name: which of its models: 'base', 'control' or 'final'.
    out: results file; the generations go beside it.
    screen: where progress and accuracy go.

  Returns:
    What the results file says.

  Raises:
    errors.UserError: a model that is missing or of another shape.
  """
  kept = directory / name
  if not kept.exists():
    there = [
      n for n in ('base', 'control', 'final') if (directory / n).exists()
    ]
    raise errors.UserError(
      f'{directory} holds no model {name!r}'
      + (f'; it has {", ".join(there)} (--params)' if there else '')
    )
  try:
    tokenizer = tokenizer_lib.Tokenizer.load(directory / TOKENIZER_FILE)
  except (FileNotFoundError, ValueError) as e:
    raise errors.UserError(f'{directory} is no workdir of a run: {e}') from e
  ctx = setup.make_context(cfg, tokenizer)
  sharding.check_divides(cfg.eval.batch_size, ctx.mesh, 'eval.batch_size')
  if out is not None:
    _check_writable(out, directory)
  like = setup.fresh_params(ctx)
  params, _ = checkpoint.load_params(kept, like)
  rows = setup.load_rows(cfg).test
  with screen.stage(f'{cfg.task.name}, {name}', len(rows)) as bar:
    found = accuracy.evaluate(
      ctx,
      params,
      rows,
      cfg.rollout,
      batch_size=cfg.eval.batch_size,
      advance=bar.add,
    )
  summary = {'task': cfg.task.name, 'params': name} | found.summary()
  screen.line(
    f'{cfg.task.name}, {name}: accuracy {100 * found.accuracy:.1f} % '
    f'± {100 * summary["interval"]:.1f} on {len(rows)} problems, '
    f'{found.mean_steps:.1f} steps, {found.tokens_per_second:.0f} tokens/s'
  )
  if out is not None:
    workdir.write_json(out, summary)
    generations = out.with_suffix('.generations.jsonl')
    with generations.open('w', encoding='utf-8') as file:
      for i, row in enumerate(rows):
        record = {
          'id': row['id'],
          'question': cfg.task.prompt(row),
          'generation': found.texts[i],
          'ground_truth': cfg.task.gold(row),
          'correct': bool(found.correct[i]),
          'completion_ids': found.tokens[i].tolist(),
          'commit_step': found.commit_step[i].tolist(),
          'num_steps': int(found.num_steps[i]),
        }
        file.write(json.dumps(record) + '\n')
    screen.line(f'written: {out}, {generations}')
  return summary


def _check_writable(out: pathlib.Path, directory: pathlib.Path) -> None:
  """Makes the folder of a results file, before the work that fills it."""
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
      pass
  except OSError as e:
    raise errors.UserError(
      f'cannot write results to {out}: {e.strerror}; use another --out'
    ) from e
  if out.is_dir():
    raise errors.UserError(f'--out {out} is a folder; name a file in it')
  if out.exists() and out.resolve().parent == directory.resolve():
    raise errors.UserError(
      f'--out {out} is a file of the run that is evaluated; use another name'
    )
