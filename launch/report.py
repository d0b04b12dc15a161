"""Writes the report of a run, or compares several runs or two evaluations.

  python launch/report.py runs/ag_grpo
  python launch/report.py runs/ag_s0 runs/ag_s1 runs/diffu_s0 --out both.html
  python launch/report.py base.json final.json

A run writes its report when it ends. This command writes it again, also for an
unfinished run. Two results files of launch/eval.py are compared item by item.
"""

import json
import pathlib

from absl import flags

import cli
from dllm_jax import errors

OUT = flags.DEFINE_string(
  'out',
  None,
  'the page; default: RUN/report.html, or comparison.html for several. Of two '
  'evaluations, a JSON file with all items that flipped; default: none',
)


def main(args: list[str]) -> int:
  if not args:
    raise errors.UsageError(
      'no run is named; use launch/report.py RUN [RUN ...]'
    )
  if any(arg.endswith('.json') for arg in args):
    return _compare([pathlib.Path(arg) for arg in args])
  from dllm_jax.analysis import comparison, record, report  # Late, as --help.

  runs = [record.read(pathlib.Path(arg)) for arg in args]
  if len(runs) == 1:
    page, default = report.of_run(runs[0]), runs[0].directory / report.FILE
  else:
    page, default = comparison.of_runs(runs), pathlib.Path(comparison.FILE)
  out = pathlib.Path(OUT.value) if OUT.value else default
  print(f'written: {report.save(page, out)}')
  return 0


def _compare(paths: list[pathlib.Path]) -> int:
  """Compares two results files."""
  if len(paths) != 2 or any(path.suffix != '.json' for path in paths):
    raise errors.UsageError(
      'two results files are compared: launch/report.py A.json B.json'
    )
  if OUT.value and not OUT.value.endswith('.json'):
    raise errors.UsageError(
      f'--out {OUT.value}: a comparison of evaluations is written as .json'
    )
  from dllm_jax.analysis import evaluations, report

  found = evaluations.compare(*map(evaluations.read, paths))
  print('\n'.join(evaluations.lines(found)))
  if OUT.value:
    content = found._asdict() | {'gain': found.gain._asdict()}
    out = pathlib.Path(OUT.value)
    print(f'written: {report.save(json.dumps(content, indent=2), out)}')
  return 0


if __name__ == '__main__':
  cli.run(
    main,
    'Writes a page about a run, or compares several, or two evaluations.',
    example='launch/report.py runs/ag_grpo',
    takes='args',
  )
