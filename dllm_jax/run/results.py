"""Evaluation of all policies of a run: eval.json, and the closing tables."""

import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dllm_jax import errors, types
from dllm_jax.analysis import policies as names_lib
from dllm_jax.eval import accuracy, frontier
from dllm_jax.rollout import context
from dllm_jax.run import (
  conversations,
  phrasings,
  settings,
  setup,
  trajectories,
)
from dllm_jax.runtime import console, processes
from dllm_jax.tasks import task as task_lib

EVAL_FILE = 'eval.json'


def sweep_all(
  ctx: context.Context,
  cfg: settings.Settings,
  rows: Sequence[task_lib.Row],
  policies: Mapping[str, types.Params],
  *,
  screen: console.Console,
  beat: Callable[[str], None] = lambda decoder: None,
) -> tuple[dict[str, Any], trajectories.Evaluations]:
  """Every policy under every decoding of the config, on the same rows.

  `beat` is called with a decoder's name before its sweep and after each batch.

  Returns:
    What eval.json says, and the evaluations themselves. The first has by
    policy a 'sweep' over the plain decoders and, where the config has
    thresholds, 'thresholds'; then also 'frontier', by policy but the base:
    each of its thresholds against all decodings of the base
    (`eval.frontier.compare`).
  """
  plain, gated, summary = {}, {}, {}
  plains, gates = cfg.plain_decoders(), cfg.gated_decoders()
  others = cfg.other_decoders()
  decodings = len(plains) + len(gates) + len(others)
  with screen.stage('evaluation', len(rows) * len(policies) * decodings) as bar:

    def advance(decoder, count):
      bar.add(count)
      beat(decoder)

    def sweep(params, decoder, decodings):
      advance(decoder, 0)
      return accuracy.sweep(
        ctx,
        params,
        rows,
        decodings,
        batch_size=cfg.eval.batch_size,
        advance=functools.partial(advance, decoder),
      )

    for name, params in policies.items():
      plain[name] = sweep(
        params, 'autoregressive' if cfg.is_causal else 'fixed', plains
      )
      gated[name] = sweep(params, 'gated', gates)
      other = sweep(params, cfg.decode, others)
      summary[name] = {'sweep': _summaries(plain[name])} | _summaries(other)
      if gates:
        summary[name]['thresholds'] = _summaries(gated[name])
  if gates and 'base' in policies and len(policies) > 1:
    base = [*plain['base'].values(), *gated['base'].values()]
    summary['frontier'] = {
      name: _frontier(gated[name], base) for name in policies if name != 'base'
    }
  return summary, trajectories.Evaluations(plain, gated)


