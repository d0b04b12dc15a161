"""The files of an evaluation: results, and what is written beside them."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dllm_jax import errors
from dllm_jax.analysis import evaluations
from dllm_jax.eval import accuracy, recordings
from dllm_jax.rollout import context, score
from dllm_jax.tasks import task as task_lib

# Endings of what lies beside the results.
GENERATIONS, CHOICES = evaluations.GENERATIONS, evaluations.CHOICES
PICTURE = '.png'


def write_generations(
  path: pathlib.Path,
  ctx: context.Context,
  rows: Sequence[task_lib.Row],
  samples: Sequence[accuracy.Evaluation],
) -> None:
  """Writes a JSON line a completion; `sample` numbers those of a row."""
  texts = [
    score.texts(ctx.tokenizer, evaluation.tokens, past_eos=False)
    for evaluation in samples
  ]
  with path.open('w', encoding='utf-8') as file:
    for i, row in enumerate(rows):
      for number, evaluation in enumerate(samples):
        record = {
          'id': row['id'],
          'question': ctx.task.prompt(row),
          'generation': texts[number][i],
          **recordings.truth(ctx.task.name, row),
          'correct': bool(evaluation.correct[i])
          if evaluation.judged[i]
          else None,
          'completion_ids': evaluation.tokens[i].tolist(),
          'commit_step': evaluation.commit_step[i].tolist(),
          'num_steps': int(evaluation.num_steps[i]),
        }
        if any(evaluation.reasons):
          record['reason'] = evaluation.reasons[i]
        if len(samples) > 1:
          record['sample'] = number
        file.write(json.dumps(record) + '\n')


def write_choices(
  path: pathlib.Path,
  rows: Sequence[task_lib.Row],
  clozes: Sequence[task_lib.Cloze],
  judged: Sequence[Mapping[str, Any]],
) -> None:
  """Writes a JSON line a question, with what `eval.choices.judge` says."""
  with path.open('w', encoding='utf-8') as file:
    for row, cloze, made in zip(rows, clozes, judged, strict=True):
      record = {'id': row['id'], 'prompt': cloze.prompt, **made}
      file.write(json.dumps(record) + '\n')


def check_name(out: pathlib.Path, directory: pathlib.Path) -> None:
  """Makes the folder of a results file, and refuses names that do not fit.

  Raises:
    errors.UserError: it does not end in .json, or would overwrite what the
      directory has.
  """
  if out.suffix != '.json':
    raise errors.UserError(
      f'--out {out} does not end in .json; generations and pictures are '
      'written beside it, with endings of their own'
    )
  out.parent.mkdir(parents=True, exist_ok=True)
  if out.resolve().parent == directory.resolve():
    for path in (out, *map(out.with_suffix, (GENERATIONS, CHOICES, PICTURE))):
      if path.exists():
        raise errors.UserError(
          f'--out {out} would overwrite {path.name} of the run that is '
          'evaluated; use another name'
        )
