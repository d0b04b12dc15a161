"""Writes the report of a run, or compares several runs.

  python launch/report.py runs/ag_grpo
  python launch/report.py runs/ag_s0 runs/ag_s1 runs/diffu_s0 --out both.html

A run writes its report when it ends. This command writes it again, also for an
unfinished run.
"""

import pathlib

from absl import flags

import cli
from dllm_jax import errors

OUT = flags.DEFINE_string(
  'out',
  None,
  'the page; default: RUN/report.html, or comparison.html for several',
)


def main(args: list[str]) -> int:
  if not args:
    raise errors.UsageError(
      'no run is named; use launch/report.py RUN [RUN ...]'
    )
  from dllm_jax.analysis import comparison, record, report  # Late, as --help.

  runs = [record.read(pathlib.Path(arg)) for arg in args]
  if len(runs) == 1:
    page, default = report.of_run(runs[0]), runs[0].directory / report.FILE
  else:
    page, default = comparison.of_runs(runs), pathlib.Path(comparison.FILE)
  out = pathlib.Path(OUT.value) if OUT.value else default
  print(f'written: {report.save(page, out)}')
  return 0


if __name__ == '__main__':
  cli.run(
    main,
    'Writes a page about a run, or one that compares several.',
    example='launch/report.py runs/ag_grpo',
    takes=('args',),
  )