def evaluate_all(
  run: setup.Run,
  policies: Mapping[str, types.Params],
  arms: Mapping[str, setup.Trained],
  setting: int | str,
  threshold: float | None,
) -> dict[str, Any]:
  """Test accuracy of every policy at every setting: what eval.json says.

  Those of the arms are under 'arms', at the chosen setting alone. Of a task
  with paraphrases, each has 'phrasings' (`eval.views.evaluate`). Of an
  open-ended task there is 'agreement' (`eval.views.agreement`) alone, and of
  conversations 'loss'. Verdicts and a few trajectories are written to files of
  their own.

  Args:
    run: the run.
    policies: parameters by name.
    arms: the arms by name.
    setting: key of the plain decoder with which the base is best on validation
      rows.
    threshold: gate of the final policy, chosen there too; None if no gate is
      evaluated.
  """
  decoder = run.cfg.plain_decoders()[setting]
  models = {name: (run.ctx, params) for name, params in policies.items()}
  of_arms = {name: (arm.run.ctx, arm.params) for name, arm in arms.items()}
  about = {
    'task': run.cfg.task_name,
    'method': run.cfg.method_name,
    'decode': run.cfg.decode,
    'num': len(run.rows.test),
    'chosen_steps': setting,
  }
  if conversations.applies(run.cfg):
    return about | conversations.evaluate(run, policies) | {'arms': {}}
  if isinstance(run.ctx.task, task_lib.OpenEnded):
    found = phrasings.measure_agreement(run, models | of_arms, decoder)
    made = {name: {'agreement': of} for name, of in found.items()}
    return (
      about
      | {name: made[name] for name in policies}
      | {'arms': {name: made[name] for name in arms}}
    )
  summary, evaluations = sweep_all(
    run.ctx,
    run.cfg,
    run.rows.test,
    policies,
    screen=run.screen,
    beat=lambda decoder: run.beat(f'evaluation, {decoder}'),
  )
  summary['arms'] = _evaluate_arms(run, arms, decoder)
  if isinstance(run.ctx.task, task_lib.Paraphrased):
    found = phrasings.evaluate(run, models | of_arms, decoder)
    for name, accuracies in found.items():
      entries = summary['arms'] if name in arms else summary
      entries[name]['phrasings'] = accuracies
    if run.cfg.is_causal:  # for the report: too few problems for a result
      phrasings.measure_agreement(run, models, decoder)
  run.watch.pause()  # Nothing is waited for from here on, and plots are slow.
  for name in policies:
    own = summary[name]
    own |= own['sweep'][str(setting)]
    if name == 'final' and threshold is not None:
      gate = str(threshold)
      own['at_threshold'] = {'threshold': gate} | own['thresholds'][gate]
    run.log.write(
      'eval',
      run.cfg.loop.num_steps if name == 'final' else 0,
      {f'{name}/accuracy': own['accuracy']},
    )
  if processes.is_first():
    shown = trajectories.choose(evaluations, setting, threshold)
    _keep_completions(run, evaluations, shown)
  return about | summary


def _evaluate_arms(
  run: setup.Run,
  arms: Mapping[str, setup.Trained],
  decoder: types.Decoder,
) -> dict[str, Any]:
  """The arms at the chosen setting of the plain decoder."""
  made = {}
  for name, arm in arms.items():
    with run.screen.stage(f'evaluation, {name}', len(run.rows.test)) as bar:
      evaluation = accuracy.evaluate(
        arm.run.ctx,
        arm.params,
        run.rows.test,
        decoder,
        batch_size=run.cfg.eval.batch_size,
        advance=functools.partial(run.advance, bar),
      )
    made[name] = evaluation.summary()
  return made


def _keep_completions(
  run: setup.Run,
  evaluations: trajectories.Evaluations,
  shown: Sequence[trajectories.Shown],
) -> None:
  """Writes what the report replays and pairs; results do not wait for it."""
  place, rows = run.directory, run.rows.test
  try:
    trajectories.write_verdicts(
      place / trajectories.VERDICTS_FILE, rows, evaluations
    )
    trajectories.write(place, run.ctx, run.cfg, rows, shown)
  except Exception as e:  # a verifier on a partial text, or the disk
    why = ' '.join(f'{type(e).__name__}: {e}'.split())
    run.screen.line(f'warning: no {trajectories.FILE}: {why}')


def _summaries(
  evaluations: Mapping[Any, accuracy.Evaluation],
) -> dict[str, dict[str, Any]]:
  return {str(setting): e.summary() for setting, e in evaluations.items()}


def _frontier(
  policy: Mapping[float, accuracy.Evaluation],
  base: Sequence[accuracy.Evaluation],
) -> list[dict[str, Any]]:
  """Every threshold of a policy against all that the base was decoded with."""
  rows = frontier.compare(
    frontier.points(list(policy.values())), frontier.points(base)
  )
  return [
    {'threshold': str(t)} | row for t, row in zip(policy, rows, strict=True)
  ]


def read(path: pathlib.Path) -> dict[str, Any]:
  """The eval.json of a finished run.

  Raises:
    errors.UserError: it is not what `evaluate_all` wrote.
  """
  try:
    results = json.loads(path.read_text())
    if {'chosen_steps', 'base', 'final'} <= results.keys():
      return results
  except (ValueError, AttributeError):
    pass
  raise errors.UserError(
    f'{path} is not the results of a run any more; move it away, and the same '
    'command evaluates the kept models again'
  )


