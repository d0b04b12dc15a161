"""Tasks by name: prompts, demonstrations and verifiers on plain text."""

import functools

from dllm_jax.tasks import (
  code_judge,
  countdown,
  gsm8k,
  mathematics,
  multiple_choice,
  paraphrases,
  phrasings,
  references,
  rephrased,
  rows,
  sudoku,
  tagged_functions,
  text,
  word_problems,
)

TASKS = {
  'countdown': countdown.Countdown,
  'sudoku': sudoku.Sudoku,
  'word_problems': word_problems.WordProblems,
  'phrasings': phrasings.Phrasings,
  'paraphrases': paraphrases.Paraphrases,
  'tagged_functions': tagged_functions.TaggedFunctions,
  'rows': rows.make_task,
  'wikitext-2': text.Text,
  'scitldr': references.Summaries,
  'squad': references.Reading,
  'gsm8k': gsm8k.Gsm8k,
  'math': mathematics.Mathematics,
  'aqua': functools.partial(multiple_choice.MultipleChoice, name='aqua'),
  'openbookqa': functools.partial(
    multiple_choice.MultipleChoice, name='openbookqa'
  ),
  'gsm8k_phrasings': functools.partial(rephrased.Rephrased, name='gsm8k'),
  'openbookqa_phrasings': functools.partial(
    rephrased.Rephrased, name='openbookqa'
  ),
  'aqua_phrasings': functools.partial(rephrased.Rephrased, name='aqua'),
  'humaneval': functools.partial(
    code_judge.make_task, name='humaneval', reading='continuation'
  ),
  'mbpp': functools.partial(code_judge.make_task, name='mbpp'),
  'kodcode': functools.partial(code_judge.make_task, name='kodcode'),
}
