"""Where our rules and the public d1 evaluator disagree, item by item.

  python -m dllm_jax.eval.divergences --recordings DIR --out docs/divergences.md

DIR holds `countdown_128.jsonl.gz` and the like: d1's published generations.
"""

import argparse
import pathlib
import sys
import textwrap
from collections.abc import Sequence

from dllm_jax import errors
from dllm_jax.eval import recordings
from dllm_jax.tasks import latex, sudoku, tags

FILES = {
  'countdown': 'countdown_128.jsonl.gz',
  'gsm8k': 'gsm8k_128.jsonl.gz',
  'math': 'math500_128.jsonl.gz',
  'sudoku': 'sudoku_128.jsonl.gz',
}

_HEAD = """\
# Where our verdicts differ from the published ones

d1's published generations of LLaDA-8B-Instruct (completions of 128 tokens),
scored by `launch/score.py` under `--rules d1`, which gives the published
figures, and under our own rules, `--rules strict`. Items are counted from 0 in
file order. This file is written by `python -m dllm_jax.eval.divergences`.

Our rules in short: only the last closed `<answer>` block before the end-of-text
marker counts, and it must hold the answer and nothing else; a `\\boxed{}`
around it does no harm; a box elsewhere does not count; of several boxes in the
block the last one does. Values are compared, not spellings; where math-verify
would take a part of an answer for all of it we are stricter: both sides of an
equation that names nothing must be right (5 = 31 is not 31; x = 31 is), a base
must be that of the data set's answer (2516_7 is not 2516_8), a relation such as
\\neq must be in that answer too, and words that deny or change a number make it
none or another. The model was prompted to box its answer, and the opening
`<reasoning>` tag was given to it; with 128 tokens many completions end before
their answer block, so the two accuracies say different things.

What the form of an answer says, by our rules and by others:

- Markdown, dollars, fonts, colours, spaces, a final `.` `,` `;`, a leading `=`
  or `Answer:`: nothing. Others: d1 compares MATH with them; math-verify drops
  most.
- Unicode for LaTeX: `90°`, `√2`, `∞`, `≤`, `½`, `x²`: the same. Others: d1:
  other answers; digits of other scripts are none for us.
- `10\\,080`, `9{,}500`, `1 1/2`, `4\\sqrt(2)`, `x^10`: 10080, 9500, 3/2, 4√2, x
  to the tenth. Others: d1 reads `9{,}500` as 9.
- lists with `or`, `and`, `;`, in any order; x = 1, y = 2 by name: lists.
  Others: math-verify also takes y = 1, x = 2 for it.
- a unit or a noun after a number: may be left out; two must agree, so feet are
  not inches, nor m m^2. Others: math-verify and the MATH rule drop all words.
- million, dozen, squared, factorial: reckoned for MATH; none for GSM8K. Others:
  dropped, so 5 million is 5.
- half, or, about, p.m., east, ...: must be the gold's. Others: dropped.
- a letter after a number, `5t`: a variable, unless it is a unit behind a space.
  Others: math-verify drops t, c, d, ... as units.
- small numbers: equal within 1e-5 of their size. Others: math-verify: all below
  2^-55 are equal.
- `\\ldots`: item by item. Others: math-verify drops it.
- GSM8K: a long block: its box is read, however long the block; unboxed text of
  256 characters at most. Others: d1: the first box of all the text.
- GSM8K: `60 km/h`, `$5/hour`, `12 quarters`, `12 m^2`, `5 times`: the number.
  Others: d1: the last number of the block.
- multiple choice: `b`, `**B**`, `Answer: B`, `B. Seven`: the letter, with its
  own option's text or none. Others: lm-eval: usually the first letter that is
  found.
- Countdown: `×` `÷` `−` `\\times` `\\frac{12}{4}`, a leading sign: operators.
  Others: d1: `\\times`, `\\div`, `\\cdot`; signs.
- Countdown: `3 + 4 = 7`: wrong: the prompt forbids it. Others: d1 drops what
  follows `=`.

Under `--rules d1` Countdown reads the last box, else the first answer block,
else the whole text, and of that the first equation's left side, as d1 does.

Which part of a completion of HumanEval or MBPP is its program:
[code_tasks.md](code_tasks.md).

| task | items | d1 rules | strict rules | only d1 right | only ours right |
|---|---|---|---|---|---|
"""