def show(results: dict[str, Any], screen: console.Console) -> None:
  """The closing tables: every policy at every setting."""
  if 'loss' in results['base']:
    conversations.show(results, screen)
    return
  if 'sweep' not in results['base']:  # an open-ended task
    models = {n: results[n] for n in names_lib.NAMES if n in results}
    phrasings.show_agreement(
      {n: of['agreement'] for n, of in (models | results['arms']).items()},
      screen,
    )
    return
  names = show_plain(results, screen)
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
  decode = results.get('decode')
  if decode in results['final']:
    shown = [f'{name} {_in_steps(results[name][decode])}' for name in names]
    screen.line(f'{decode}, accuracy (%) in mean steps: {", ".join(shown)}')
  if 'frontier' in results:
    show_thresholds(results, screen)
    _show_gain(results, screen)
  _show_arms(results, screen)


def _show_arms(results: dict[str, Any], screen: console.Console) -> None:
  """Accuracy over phrasings, and of the arms."""
  arms = results.get('arms', {})
  if 'phrasings' in results['final']:
    names = [n for n in names_lib.NAMES if n in results]
    rows = {name: results[name] for name in names} | arms
    phrasings.show({n: row['phrasings'] for n, row in rows.items()}, screen)
  elif arms:
    shown = [
      f'{name} {100 * arm["accuracy"]:.1f}' for name, arm in arms.items()
    ]
    screen.line(f'from the same base, accuracy (%): {", ".join(shown)}')


def show_plain(results: dict[str, Any], screen: console.Console) -> list[str]:
  """The table over the plain decoders; the names of the policies in it."""
  names = [n for n in names_lib.NAMES if n in results]
  percent = lambda c: f'{100 * c["accuracy"]:.1f} ± {100 * c["interval"]:.1f}'
  chosen = str(results.get('chosen_steps'))
  sweep = results[names[0]]['sweep']
  screen.table(
    f'{results["task"]}: greedy accuracy (%), {results["num"]} problems',
    ['' if 'autoregressive' in sweep else 'fixed', *names],
    [
      [names_lib.in_words(setting) + (' *' if setting == chosen else '')]
      + [percent(results[name]['sweep'][setting]) for name in names]
      for setting in sweep
    ],
  )
  return names


def show_thresholds(results: dict[str, Any], screen: console.Console) -> None:
  """The table over the thresholds of the gated decoder."""
  names = [n for n in names_lib.NAMES if n in results]
  against = results.get('frontier', {}).get('final', ())
  gaps = {row['threshold']: _gap(row) for row in against}
  screen.table(
    'accuracy (%) in mean steps, by threshold',
    ['gated', *names] + ['final - base, equal steps'] * bool(gaps),
    [
      [t, *(_in_steps(results[name]['thresholds'][t]) for name in names)]
      + [gaps.get(t)] * bool(gaps)
      for t in results[names[0]]['thresholds']
    ],
  )


def _gap(row: dict[str, Any]) -> str:
  low, gap, high = (100 * row[name] for name in ('low', 'gap', 'high'))
  return f'{gap:+.1f} ({low:+.1f} to {high:+.1f})'


def _in_steps(summary: dict[str, Any]) -> str:
  return f'{100 * summary["accuracy"]:.1f} in {summary["mean_steps"]:.1f}'


def _show_gain(results: dict[str, Any], screen: console.Console) -> None:
  """What the policy gains in steps, and at equal steps in accuracy."""
  final = results['final']['at_threshold']
  screen.line(
    f'base, fixed schedule: {_in_steps(results["base"])} steps; final at '
    f'threshold {final["threshold"]} (chosen on validation rows): '
    f'{_in_steps(final)} steps'
  )
  row = next(
    row
    for row in results['frontier']['final']
    if row['threshold'] == final['threshold']
  )
  screen.line(
    f'the base reaches {100 * row["base"]:.1f} in {row["base_steps"]:.1f} '
    'steps, by its best thresholds and schedules: final - base = '
    f'{_gap(row)} points (95 % by bootstrap)'
  )
