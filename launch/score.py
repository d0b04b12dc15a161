"""Scores recorded completions with a task's verifier.

  python launch/score.py --task gsm8k --generations out.generations.jsonl
  python launch/score.py --task math --generations math500_128.jsonl.gz \
    --rules d1 --out scores.json
  python launch/score.py --task humaneval --generations samples.jsonl \
    --data_dir DATA
"""

import collections
import json
import pathlib
import sys

from absl import flags

import cli
from dllm_jax import errors
from dllm_jax.eval import recordings
from dllm_jax.tasks import latex

TASK = flags.DEFINE_enum('task', None, recordings.TASKS, 'the verifier')
GENERATIONS = flags.DEFINE_string(
  'generations',
  None,
  "FILE.jsonl or FILE.jsonl.gz: rows with 'generation', 'ground_truth', ...",
)
RULES = flags.DEFINE_enum(
  'rules', 'strict', recordings.RULES, "our own, or the public d1 evaluator's"
)
DATA_DIR = flags.DEFINE_string(
  'data_dir',
  None,
  'code: the data sets of problems that rows only name; see docs/code_tasks.md',
)
OUT = flags.DEFINE_string(
  'out', None, 'a new JSON file with one row per item; the totals are printed'
)
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'write over the --out file')


def main() -> int:
  for flag in (TASK, GENERATIONS):
    if not flag.value:
      raise errors.UsageError(f'--{flag.name} is missing; see --help')
  out = pathlib.Path(OUT.value) if OUT.value else None
  source = pathlib.Path(GENERATIONS.value)
  if out is not None:
    if out.resolve() == source.resolve():
      raise errors.UserError(f'--out {out} is the same file as --generations')
    cli.check_new(out, OVERWRITE.value)
  recorded = recordings.read(source, TASK.value, DATA_DIR.value)
  report = recordings.evaluate(TASK.value, recorded, RULES.value)
  if report['unjudged']:
    print(
      f'score.py: {report["unjudged"]} of {report["num"]} items could not be '
      f'judged and are left out: {_why(report)}',
      file=sys.stderr,
    )
  if RULES.value == 'd1' and TASK.value in ('math', 'countdown'):
    _hint_at_boxes(recorded)
  if out is None:
    figures = {k: v for k, v in report.items() if k != 'items'}
    print(json.dumps(figures, indent=1, allow_nan=False))
    return 0
  text = json.dumps(report, indent=1, allow_nan=False) + '\n'
  try:
    out.write_text(text, encoding='utf-8')
  except OSError as e:
    raise errors.UserError(f'--out {out} cannot be written: {e}') from e
  print(
    f'{TASK.value}, rules {RULES.value}: accuracy '
    f'{100 * report["accuracy"]:.2f}% ({report["numerator"]} of '
    f'{report["denominator"]}, {report["num"]} items); written: {out}'
  )
  return 0


def _hint_at_boxes(recorded: list[recordings.Recording]) -> None:
  if not any(latex.BOX.search(recording.generation) for recording in recorded):
    print(
      r'score.py: no completion has a \boxed{}, which the d1 rules read first; '
      '--rules strict reads <answer>...</answer>',
      file=sys.stderr,
    )


def _why(report: dict) -> str:
  """The commonest reasons; without any it was an accident."""
  reasons = collections.Counter(
    item['reason']
    for item in report['items']
    if item['correct'] is None and 'reason' in item
  )
  shown = [f'{reason} ({n})' for reason, n in reasons.most_common(3)]
  return ', '.join(shown) or 'rerun to try again'


if __name__ == '__main__':
  cli.run(
    main,
    "Scores recorded completions with a task's verifier.",
    example='launch/score.py --task gsm8k --generations FILE.jsonl.gz',
    takes=None,
  )