def reason(
  task_name: str, recording: recordings.Recording, ours_right: bool
) -> str:
  """Why an item is right by one of the rules only."""
  text = recordings.ENDS.split(recording.generation, maxsplit=1)[0]
  block = tags.extract_answer(text)
  if ours_right:
    if block is not None and latex.last_boxed(block) is None:
      return 'the answer is not boxed, and d1 then reads the whole text'
    if task_name == 'gsm8k':
      return 'd1 reads a number up to its thousands comma'
    return 'the same value in another form; d1 compares spellings'
  if block is None:
    where = 'in a box' if latex.last_boxed(text) is not None else 'in the text'
    return f'no closed answer block; d1 reads what it finds {where}'
  answer = latex.answer_text(block)
  if answer is None:
    return 'the box in the answer block is not closed'
  if not answer:
    return 'the box in the answer block is empty; d1 reads on behind it'
  if '=' in answer:
    return 'the answer holds an equals sign; d1 drops what follows it'
  return 'the answer block holds more than the answer, or another one'


def report(folder: pathlib.Path) -> str:
  """The whole of the document.

  Raises:
    errors.UserError: a file is missing or malformed.
  """
  rows, sections = [], []
  for task_name, file in FILES.items():
    recorded = recordings.read(folder / file, task_name)
    by = {
      r: recordings.evaluate(task_name, recorded, r) for r in recordings.RULES
    }
    groups: dict[tuple[bool, str], list[int]] = {}
    for i, (item, d1) in enumerate(
      zip(by['strict']['items'], by['d1']['items'], strict=True)
    ):
      if item['correct'] != d1['correct']:
        ours = bool(item['correct'])
        key = ours, reason(task_name, recorded[i], ours)
        groups.setdefault(key, []).append(i)
    count = [
      sum(len(g) for (ours, _), g in groups.items() if ours == side)
      for side in (False, True)
    ]
    share = lambda r: (
      f'{r["numerator"]}/{r["denominator"]} = {100 * r["accuracy"]:.2f}%'
    )
    rows.append(
      f'| {task_name} | {len(recorded)} | {share(by["d1"])} | '
      f'{share(by["strict"])} | {count[0]} | {count[1]} |\n'
    )
    sections.append(_section(task_name, file, groups))
    if task_name == 'sudoku':
      sections.append(_cells(recorded, by))
  note = '\nFor Sudoku d1 counts empty cells, our rules whole puzzles.\n'
  return _HEAD + ''.join(rows) + note + ''.join(sections)


def _cells(recorded: list[recordings.Recording], by: dict) -> str:
  """Sudoku's items whose number of right cells differs."""
  groups: dict[str, list[int]] = {}
  for i, (ours, d1) in enumerate(
    zip(by['strict']['items'], by['d1']['items'], strict=True)
  ):
    if ours['cells_right'] == d1['cells_right']:
      continue
    if ours['cells_right'] > d1['cells_right']:
      why = "the puzzle's other solutions count too"
    elif ours['parsed'] is None:
      why = 'not 16 digits 1-4 in a closed answer block; d1 pads and cuts'
    elif not sudoku.keeps_clues(recorded[i].row['puzzle'], ours['parsed']):
      why = 'a clue is changed, which costs all credit; d1 looks at no clue'
    else:
      why = 'd1 reads another grid'
    groups.setdefault(why, []).append(i)
  cells = {
    rule: sum(x['cells_right'] for x in by[rule]['items']) for rule in by
  }
  ours, d1 = cells['strict'], cells['d1']
  lines = [f'Right cells: {d1} by the d1 rules, {ours} by ours.\n\n']
  for why, items in sorted(groups.items()):
    lines.append(_wrap(f'Other cell counts ({len(items)}): {why}.', items))
  return '\n' + ''.join(lines)


def _section(
  task_name: str, file: str, groups: dict[tuple[bool, str], list[int]]
) -> str:
  lines = [f'\n## {task_name} (`{file}`)\n\n']
  if not groups:
    lines.append('No item is right by one of the rules only.\n')
  for (ours, why), items in sorted(groups.items()):
    side = 'ours' if ours else 'd1'
    lines.append(_wrap(f'Only {side} right ({len(items)}): {why}.', items))
  return ''.join(lines)


def _wrap(text: str, items: list[int]) -> str:
  text += f' Items: {", ".join(map(str, items))}.'
  return (
    textwrap.fill(text, 100, initial_indent='- ', subsequent_indent='  ') + '\n'
  )


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--recordings', type=pathlib.Path, required=True)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  try:
    args.out.write_text(report(args.recordings), encoding='utf-8')
  except (errors.UserError, OSError) as error:
    print(f'divergences: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
